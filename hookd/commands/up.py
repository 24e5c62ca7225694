"""hookd up: everything on this machine."""

import shlex
import socket
import subprocess
from functools import partial
from pathlib import Path

import click

from chassis import sockets
from chassis.settings import data_folder
from chassis.supervisor import HOOKD, Child
from hookd import reload
from hookd.configuration import Configuration, configure, database_of
from hookd.options import app_option, tls_options
from hookd.replying.app import replies
from hookd.supervise import Rolling, identity_from, open_listeners, receivers, supervise

DEMO = "hookd.demo"

EPILOG = """\b
Examples:
  hookd up
  hookd up --app handlers.py --port 8000
  hookd up --app handlers.py --reload        (while you write them)
  HOOKD_DATABASE_URL=postgresql://me@db/app hookd up --host 0.0.0.0 --workers 2
"""


@click.command(epilog=EPILOG)
@click.option("--host", help="Address to listen on [HOOKD_HOST].")
@click.option("--port", type=int, help="Port to listen on; 0: a free one [HOOKD_PORT].")
@click.option("--workers", type=int, help="Receiver processes [HOOKD_WORKERS].")
@tls_options
@app_option
@click.option("--concurrency", type=int, help="Handlers that run at once [HOOKD_CONCURRENCY].")
@click.option(
    "--reload", "is_reload", is_flag=True, help="Development: take up each change of a Python file of the app."
)
def command(
    host: str | None,
    port: int | None,
    workers: int | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    app: str | None,
    concurrency: int | None,
    is_reload: bool,
) -> int:
    """Run everything on this machine: the database, unless HOOKD_DATABASE_URL names one, its migration, the receiver
    and the processor. Without an app each event is logged. A child that dies is started again.

    SIGTERM or Ctrl-C: open requests and running handlers may end, then all stop; a second one ends them at once.
    """
    configuration = configure(
        host=host, port=port, workers=workers, tls_cert=tls_cert, tls_key=tls_key, app=app, concurrency=concurrency
    )
    identity_from(configuration)
    rolling = rolling_by(configuration) if is_reload else None
    sockets.raise_open_files_limit()
    listeners = open_listeners(configuration)
    with database_of(configuration.common):
        migrated = subprocess.run((*HOOKD, "migrate"), check=False)
        if migrated.returncode != 0:
            return 1
        greet(configuration, listeners)
        children = [
            *receivers(configuration, listeners, replying(configuration, is_reload=is_reload), is_shared=is_reload),
            processor(configuration, is_reload=is_reload),
        ]
        program = reload.HOOKD if is_reload else None
        return supervise(children, configuration.common.grace_seconds, rolling=rolling, program=program)


def rolling_by(configuration: Configuration) -> Rolling:
    """What has the receivers take up the app's changes. Raises UsageError where there is none to be watched."""
    app = configuration.processor.app
    if app is None:
        raise click.UsageError(
            "--reload: there is nothing of yours to watch, name your handlers with --app or HOOKD_APP"
        )
    reload.require_watchfiles()
    return partial(reload.keep_rolling, app, reload.folders_of(app))


def replying(configuration: Configuration, *, is_reload: bool) -> str:
    """The app that receivers load: one that replies, or may come to. Its faults are the processor's to tell."""
    app = configuration.processor.app
    return app if app and (is_reload or replies(app, tells=False)) else ""


def processor(configuration: Configuration, *, is_reload: bool) -> Child:
    settings = configuration.processor
    words = ("processor", "--app", settings.app or DEMO, "--concurrency", str(settings.concurrency))
    return Child("processor", (*words, "--reload") if is_reload else words)


def greet(configuration: Configuration, listeners: list[socket.socket]) -> None:
    """Where to POST, and how to look."""
    common, certificate = configuration.common, configuration.ingest.tls_cert
    url = url_of(listeners[0], https=certificate is not None) + configuration.ingest.prefix
    trusting = f"--cacert {shlex.quote(str(certificate))} " if certificate else ""
    rows = "HOOKD_DATABASE_URL" if common.database_url else f"PostgreSQL in {data_folder(common.data_dir)}"
    app = configuration.processor.app or f"{DEMO}, which logs them: name your own with --app"
    click.echo(
        f"hookd takes webhooks at {url}/<source> and keeps them in {rows}\n"
        f"handlers: {app}\n\n"
        f'  curl {trusting}-d \'{{"hello":"world"}}\' {url}/demo\n'
        "  hookd status\n"
        "  hookd events\n\n"
        "Ctrl-C stops everything."
    )


def url_of(listener: socket.socket, *, https: bool) -> str:
    """One that works on this machine."""
    url = sockets.url_of(listener, https=https)
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
