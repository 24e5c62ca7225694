"""Children under a supervisor: the receiver's workers and their sockets, and the signals that end or replace them."""

import asyncio
import signal
import socket
from collections.abc import Sequence

import click

from chassis import sockets
from chassis.settings import environment
from chassis.supervisor import Child, Supervisor
from hookd.configuration import Configuration

HEARTBEAT_SECONDS = 10.0


def open_listeners(configuration: Configuration) -> list[socket.socket]:
    """systemd's sockets, or one for each worker. What is wrong with them becomes one line and exit code 1."""
    settings = configuration.ingest
    try:
        return sockets.inherited_listeners(environment()) or sockets.open_listeners(
            settings.host, settings.port, settings.workers, share_port=settings.share_port
        )
    except sockets.ListenError as error:
        raise click.ClickException(str(error)) from None


def receivers(configuration: Configuration, listeners: Sequence[socket.socket], app: str | None) -> list[Child]:
    """A child for each worker slot. Sockets from systemd may be fewer than slots; they are shared then.

    `app`: which they are told to load; "": none; None: what HOOKD_APP says.
    """
    told = () if app is None else ("--app", app)
    return [
        Child(
            f"receiver {slot}",
            ("ingest", "--workers", "1", "--slot", str(slot), *told),
            listener=listeners[(slot - 1) % len(listeners)],
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )
        for slot in range(1, configuration.ingest.workers + 1)
    ]


def supervise(children: Sequence[Child], grace_seconds: float, *, rolling: bool) -> int:
    """Keep the children alive until SIGTERM or SIGINT; a second one ends them at once. Returns the exit code.

    SIGHUP: `rolling`, the listening ones are replaced one by one; else it ends all, as a closed terminal should.
    """
    return asyncio.run(_supervise(children, grace_seconds, rolling=rolling))


async def _supervise(children: Sequence[Child], grace_seconds: float, *, rolling: bool) -> int:
    supervisor = Supervisor(children, grace_seconds=grace_seconds)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        supervisor.stop_now() if stop.is_set() else stop.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, end)
    if rolling:
        loop.add_signal_handler(signal.SIGHUP, supervisor.restart)
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it stays ignored
        loop.add_signal_handler(signal.SIGHUP, end)
    return await supervisor.run(stop)
