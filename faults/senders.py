"""Senders that speak in exact bytes, alone or as a crowd, and an nginx before the receiver."""

import asyncio
import json
import shutil
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from getpass import getuser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from rig.processes import free_port, running

CONFIGURATION = Path(__file__).parents[1] / "deploy" / "nginx" / "hookd.conf"
START_SECONDS_MAX = 30
AT_ONCE = 200  # connections that are opened together: a listener's queue holds 1,024
READ_BYTES = 64 * 1024


class Answer(NamedTuple):
    """`status` is 0 where the receiver closed without a word."""

    status: int
    body: bytes = b""

    @property
    def id(self) -> str:
        name: str = json.loads(self.body)["id"]
        return name


class Sender:
    """One connection to a receiver."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def to(cls, url: str) -> "Sender":
        parts = urlsplit(url)
        opened = socket.socket()
        opened.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(opened, (parts.hostname, parts.port))
        except BaseException:
            opened.close()
            raise
        return cls(opened)

    async def send(self, data: bytes) -> bool:
        """Whether all of it could be sent; the receiver may have hung up, and may have said why."""
        with suppress(ConnectionError):
            await self._loop.sock_sendall(self._socket, data)
            return True
        return False

    async def answer(self) -> Answer:
        """The next answer; what comes behind it is lost."""
        read = b""
        with suppress(ConnectionError):
            while not _is_whole(read) and (more := await self._loop.sock_recv(self._socket, READ_BYTES)):
                read += more
        head, _, body = read.partition(b"\r\n\r\n")
        return Answer(int(head.split()[1]), body) if head else Answer(0)

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer()

    async def tell(self, pieces: Iterable[bytes], pause_seconds: float = 0) -> Answer:
        """Send one piece after the other until there is an answer, or none left to send; then wait for it."""
        answer = asyncio.create_task(self.answer())
        try:
            for piece in pieces:
                if not await self.send(piece):
                    break
                await asyncio.wait([answer], timeout=pause_seconds)
                if answer.done():
                    break
            return await answer
        finally:
            answer.cancel()

    def leave(self) -> None:
        self._socket.close()

    def vanish(self) -> None:
        """Leave as one whose machine was reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def _is_whole(read: bytes) -> bool:
    head, end, body = read.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(end) and len(body) >= sum(lengths)


@asynccontextmanager
async def crowd(url: str, count: int) -> AsyncIterator[list[Sender]]:
    """So many senders, connected; gone at the end."""
    senders: list[Sender] = []
    try:
        while len(senders) < count:
            batch = min(AT_ONCE, count - len(senders))
            senders += await asyncio.gather(*(Sender.to(url) for _ in range(batch)))
        yield senders
    finally:
        for sender in senders:
            sender.leave()


def head(*headers: bytes, target: str = "/crowd", method: str = "POST") -> bytes:
    """A request's head, but for the empty line at its end."""
    return b"\r\n".join([f"{method} {target} HTTP/1.1".encode(), b"Host: hookd", *headers, b""])


def post(body: bytes, target: str = "/crowd", method: str = "POST") -> bytes:
    """A request whose length is told in its head."""
    return head(b"Content-Length: %d" % len(body), target=target, method=method) + b"\r\n" + body


def chunked(chunks: Sequence[bytes], target: str = "/crowd") -> bytes:
    """A request whose length is told by its last chunk."""
    body = b"".join(map(chunk, chunks))
    return head(b"Transfer-Encoding: chunked", target=target) + b"\r\n" + body + b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def statuses(answers: Iterable[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


def in_words(told: Counter[int]) -> str:
    """How many were told what."""
    return ", ".join(f"{count:,} {status or 'closed'}" for status, count in sorted(told.items()))


@asynccontextmanager
async def nginx(folder: Path, upstream: str) -> AsyncIterator[str]:
    """The URL of deploy/nginx/hookd.conf, without TLS, before that receiver. Raises RuntimeError without nginx."""
    if shutil.which("nginx") is None:
        raise RuntimeError("nginx is not installed, and this case is about it")
    port = free_port()
    (folder / "hookd.conf").write_text(_configured(port, urlsplit(upstream).netloc, folder))
    temporary = " ".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"user {getuser()}; pid nginx.pid; worker_processes 1; error_log stderr notice;\n"
        f"events {{}}\nhttp {{ {temporary} include hookd.conf; }}\n"
    )
    command = ("nginx", "-p", folder, "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;")
    async with running(folder, *command) as child:
        async with asyncio.timeout(START_SECONDS_MAX):
            while "start worker process" not in child.log.read_text():  # its sockets are open by then
                child.require_alive()
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"


def _configured(port: int, upstream: str, folder: Path) -> str:
    """The configuration, each line marked CHANGE changed or left out, and the log in `folder`."""
    text = CONFIGURATION.read_text()
    for theirs, ours in {
        "127.0.0.1:8080 max_fails=0;  # CHANGE": f"{upstream} max_fails=0;",
        "listen 443 ssl;       # CHANGE": f"listen 127.0.0.1:{port};",
        "hooks.example.com;  # CHANGE": "localhost;",
        "/var/log/nginx/": f"{folder}/",
    }.items():
        if theirs not in text:
            raise RuntimeError(f"{CONFIGURATION} has no {theirs!r} any more")
        text = text.replace(theirs, ours)
    return "\n".join(line for line in text.splitlines() if "# CHANGE" not in line)
