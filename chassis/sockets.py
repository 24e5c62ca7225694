"""Listening sockets, kept by the supervisor: a worker that dies takes no connection along that it had not accepted."""

import contextlib
import errno
import os
import resource
import socket
from collections.abc import Mapping
from typing import Any

SYSTEMD_FIRST_FD = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
OPEN_FILES_MAX = 1_048_576  # Linux's own fs.nr_open: some machines name a hard limit a thousand times higher


class ListenError(Exception):
    """hookd cannot listen there; its text is one sentence that says why, and what to do."""


class PortTaken(ListenError):
    """Somebody else serves this port."""


def open_listeners(
    host: str, port: int, count: int, *, share_port: bool = False, backlog: int = 1024
) -> list[socket.socket]:
    """One listening socket for each worker slot, all on the same port (one the kernel chooses, where `port` is 0).

    The kernel spreads new connections over them. The host `::` takes IPv4 too.
    """
    family, address = _resolve(host, port)
    with contextlib.ExitStack() as opened:
        try:
            first = opened.enter_context(_listen(family, address, backlog, share_port=share_port))
            # Only now: bound with it, an unrelated hookd would join in silence and be given half of the events.
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            others = [
                opened.enter_context(_listen(family, first.getsockname(), backlog, share_port=True))
                for _ in range(count - 1)
            ]
        except OSError as error:
            raise _explained(error, host, port, share_port=share_port) from error
        opened.pop_all()
    return [first, *others]


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    if not 0 <= port <= 65535:
        raise ListenError(f"{port} is not a port: choose one from 1 to 65535 with --port.")
    bare = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"The host {host!r} does not resolve: name one of this machine with --host.") from error
    # localhost is both ::1 and 127.0.0.1: senders and proxies that take one of them only take the latter.
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, address


def _listen(family: socket.AddressFamily, address: tuple[Any, ...], backlog: int, *, share_port: bool) -> socket.socket:
    with contextlib.ExitStack() as undo:
        listener = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(backlog)
        undo.pop_all()
    return listener


def _explained(error: OSError, host: str, port: int, *, share_port: bool) -> ListenError:
    where = f"port {port} on {host}"
    match error.errno:
        case errno.EADDRINUSE if share_port:
            return PortTaken(f"A program that does not share serves {where}: choose another --port.")
        case errno.EADDRINUSE:
            return PortTaken(
                f"Another program serves {where}: choose another --port, or join another hookd there with --share-port."
            )
        case errno.EADDRNOTAVAIL:
            return ListenError(f"{host} is no address of this machine: name one of its own, or 0.0.0.0, with --host.")
        case errno.EACCES | errno.EPERM:
            return ListenError(f"This user may not open {where}: choose a --port from 1024 up, or let systemd open it.")
    return ListenError(f"Cannot listen to {where}: {error.strerror}.")


def inherited_listeners(environ: Mapping[str, str]) -> list[socket.socket]:
    """The sockets systemd opened for this very process (socket activation); none when it was started otherwise."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environ.get("LISTEN_FDS", "")
    if not count.isdecimal():
        raise ListenError(f"LISTEN_FDS is {count!r}: expected the number of sockets that systemd opened.")
    return [adopt(fd) for fd in range(SYSTEMD_FIRST_FD, SYSTEMD_FIRST_FD + int(count))]


def adopt(fd: int) -> socket.socket:
    """The listening socket that whoever started this process handed it; closing it closes no connection that waits."""
    with contextlib.ExitStack() as undo:
        try:
            listener = undo.enter_context(socket.socket(fileno=fd))
            listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ListenError(f"File descriptor {fd} is not a socket: {error.strerror}.") from error
        if not listens:
            raise ListenError(f"File descriptor {fd} does not listen (systemd wants ListenStream= and Accept=no).")
        # Whatever this process starts would else keep the queue open after us, and accept nothing.
        listener.set_inheritable(False)
        listener.setblocking(False)
        undo.pop_all()
    return listener


def url_of(listener: socket.socket, *, https: bool = False) -> str:
    """Where it listens, as the beginning of a URL."""
    address = listener.getsockname()
    if not isinstance(address, tuple):
        return f"unix:{os.fsdecode(address)}"  # systemd's, for a proxy on this machine
    host, port = address[:2]
    return f"http{'s' if https else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def raise_open_files_limit() -> int:
    """Raises the limit of open files as far as this user may: each connection is one. Returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
