"""hookd ingest: the receiver."""

import click
import uvloop

from chassis import sockets
from chassis.lifeline import Lifeline
from hookd.configuration import configure, database_of
from hookd.supervise import open_listeners, receivers, supervise
from ingest.server import serve

EPILOG = """\b
Examples:
  hookd ingest --port 8080
  hookd ingest --host 0.0.0.0 --workers 2
  curl -d '{"hello":"world"}' localhost:8080/demo
"""


@click.command(epilog=EPILOG)
@click.option("--host", help="Address to listen on [HOOKD_HOST].")
@click.option("--port", type=int, help="Port to listen on; 0: a free one [HOOKD_PORT].")
@click.option("--workers", type=int, help="Receiver processes [HOOKD_WORKERS].")
@click.option("--share-port", is_flag=True, default=None, help="Listen beside another hookd on the same port.")
@click.option("--listen-fd", type=int, hidden=True)
@click.option("--lifeline-fd", type=int, hidden=True)
@click.option("--slot", type=int, default=1, hidden=True)
def command(
    host: str | None,
    port: int | None,
    workers: int | None,
    share_port: bool | None,
    listen_fd: int | None,
    lifeline_fd: int | None,
    slot: int,
) -> int:
    """Run the receiver. POST {prefix}/<source> is answered 200 with an id once its row is committed.

    SIGTERM or Ctrl-C: open requests are served to their end. SIGHUP: workers are replaced one by one.
    """
    configuration = configure(host=host, port=port, workers=workers, share_port=share_port)
    sockets.raise_open_files_limit()
    try:
        listeners = [sockets.adopt(listen_fd)] if listen_fd is not None else open_listeners(configuration)
    except sockets.ListenError as error:
        raise click.ClickException(str(error)) from None
    if configuration.ingest.workers > 1 and listen_fd is None:
        with database_of(configuration.common):
            children = receivers(configuration, listeners)
            return supervise(children, configuration.common.grace_seconds, rolling=True)
    lifeline = Lifeline(lifeline_fd) if lifeline_fd is not None else None
    with database_of(configuration.common) as database:
        uvloop.run(serve(configuration.common, configuration.ingest, database, listeners, slot=slot, lifeline=lifeline))
    return 0
