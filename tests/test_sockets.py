"""Where hookd listens, who may share it, and what it says when it cannot."""

import asyncio
import errno
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from chassis.sockets import ListenError, PortTaken, adopt, inherited_listeners, open_listeners, url_of

FIRST_UNPRIVILEGED_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
ORDINARY_USER = 65534

SERVE_INHERITED = """
import os
from chassis.sockets import inherited_listeners
for listener in inherited_listeners(os.environ):
    listener.setblocking(True)
    connection, _ = listener.accept()
    connection.sendall(b"served by %d" % os.getpid())
"""


@contextmanager
def listening(
    host: str = "127.0.0.1", port: int = 0, count: int = 1, *, share_port: bool = False
) -> Iterator[list[socket.socket]]:
    with ExitStack() as opened:
        yield [opened.enter_context(each) for each in open_listeners(host, port, count, share_port=share_port)]


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


@contextmanager
def ordinary_user() -> Iterator[None]:
    was = os.geteuid()
    if was == 0:
        os.seteuid(ORDINARY_USER)
    try:
        yield
    finally:
        os.seteuid(was)


def test_where_it_listens_is_shown() -> None:
    """A URL's beginning for TCP, the path for a Unix socket of systemd's."""
    with listening() as [tcp], tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"{folder}/hookd")
        assert url_of(tcp) == f"http://127.0.0.1:{port_of(tcp)}"
        assert url_of(tcp, https=True) == f"https://127.0.0.1:{port_of(tcp)}"
        assert url_of(unix) == f"unix:{folder}/hookd"


def test_each_worker_has_a_listener_of_its_own_on_one_port() -> None:
    """Port 0 gives every worker the same port, chosen by the kernel."""
    with listening(count=4) as listeners:
        assert len({each.fileno() for each in listeners}) == 4
        assert len({port_of(each) for each in listeners}) == 1


def test_a_listener_is_handed_on_by_its_owner_alone() -> None:
    """A listener never blocks an event loop, and no child inherits one unasked."""
    with listening(count=2) as listeners:
        for each in listeners:
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            assert not each.getblocking()
            assert not each.get_inheritable()


async def test_the_kernel_spreads_connections_over_the_workers() -> None:
    """Of 64 connections each of two workers gets some."""
    with listening(count=2) as listeners, ExitStack() as clients:
        for _ in range(64):
            clients.enter_context(socket.create_connection(listeners[0].getsockname()))
        for each in listeners:
            accepted, _ = await asyncio.get_running_loop().sock_accept(each)
            accepted.close()


def test_a_port_that_another_hookd_serves_is_refused() -> None:
    """A second hookd on the same port is told so, and how to choose another port or to share this one."""
    with listening(count=2) as [first, _]:
        port = port_of(first)
        with pytest.raises(PortTaken) as refused:
            open_listeners("127.0.0.1", port, 2)
    assert f"port {port} on 127.0.0.1" in str(refused.value)
    assert "--port" in str(refused.value)
    assert "--share-port" in str(refused.value)


def test_of_many_that_start_at_once_one_at_most_has_the_port() -> None:
    """Eight hookds that start in the same instant never share a port unasked."""
    with listening() as [free]:
        port = port_of(free)
    together = threading.Barrier(8)

    def start() -> list[socket.socket]:
        together.wait()
        try:
            return open_listeners("127.0.0.1", port, 2)
        except PortTaken:
            return []

    with ThreadPoolExecutor(8) as pool:
        opened = [started.result() for started in [pool.submit(start) for _ in range(8)]]
    for each in itertools.chain(*opened):
        each.close()
    assert sum(map(bool, opened)) <= 1


def test_a_port_is_shared_with_another_hookd_when_asked() -> None:
    """With --share-port a second hookd joins the first."""
    with listening() as [first], listening(port=port_of(first), share_port=True) as [second]:
        assert port_of(second) == port_of(first)


def test_a_program_that_does_not_share_keeps_its_port() -> None:
    """With --share-port a program that does not share is still refused in one sentence."""
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(PortTaken, match="does not share"):
        open_listeners("127.0.0.1", port_of(other), 1, share_port=True)


def test_a_port_is_free_again_at_once() -> None:
    """A restart finds its port free although connections of the previous run linger in TIME_WAIT."""
    with listening() as [listener]:
        port = port_of(listener)
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        accepted.close()  # the side that closes first is the one that lingers
        client.close()
    with listening(port=port) as [again]:
        assert port_of(again) == port


def test_ipv6_addresses_are_served() -> None:
    """`--host ::1` listens on IPv6, with brackets or without."""
    for host in ("::1", "[::1]"):
        with listening(host, count=2) as [_, second]:
            socket.create_connection(("::1", port_of(second))).close()


def test_the_ipv6_wildcard_takes_ipv4_too() -> None:
    """`--host ::` is every address of the machine."""
    with listening("::") as [listener]:
        socket.create_connection(("::1", port_of(listener))).close()
        socket.create_connection(("127.0.0.1", port_of(listener))).close()


def test_localhost_is_reached_over_ipv4() -> None:
    """`--host localhost` is where a proxy's 127.0.0.1 finds it, whatever else the name resolves to."""
    with listening("localhost") as [listener]:
        assert listener.family == socket.AF_INET


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("no-such-host.invalid", 8080, "'no-such-host.invalid' does not resolve"),
        ("two..dots", 8080, "'two..dots' does not resolve"),
        ("", 8080, "'' does not resolve"),
        ("203.0.113.1", 8080, "203.0.113.1 is no address of this machine"),
        ("127.0.0.1", 65536, "65536 is not a port"),
        ("127.0.0.1", -1, "-1 is not a port"),
    ],
)
def test_what_cannot_be_listened_to_is_refused_in_one_sentence(host: str, port: int, says: str) -> None:
    """An address hookd cannot listen to is named, and so is the option that mends it."""
    with pytest.raises(ListenError) as refused:
        open_listeners(host, port, 2)
    assert says in str(refused.value)
    assert "--host" in str(refused.value) or "--port" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(
    not FIRST_UNPRIVILEGED_PORT.exists() or int(FIRST_UNPRIVILEGED_PORT.read_text()) <= 80,
    reason="here anybody may open port 80",
)
def test_a_privileged_port_is_refused_to_an_ordinary_user() -> None:
    """Port 80 without the right to it: one sentence that names a port from 1024 up, and systemd."""
    with ordinary_user(), pytest.raises(ListenError, match=r"may not open port 80 .* from 1024 up"):
        open_listeners("127.0.0.1", 80, 1)


def test_any_other_reason_is_said_in_the_kernels_words() -> None:
    """A process that has no file left to open says just that."""
    program = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))\n"
    program += "from chassis.sockets import ListenError, open_listeners\n"
    program += "try: open_listeners('127.0.0.1', 0, 16)\n"
    program += "except ListenError as error: print(error)\n"
    said = subprocess.run((sys.executable, "-P", "-c", program), capture_output=True, check=True, text=True)
    assert said.stdout == f"Cannot listen to port 0 on 127.0.0.1: {os.strerror(errno.EMFILE)}.\n"
    assert said.stderr == ""


def activated(listener: socket.socket, pid: str) -> subprocess.CompletedProcess[str]:
    """Starts a program as systemd does: the socket is file descriptor 3, the environment says for whom it is."""
    command = f'LISTEN_PID={pid} LISTEN_FDS=1 exec "$@" 3<&0'
    return subprocess.run(
        ("sh", "-c", command, "sh", sys.executable, "-P", "-c", SERVE_INHERITED),
        stdin=listener.fileno(),
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_systemd_hands_over_its_socket() -> None:
    """A connection made before hookd was started waits in systemd's socket and is served."""
    with listening() as [listener], socket.create_connection(listener.getsockname(), timeout=30) as client:
        activated(listener, pid="$$")
        assert client.recv(100).startswith(b"served by ")


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    """LISTEN_FDS inherited by accident, from a parent that was activated, opens nothing."""
    assert inherited_listeners({}) == []
    assert inherited_listeners({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []


def test_a_broken_activation_is_refused_in_one_sentence() -> None:
    """LISTEN_FDS that is no number is named."""
    with pytest.raises(ListenError, match="LISTEN_FDS is 'two'"):
        inherited_listeners({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "two"})


def test_a_worker_adopts_the_listener_it_was_handed() -> None:
    """A worker that closes its listener closes no queue: who keeps the socket still accepts what waits there."""
    with listening() as [kept]:
        handed = os.dup(kept.fileno())
        os.set_inheritable(handed, True)
        with adopt(handed) as adopted:
            assert port_of(adopted) == port_of(kept)
            assert not adopted.get_inheritable()
            client = socket.create_connection(kept.getsockname())
        with client:
            accepted, _ = kept.accept()
            accepted.close()


def test_only_a_listening_socket_is_adopted() -> None:
    """A file, a closed descriptor and a connected socket are each refused in one sentence."""
    with Path(os.devnull).open() as file, pytest.raises(ListenError, match=f"{file.fileno()} is not a socket"):
        adopt(file.fileno())
    with pytest.raises(ListenError, match="9999 is not a socket"):
        adopt(9999)
    one, other = socket.socketpair()
    with closing(other), pytest.raises(ListenError, match=f"{one.fileno()} does not listen"):
        adopt(one.detach())


def test_the_limit_of_open_files_is_raised() -> None:
    """A shell's soft limit of 64 open files bounds no receiver: it takes what the hard limit allows."""
    program = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512))\n"
    program += "from chassis.sockets import raise_open_files_limit\n"
    program += "print(raise_open_files_limit(), raise_open_files_limit())"
    said = subprocess.run((sys.executable, "-P", "-c", program), capture_output=True, check=True, text=True)
    assert said.stdout == "512 512\n"
