"""A TCP proxy between hookd and PostgreSQL that can go half-open, reset, delay, or cut one direction."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

CHUNK_BYTES = 64 * 1024


class Proxy:
    """`url` leads through it. What it does may be changed at any time, for all connections together."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.connections = 0
        self.delay_seconds = 0.0  # of each chunk, in both directions
        self.to_server = _set()  # cleared: what comes is taken, and waits
        self.to_client = _set()
        self.swallow_answer_to: bytes | None = None  # one connection is cut as the server answers these bytes
        self.swallowed = 0
        self.rewrite = (b"", b"")  # the server is heard to say the second wherever it says the first

    def url(self, url: str) -> str:
        """The same database, through here."""
        parts = urlsplit(url)
        user = parts.username or "hookd"
        return f"postgresql://{user}@127.0.0.1:{self.port}{parts.path}?sslmode=disable"

    def half_open(self) -> None:
        """What is connected now hears nothing of the other side any more, and is not closed; new connections work."""
        self.to_server.clear()
        self.to_client.clear()
        self.to_server, self.to_client = _set(), _set()

    def heal(self) -> None:
        self.delay_seconds, self.swallow_answer_to = 0.0, None
        self.to_server.set()
        self.to_client.set()

    def reset(self) -> None:
        """RST to both ends of every connection."""
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def serve(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(client_writer)
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._target))
        except OSError:  # no server there
            client_writer.transport.abort()
            self._writers.discard(client_writer)
            return
        self._writers.add(writer)
        asked = asyncio.Event()
        pipes = [
            asyncio.create_task(self._pipe(client_reader, writer, self.to_server, asked, up=True)),
            asyncio.create_task(self._pipe(reader, client_writer, self.to_client, asked, up=False)),
        ]
        self._pipes.update(pipes)
        try:
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pipe in pipes:
                pipe.cancel()
            for each in (writer, client_writer):
                each.transport.abort()
                self._writers.discard(each)
            self._pipes.difference_update(pipes)

    async def _pipe(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        is_open: asyncio.Event,
        asked: asyncio.Event,
        *,
        up: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                if up and self.swallow_answer_to is not None and self.swallow_answer_to in chunk:
                    self.swallow_answer_to = None
                    asked.set()
                elif not up and asked.is_set():
                    self.swallowed += 1
                    return
                if not up and self.rewrite[0]:
                    chunk = chunk.replace(*self.rewrite)
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await is_open.wait()
                writer.write(chunk)
                await writer.drain()

    async def end(self) -> None:
        for pipe in list(self._pipes):
            pipe.cancel()
        self.reset()


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@asynccontextmanager
async def proxying(target: Path) -> AsyncIterator[Proxy]:
    """A proxy on loopback, in front of the server's socket."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()
