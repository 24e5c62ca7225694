"""Senders that speak to a receiver in exact bytes, and what they are told."""

import asyncio
import contextlib
import itertools
import json
import socket
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from tests.waiting import PATIENCE_SECONDS

KIB, MIB = 1024, 1024 * 1024
Headers = Sequence[tuple[bytes, bytes]]


def head(target: str = "/demo", headers: Headers = (), *, method: str = "POST", version: str = "1.1") -> bytes:
    """A request's head."""
    lines = [f"{method} {target} HTTP/{version}".encode(), b"Host: hookd", *(b"%b: %b" % pair for pair in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(target: str = "/demo", body: bytes = b"{}", headers: Headers = (), *, version: str = "1.1") -> bytes:
    """A request with its length told in its head."""
    return head(target, (*headers, (b"Content-Length", b"%d" % len(body))), version=version) + body


def chunked(target: str, chunks: Sequence[bytes], headers: Headers = (), trailers: Headers = ()) -> bytes:
    """A request whose length is told by its last chunk."""
    parts = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    lines = b"".join(b"%b: %b\r\n" % pair for pair in trailers)
    return head(target, (*headers, (b"Transfer-Encoding", b"chunked"))) + parts + b"0\r\n" + lines + b"\r\n"


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` cut at these places, wherever they are."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[low:high] for low, high in itertools.pairwise(edges) if low < high]


def one_by_one(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


@dataclass(frozen=True)
class Answer:
    """What a sender is told."""

    version: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> UUID:
        assert self.status == 200, self
        return UUID(json.loads(self.body)["id"])

    @property
    def error(self) -> str:
        """The refusal's reason; every refusal has one, in JSON."""
        assert self.headers["content-type"] == "application/json", self
        said = json.loads(self.body)
        assert list(said) == ["error"], self
        reason: str = said["error"]
        assert reason
        return reason

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends with it."""
        kept = "keep-alive" if self.version == "HTTP/1.1" else "close"
        return self.headers.get("connection", kept).lower() == "close"


class Sender:
    """One connection to a receiver."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._loop = asyncio.get_running_loop()
        self._read = b""

    @classmethod
    async def to(cls, port: int, host: str = "127.0.0.1") -> "Sender":
        opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(opened, (host, port))
        except BaseException:
            opened.close()
            raise
        return cls(opened)

    async def send(self, *parts: bytes) -> None:
        """Send each part in a segment of its own, until the receiver hangs up: it may have said why."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                for part in parts:
                    await self._loop.sock_sendall(self._socket, part)
                    await asyncio.sleep(0)  # a receiver in this loop reads it now

    async def answer(self, *, to_head: bool = False) -> Answer:
        """The next answer. Raises EOFError where the receiver closes without one."""
        lines = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        length = 0 if to_head else int(headers.get("content-length", 0))
        while len(self._read) < length:
            await self._receive()
        body, self._read = self._read[:length], self._read[length:]
        version, status, *_ = lines[0].split(" ")
        return Answer(version, int(status), headers, body)

    async def until(self, end: bytes) -> bytes:
        """What comes up to `end`, and with it. Raises EOFError where the receiver closes before."""
        while end not in self._read:
            await self._receive()
        said, _, self._read = self._read.partition(end)
        return said + end

    async def rest(self) -> bytes:
        """All that comes until the receiver closes."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                await self._receive()
        rest, self._read = self._read, b""
        return rest

    async def _receive(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            received = await self._loop.sock_recv(self._socket, 64 * KIB)
        if not received:
            raise EOFError(f"closed after {self._read!r}")
        self._read += received

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Vanish, as a sender that crashed."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


class TLSSender(Sender):
    """The same over TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._read = b""

    @classmethod
    async def over(cls, tls: ssl.SSLContext, port: int) -> "TLSSender":
        async with asyncio.timeout(PATIENCE_SECONDS):
            return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls))

    @property
    def agreed(self) -> ssl.SSLObject:
        """What TLS knows of the connection."""
        found: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return found

    async def send(self, *parts: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                for part in parts:
                    self._writer.write(part)
                    await self._writer.drain()

    async def _receive(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            received = await self._reader.read(64 * KIB)
        if not received:
            raise EOFError(f"closed after {self._read!r}")
        self._read += received

    def close(self) -> None:
        self._writer.transport.abort()
