"""What was refused at the edge waits here to be kept: never in the way of an answer, and within limits."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from chassis.database import Unavailable
from chassis.logs import get_logger
from ingest.batch import BYTES_PER_SECOND, Refused, Row

ROWS_MAX = 256  # forged requests come by the thousand: a sample of them will do
BYTES_MAX = 32 * 1024 * 1024  # one body of the largest size, and some
KEEP_SECONDS = 4.0  # and one more for each 8 MiB
AGAIN_SECONDS = 1.0  # after a failure: the database may be away
FULL_SECONDS = 10.0  # a source that has its rows is not asked about again for so long
FINISH_SECONDS = 2.0  # at the end

Outcome: TypeAlias = Literal["kept", "full", "dropped"]
Keep: TypeAlias = Callable[[Row, int, float], Awaitable[bool]]

log = get_logger()


class Keeping:
    """A queue for `keep(row, rows_max, timeout)`, one at a time. `outcomes` counts what became of them.

    `full`: its source has `rows_max` already; `dropped`: too much was waiting, or the database refused it.
    """

    def __init__(self, keep: Keep, rows_max: int) -> None:
        self._keep = keep
        self._rows_max = rows_max
        self._queue: asyncio.Queue[tuple[str, Row, int]] = asyncio.Queue(ROWS_MAX)
        self._bytes = 0
        self._full_until: dict[str, float] = {}
        self._loop = asyncio.get_running_loop()
        self._failing = False
        self.outcomes = Counter[Outcome]()

    def put(self, source: str, row: Row, size: int) -> None:
        """Have it kept, soon."""
        if not self._rows_max or self._full_until.get(source, 0) > self._loop.time():
            self.outcomes["full"] += 1
        elif self._queue.full() or self._bytes + size > BYTES_MAX:
            self.outcomes["dropped"] += 1
        else:
            self._bytes += size
            self._queue.put_nowait((source, row, size))

    async def run(self) -> None:
        while True:
            source, row, size = await self._queue.get()
            try:
                self.outcomes[await self._kept(source, row, size)] += 1
            finally:
                self._bytes -= size
                self._queue.task_done()

    async def _kept(self, source: str, row: Row, size: int) -> Outcome:
        """Tried again until the database answers."""
        while True:
            try:
                is_kept = await self._keep(row, self._rows_max, KEEP_SECONDS + size / BYTES_PER_SECOND)
            except Refused as error:
                log.error("refused.not_kept", source=source, reason=str(error))
                return "dropped"
            except Unavailable as error:
                if not self._failing:
                    log.warning("refused.waits", reason=str(error))
                self._failing = True
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            self._failing = False
            if is_kept:
                return "kept"
            self._full_until[source] = self._loop.time() + FULL_SECONDS
            return "full"

    async def finish(self) -> None:
        """Return once all that waits is kept, or after a short time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                await self._queue.join()
