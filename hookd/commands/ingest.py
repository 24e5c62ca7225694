"""hookd ingest: the receiver."""

import asyncio
import signal
import socket

import click
import uvloop

from chassis import sockets
from chassis.lifeline import Lifeline
from chassis.settings import environment
from chassis.supervisor import Child, Supervisor
from hookd.configuration import Configuration, configure, database_of
from ingest.server import serve

HEARTBEAT_SECONDS = 10.0

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
            return supervise(worker_children(configuration, listeners), configuration.common.grace_seconds)
    lifeline = Lifeline(lifeline_fd) if lifeline_fd is not None else None
    with database_of(configuration.common) as database:
        uvloop.run(serve(configuration.common, configuration.ingest, database, listeners, slot=slot, lifeline=lifeline))
    return 0


def open_listeners(configuration: Configuration) -> list[socket.socket]:
    settings = configuration.ingest
    inherited = sockets.inherited_listeners(environment())
    return inherited or sockets.open_listeners(
        settings.host, settings.port, settings.workers, share_port=settings.share_port
    )


def worker_children(configuration: Configuration, listeners: list[socket.socket]) -> list[Child]:
    """A child for each worker slot. Sockets from systemd may be fewer than slots; they are shared then."""
    count = configuration.ingest.workers
    return [
        Child(
            f"receiver {slot}",
            ("ingest", "--workers", "1", "--slot", str(slot)),
            listener=listeners[(slot - 1) % len(listeners)],
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )
        for slot in range(1, count + 1)
    ]


def supervise(children: list[Child], grace_seconds: float) -> int:
    return asyncio.run(_supervise(children, grace_seconds))


async def _supervise(children: list[Child], grace_seconds: float) -> int:
    supervisor = Supervisor(children, grace_seconds=grace_seconds)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        supervisor.stop_now() if stop.is_set() else stop.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, end)
    loop.add_signal_handler(signal.SIGHUP, supervisor.restart)
    return await supervisor.run(stop)
