"""hookd ingest: the receiver."""

import os
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
import uvloop

from chassis import sockets
from chassis.database import Database
from chassis.lifeline import Lifeline
from chassis.tls import Identity
from hookd.configuration import Configuration, configure, database_of
from hookd.options import joined, tls_options
from hookd.replying.app import replies
from hookd.supervise import has_identity, identity_from, open_listeners, receivers, supervise

if TYPE_CHECKING:
    from ingest.replying import Make
    from processor.handling.dispatch import Dispatch

EPILOG = """\b
Examples:
  hookd ingest --port 8080
  hookd ingest --host 0.0.0.0 --workers 2
  hookd ingest --app handlers.py        (answers by those of its handlers that have reply=True)
  hookd ingest --tls-cert hookd-cert.pem --tls-key hookd-key.pem     (hookd certificate makes both)
  curl -d '{"hello":"world"}' localhost:8080/demo
"""


@click.command(epilog=EPILOG)
@click.option("--host", help="Address to listen on [HOOKD_HOST].")
@click.option("--port", type=int, help="Port to listen on; 0: a free one [HOOKD_PORT].")
@click.option("--workers", type=int, help="Receiver processes [HOOKD_WORKERS].")
@click.option(
    "--app", multiple=True, callback=joined,
    help="Handlers, of which those with reply=True answer in the request; repeatable [HOOKD_APP].",
)  # fmt: skip
@click.option("--share-port", is_flag=True, default=None, help="Listen beside another hookd on the same port.")
@tls_options
@click.option("--listen-fd", type=int, hidden=True)
@click.option("--lifeline-fd", type=int, hidden=True)
@click.option("--slot", type=int, default=1, hidden=True)
@click.option("--shared-app", is_flag=True, hidden=True)
def command(
    host: str | None,
    port: int | None,
    workers: int | None,
    app: str | None,
    share_port: bool | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    listen_fd: int | None,
    lifeline_fd: int | None,
    slot: int,
    shared_app: bool,
) -> int:
    """Run the receiver. POST {prefix}/<source> is answered 200 with an id once its row is committed.

    With an app that replies, requests of its sources are answered by their handlers, once the row is committed. One
    with faults is refused; named by HOOKD_APP alone it is told in the log, and all is stored as without it.

    SIGTERM or Ctrl-C: open requests are served to their end. SIGHUP: workers are replaced one by one; a single one
    reads certificate and key again.
    """
    configuration = configure(
        host=host, port=port, workers=workers, app=app, share_port=share_port, tls_cert=tls_cert, tls_key=tls_key
    )
    identity = identity_from(configuration)
    sockets.raise_open_files_limit()
    listeners = open_listeners(configuration) if listen_fd is None else adopted(listen_fd)
    if configuration.ingest.workers > 1 and listen_fd is None:
        return supervise_receivers(configuration, listeners, app)
    dispatch = replying_app(None if shared_app else app, configuration.processor.app, tells=not shared_app)
    lifeline = Lifeline(lifeline_fd, os.getppid()) if lifeline_fd is not None else None
    receive(configuration, listeners, identity, dispatch, slot, lifeline)
    if dispatch is not None:
        leave()
    return 0


def adopted(listen_fd: int) -> list[socket.socket]:
    """The socket that a supervisor handed down. One that is none becomes one line and exit code 1."""
    try:
        return [sockets.adopt(listen_fd)]
    except sockets.ListenError as error:
        raise click.ClickException(str(error)) from None


def supervise_receivers(configuration: Configuration, listeners: Sequence[socket.socket], app: str | None) -> int:
    """A worker for each slot, until told to end; the exit code."""
    with database_of(configuration.common):
        children = receivers(configuration, listeners, app)
        may_roll = partial(has_identity, configuration)
        return supervise(children, configuration.common.grace_seconds, may_roll=may_roll)


def receive(
    configuration: Configuration,
    listeners: Sequence[socket.socket],
    identity: Identity | None,
    dispatch: "Dispatch | None",
    slot: int,
    lifeline: Lifeline | None,
) -> None:
    """Be a receiver, until told to end."""
    # A third of the imports, of which a supervisor of workers has no use.
    from ingest.connection import OtherParser  # noqa: PLC0415
    from ingest.server import serve  # noqa: PLC0415

    with database_of(configuration.common) as database:
        replying = None if dispatch is None else replying_by(configuration, database, dispatch, slot)
        try:
            uvloop.run(
                serve(
                    configuration.common, configuration.ingest, database, listeners,
                    identity=identity, slot=slot, lifeline=lifeline, make_replying=replying,
                )
            )  # fmt: skip
        except OtherParser as error:
            raise click.ClickException(str(error)) from None


def leave() -> NoReturn:
    """Without waiting for threads: a handler that hangs in one cannot be cancelled."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def replying_app(asked: str | None, app: str | None, *, tells: bool) -> "Dispatch | None":
    """The app's handlers, if one of them replies; `asked`: as the command line names it.

    What is wrong with one that was asked for becomes a few lines and exit code 2. One of HOOKD_APP, which a processor
    may share, is none of a receiver's business then; whether it `tells` the log.
    """
    if not app or (asked is None and not replies(app, tells=tells)):
        return None
    from hookd.apps import loaded  # noqa: PLC0415 - a receiver that replies to nobody needs none

    dispatch = loaded(app)
    return dispatch if dispatch.has_replies else None


def replying_by(configuration: Configuration, database: Database, dispatch: "Dispatch", slot: int) -> "Make":
    """How to make who replies, with the rights that it needs."""
    from hookd.replying.replier import Replier  # noqa: PLC0415 - as above

    url = configuration.ingest.reply_database_url
    if url is not None:
        database = Database(url.get_secret_value(), allow_unsafe=configuration.common.allow_unsafe)
    return partial(Replier, configuration, database, dispatch, slot)
