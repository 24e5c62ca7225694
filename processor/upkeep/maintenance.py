"""Days made ahead, old days dropped, expired keys and refusals deleted: small steps that may fail, stopping nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

from chassis.database import DATA_ERRORS, Unavailable
from chassis.logs import get_logger
from processor.upkeep.store import Upkeep

EVERY_SECONDS = 600.0
DAYS_AHEAD = 14
KEYS_A_STEP = 1000
REFUSED_A_STEP = 200  # each has a body
TRIES = 20
PAUSE_SECONDS = 0.25  # between tries for a lock: whoever waits behind our DDL waits 100 ms at most, and seldom

T = TypeVar("T")

log = get_logger()


class Maintenance:
    """Idempotent; of many processors each step is done by one."""

    def __init__(
        self, store: Upkeep, *, retention_days: int, refused_hours: float = 24.0, pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        self._store = store
        self._retention_days = retention_days
        self._refused_for = timedelta(hours=refused_hours)
        self._pause_seconds = pause_seconds
        self._bell = asyncio.Event()

    def ring(self) -> None:
        self._bell.set()

    async def keep_up(self) -> None:
        """Run whenever rung; never returns."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            await self.run()

    async def run(self) -> None:
        """All steps once."""
        steps = (
            ("days", self.make_days),
            ("retention", self.drop_days),
            ("keys", self.forget_keys),
            ("refused", self.forget_refused),
        )
        for step, work in steps:
            try:
                detail = await work()
                if detail is not None:
                    await self._store.step_succeeded(step, detail)
            except (Unavailable, *DATA_ERRORS) as error:
                log.error("maintenance.failed", step=step, reason=str(error))

    async def make_days(self) -> str | None:
        """Today and the fourteen days that follow."""
        today = await self._store.today()
        there = set(await self._store.days())
        made = 0
        for day in (today + timedelta(days=n) for n in range(DAYS_AHEAD + 1)):
            if day not in there:
                if (added := await self._patiently(self._store.add_day, day)) is None:
                    log.warning("maintenance.blocked", step="days", day=day.isoformat())
                    return None
                made += added
        return f"{made} made"

    async def drop_days(self) -> str | None:
        """Days older than the retention, unless an event of theirs is still new."""
        oldest_kept = await self._store.today() - timedelta(days=self._retention_days)
        said: dict[str, list[str]] = {}
        for day in await self._store.days():
            if day < oldest_kept:
                outcome = await self._patiently(self._store.drop_day, day) or "blocked"
                said.setdefault(outcome, []).append(day.isoformat())
        if "blocked" in said:
            log.warning("maintenance.blocked", step="retention", days=",".join(said["blocked"]))
            return None
        return "; ".join(f"{outcome} {', '.join(days)}" for outcome, days in sorted(said.items())) or "nothing to drop"

    async def forget_keys(self) -> str | None:
        """Expired delivery keys."""
        return await self._forget("keys", partial(self._store.forget_deliveries, KEYS_A_STEP))

    async def forget_refused(self) -> str | None:
        """What was refused at the edge long ago."""
        return await self._forget("refused", partial(self._store.forget_refused, self._refused_for, REFUSED_A_STEP))

    async def _forget(self, step: str, work: Callable[[], Awaitable[int | None]]) -> str | None:
        """In small batches, until there is none."""
        forgotten = 0
        while count := await self._patiently(work):
            forgotten += count
        if count is None:
            log.warning("maintenance.blocked", step=step)
            return None
        return f"{forgotten} forgotten"

    async def _patiently(self, work: Callable[..., Awaitable[T | None]], *arguments: object) -> T | None:
        for _ in range(TRIES):
            if (outcome := await work(*arguments)) is not None:
                return outcome
            await asyncio.sleep(self._pause_seconds)
        return None
