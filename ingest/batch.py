"""Group commit: what arrives while one write is in flight travels together in the next. Pure queueing, no I/O."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ingest import refusal

Row: TypeAlias = tuple[object, ...]
ROWS_MAX = 1000
BYTES_MAX = 8 * 1024 * 1024  # one write of 25 MiB bodies by the dozen would hold up every small one behind it
BYTES_PER_SECOND = 8 * 1024 * 1024  # a batch may take a second longer for each 8 MiB
# A source may wait longer than others, but one try does not: a half-open connection is to be left within 5 s.
TRY_SECONDS = 4.0
PROBE_SECONDS = 1.0  # a lane that fails looks so often whether it would work again


class NotWritten(Exception):
    """The write failed, or its outcome is unknown; it may be tried again unchanged."""


class Refused(Exception):
    """The database refuses the data of at least one row; nothing of the batch is written."""


class AlreadyThere(Exception):
    """One of the ids exists."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A row, and who waits for it. `deadline` is in the event loop's time."""

    row: Row
    size: int
    deadline: float
    done: "asyncio.Future[None]"


Write: TypeAlias = Callable[[Sequence[Row], float], Awaitable[None]]


class Lane:
    """One queue, one write at a time.

    `write(rows, timeout)` returns when all rows are committed, or raises NotWritten, Refused or AlreadyThere.
    `failing` says why the last write failed.
    """

    def __init__(self, write: Write, *, timeout_seconds: float, probe_seconds: float = PROBE_SECONDS) -> None:
        self._write = write
        self._timeout_seconds = timeout_seconds
        self._probe_seconds = probe_seconds
        self._queue: deque[Waiting] = deque()
        self._in_flight: list[Waiting] = []
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.rows_written = 0
        self.batches_written = 0
        self.failing: str | None = None

    def put(self, row: Row, size: int, timeout_seconds: float | None = None) -> "asyncio.Future[None]":
        """Queue a row of about `size` bytes. The future ends when it is committed, or with a Refusal.

        `timeout_seconds`: how long whoever sent it waits, where that is not the lane's.
        """
        done = self._loop.create_future()
        self._queue.append(Waiting(row, size, self._loop.time() + (timeout_seconds or self._timeout_seconds), done))
        self._arrived.set()
        return done

    async def run(self) -> None:
        while True:
            await (self._arrived.wait() if self.failing is None else self._arrived_or_mended())
            self._arrived.clear()
            while batch := self._take():
                self._in_flight = batch
                await self._commit(batch)
                self._in_flight = []

    def expire(self) -> None:
        """Answer whoever waits longer than allowed. To be called several times a second."""
        now = self._loop.time()
        for waiting in (*self._in_flight, *self._queue):
            if waiting.deadline <= now and not waiting.done.done():
                waiting.done.set_exception(refusal.not_stored("the commit takes too long"))

    def __len__(self) -> int:
        return len(self._queue) + len(self._in_flight)

    async def _arrived_or_mended(self) -> None:
        """Nobody may send anything to a receiver that says it is not ready, so it finds out by itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._probe_seconds):
                await self._arrived.wait()
                return
        with contextlib.suppress(NotWritten, Refused):
            await self._write((), self._timeout_seconds)
            self.failing = None

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        size = 0
        while self._queue and len(batch) < ROWS_MAX and (not batch or size + self._queue[0].size <= BYTES_MAX):
            waiting = self._queue.popleft()
            if not waiting.done.done():  # else its time is over: it leaves before it is written
                batch.append(waiting)
                size += waiting.size
        for waiting in batch if size > BYTES_PER_SECOND // 8 else ():
            waiting.deadline += size / BYTES_PER_SECOND
        return batch

    async def _commit(self, batch: Sequence[Waiting]) -> None:
        tried = False
        deadline = max(waiting.deadline for waiting in batch)
        rows = [waiting.row for waiting in batch]
        longest = max(self._timeout_seconds, TRY_SECONDS) + sum(waiting.size for waiting in batch) / BYTES_PER_SECOND
        while (timeout := deadline - self._loop.time()) > 0:
            try:
                await self._write(rows, min(timeout, longest))
            except NotWritten as error:
                tried, self.failing = True, str(error)
            except AlreadyThere:
                # Ids are never used twice: of a batch sent again unchanged, the first sending was committed, whole.
                return self._accept(batch) if tried else await self._halve(batch)
            except Refused:
                return await self._halve(batch)
            else:
                return self._accept(batch)
        return self._refuse(batch, "the database is away" if tried else "the commit takes too long")

    async def _halve(self, batch: Sequence[Waiting]) -> None:
        if len(batch) == 1:
            self._refuse(batch, "PostgreSQL refuses this row")
            return
        middle = len(batch) // 2
        await self._commit(batch[:middle])
        await self._commit(batch[middle:])

    def _accept(self, batch: Sequence[Waiting]) -> None:
        self.failing = None
        self.rows_written += len(batch)
        self.batches_written += 1
        for waiting in batch:
            if not waiting.done.done():
                waiting.done.set_result(None)

    @staticmethod
    def _refuse(batch: Iterable[Waiting], why: str) -> None:
        for waiting in batch:
            if not waiting.done.done():
                waiting.done.set_exception(refusal.not_stored(why))
