"""The least of HTTP that a benchmark needs beside wrk: a POST, and the id in its answer."""

import asyncio
import re

from rig import sample
from rig.processes import BenchmarkError, Child

REQUEST = (
    f"POST /{sample.SOURCE} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: shop/1.0\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(sample.BODY)}\r\n\r\n"
).encode() + sample.BODY
STORED = re.compile(rb'^HTTP/1\.1 200 .*\r\n\r\n\{"id": ?"([0-9a-f-]{36})"\}$', re.DOTALL)
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ANSWER_BYTES_MAX = 65536
READY_SECONDS_MAX = 60
RETRY_SECONDS = 0.05


class Sender:
    """One connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> "Sender":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self) -> str:
        """The id that was answered. Raises BenchmarkError for any other answer."""
        self._writer.write(REQUEST)
        answer = await self._answer()
        if (stored := STORED.match(answer)) is None:
            raise BenchmarkError(f"answered {answer[:200]!r}")
        return stored[1].decode()

    async def _answer(self) -> bytes:
        """Head and body, in however many pieces they come."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            return head + await self._reader.readexactly(int(length[1]) if length else 0)
        except asyncio.IncompleteReadError as error:
            raise BenchmarkError(f"answered {error.partial[:200]!r}, and closed") from None

    def close(self) -> None:
        self._writer.close()


async def first_answer(port: int, child: Child) -> str:
    """The id of the first POST that the program stored: it is ready then."""
    async with asyncio.timeout(READY_SECONDS_MAX):
        while True:
            child.require_alive()
            try:
                sender = await Sender.connect(port)
            except ConnectionError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            try:
                return await sender.post()
            except (ConnectionError, BenchmarkError):
                await asyncio.sleep(RETRY_SECONDS)
            finally:
                sender.close()
