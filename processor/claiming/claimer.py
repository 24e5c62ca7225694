"""Claim: what is due and fits is held, and handed to those who run it; when, and how much at once."""

import asyncio
import contextlib
import time
from datetime import datetime

from chassis.database import Unavailable
from chassis.logs import get_logger
from processor.claiming.pace import Pace
from processor.claiming.store import Queue, least_of, oldest_due
from processor.claiming.watermark import Since, Watermark
from processor.holding.claimed import Claimed
from processor.holding.holding import Holding
from processor.running.intake import Intake
from processor.running.runner import Runner
from processor.settings import ProcessorSettings
from processor.settling.settler import Settler

ROWS_MAX = 1000  # claims of 250 to 500 drain a third slower
CONNECTED_ROWS_MIN = 100  # may wait for a connection before they keep others from being claimed
REFILL_SHARE = 2  # claimed again when half of what may be held is left

log = get_logger()


class Claimer:
    """Takes what is due until the runner is told to stop; `ring` wakes it."""

    def __init__(
        self,
        queue: Queue,
        holding: Holding,
        intake: Intake,
        runner: Runner,
        settler: Settler,
        settings: ProcessorSettings,
        bell: asyncio.Event,
    ) -> None:
        self._queue = queue
        self._holding = holding
        self._intake = intake
        self._runner = runner
        self._settler = settler
        self._poll_seconds = settings.poll_seconds
        self._bell = bell
        self._pace = Pace(settings.concurrency, settings.lease_seconds / 3)
        self._connected_pace = Pace(CONNECTED_ROWS_MIN, settings.lease_seconds / 3)
        self._backlog = False  # the last claim brought all it may: there is more
        self._watermark = Watermark()
        self._since: Since | None = None  # from where on the first claimer last looked; None: at all there is
        self.claiming = 0  # rows that claims under way ask for
        self.due_until: datetime | None = None
        self.lag_seconds = 0.0
        self.exhausted = False  # the last claim looked at all there is, and found nothing due
        self.failure: Unavailable | None = None  # the last claim's

    def ring(self) -> None:
        """There may be something due."""
        self._bell.set()

    async def rung(self) -> None:
        """Return once something may be due."""
        await self._bell.wait()
        self._bell.clear()

    async def claim(self, lane: int = 0) -> int:
        """Hold what is due and fits, and hand it to the workers; how many rows that was."""
        workers, connected = self._runner.crews
        target = self._pace.rows(workers.started)
        workers.low_water = target // REFILL_SHARE
        connected.low_water = self._connected_pace.rows(connected.started)
        wanted = min(max(target - workers.queued - self.claiming, 1), ROWS_MAX)
        bytes_max = self._holding.room.free // (2 if self._backlog else 1)
        self.claiming += wanted
        try:
            claimed = await self._hold(wanted, bytes_max, lane)
            if claimed:
                await self._intake.put(claimed, lane)
        finally:
            self.claiming -= wanted
        if self._backlog:
            self._holding.freed.set()
        return len(claimed)

    async def _hold(self, rows_max: int, bytes_max: int, lane: int) -> list[Claimed]:
        since = self._watermark.begin()
        self._holding.room.take(bytes_max)
        try:
            claimed = await self._queue.claim(rows_max, bytes_max, self.due_until, time.monotonic, lane, since)
        except Unavailable:
            self._watermark.forget()
            raise
        finally:
            self._holding.room.give_back(bytes_max)
        if claimed and since is None:
            self._watermark.saw(oldest_due(claimed), least_of(claimed))
        if lane == 0:
            self._since = since
        self._backlog = len(claimed) == ROWS_MAX
        self.lag_seconds = max((each.row["waited_seconds"] for each in claimed), default=0.0)
        if claimed:
            self._holding.hold(claimed)
        return claimed

    async def keep_claiming(self) -> None:
        """Claim while there is something due and room for it; never returns."""
        while True:
            await self._until_room()
            self._bell.clear()
            wait = await self._claim_or_wait()
            if wait > 0:
                await self._rung_within(wait)

    async def keep_claiming_beside(self) -> None:
        """While there is a backlog, have a second claim under way beside the first; never returns.

        (PostgreSQL works on one while we read what the other brought: a twentieth more a second.)
        """
        while True:
            while not self._backlog or self._is_full():
                self._holding.freed.clear()
                await self._holding.freed.wait()
            try:
                await self.claim(lane=1)
            except Unavailable:
                self._backlog = False  # the first claimer finds out, and says so

    async def _until_room(self) -> None:
        while self._is_full():
            self._holding.freed.clear()
            await self._holding.freed.wait()

    def _is_full(self) -> bool:
        return (
            self._runner.stopping
            or any(crew.queued > crew.low_water for crew in self._runner.crews)
            or self._settler.is_full
            or not self._holding.room.free
        )

    async def _claim_or_wait(self) -> float:
        """Claim once; seconds to wait before the next time."""
        try:
            count = await self.claim()
            self.exhausted = not count and self._since is None
            wait = 0.0 if count else await self._seconds_until_due()
        except Unavailable as error:
            if self.failure is None:
                log.error("database.lost", reason=str(error))
            self.failure = error
            return self._poll_seconds
        if self.failure is not None:
            log.warning("database.back")
        self.failure = None
        return wait

    async def _seconds_until_due(self) -> float:
        """How long to sleep: by our own monotonic clock, for the schedule rings by the wall clock, which may be set."""
        if self._since is not None and self.due_until is not None:
            self._watermark.forget()  # a drain that is to end has nothing to wait for
            return 0.0
        longest = 5 * self._poll_seconds
        if self._since is not None:
            longest = min(longest, self._watermark.seconds_until_all)
        due = await self._queue.next_due(self._since, longest)
        if self._since is None:
            self._watermark.saw(due.oldest, due.least_id)
        # An overdue row that a claim did not take is locked by somebody: soon, not at once.
        return min(max(due.seconds, 0.05), longest) if due.seconds is not None else longest

    async def _rung_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()
