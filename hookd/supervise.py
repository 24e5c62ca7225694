"""Children under a supervisor: the receiver's workers and their sockets, and the signals that end or replace them."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import click

from chassis import sockets
from chassis.logs import get_logger
from chassis.process import hear
from chassis.settings import environment
from chassis.supervisor import Child, Supervisor
from chassis.tls import Identity, TLSError, identity_of
from hookd.configuration import Configuration, WrongSettings

HEARTBEAT_SECONDS = 10.0

# Given how to have them rolled, and what is set at the end.
Rolling: TypeAlias = Callable[[Callable[[], None], asyncio.Event], Coroutine[Any, Any, None]]

log = get_logger()


def identity_from(configuration: Configuration) -> Identity | None:
    """Certificate and key, where TLS is asked for. What is wrong with them becomes one line and exit code 2."""
    settings = configuration.ingest
    try:
        return identity_of(settings.tls_cert, settings.tls_key)
    except TLSError as error:
        raise WrongSettings(str(error)) from None


def has_identity(configuration: Configuration) -> bool:
    """Whether new workers could use certificate and key as they are now; the log says why they could not."""
    try:
        identity_from(configuration)
    except WrongSettings as error:
        log.error("restart.refused", reason=error.message, hint="the workers go on with the certificate they have")
        return False
    return True


def open_listeners(configuration: Configuration) -> list[socket.socket]:
    """systemd's sockets, or one for each worker. What is wrong with them becomes one line and exit code 1."""
    settings = configuration.ingest
    try:
        return sockets.inherited_listeners(environment()) or sockets.open_listeners(
            settings.host, settings.port, settings.workers, share_port=settings.share_port
        )
    except sockets.ListenError as error:
        raise click.ClickException(str(error)) from None


def receivers(
    configuration: Configuration, listeners: Sequence[socket.socket], app: str | None, *, is_shared: bool = False
) -> list[Child]:
    """A child for each worker slot. Sockets from systemd may be fewer than slots; they are shared then.

    `app`: which they are told to load; "": none; None: what HOOKD_APP says. `is_shared`: only if it replies then, and
    whatever is wrong with it is the processor's to tell.
    """
    certificate, key = configuration.ingest.tls_cert, configuration.ingest.tls_key
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key)) if certificate else ()
    told = (*tls, *(() if app is None else ("--app", app)), *(("--shared-app",) if is_shared else ()))
    return [
        Child(
            f"receiver {slot}",
            ("ingest", "--workers", "1", "--slot", str(slot), *told),
            listener=listeners[(slot - 1) % len(listeners)],
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )
        for slot in range(1, configuration.ingest.workers + 1)
    ]


def supervise(
    children: Sequence[Child],
    grace_seconds: float,
    *,
    may_roll: Callable[[], bool] | None = None,
    rolling: Rolling | None = None,
    program: Sequence[str] | None = None,
) -> int:
    """Keep the children alive until SIGTERM or SIGINT; a second one ends them at once. Returns the exit code.

    SIGHUP: the listening ones are replaced one by one, if `may_roll` says so then; without it, it ends all, as a closed
    terminal should. `rolling` may have them replaced at any other time.
    """
    return asyncio.run(
        _supervise(Supervisor(children, grace_seconds=grace_seconds, program=program), may_roll, rolling)
    )


async def _supervise(supervisor: Supervisor, may_roll: Callable[[], bool] | None, rolling: Rolling | None) -> int:
    stop = asyncio.Event()

    def end() -> None:
        supervisor.stop_now() if stop.is_set() else stop.set()

    def roll() -> None:
        if may_roll is not None and may_roll():
            supervisor.restart()

    hear(end, roll if may_roll is not None else None)
    async with asyncio.TaskGroup() as group:
        if rolling is not None:
            group.create_task(rolling(supervisor.restart, stop))
        return await supervisor.run(stop)
