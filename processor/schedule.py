"""The bell: APScheduler says when to look. It rings, and does nothing else; who works keeps his own time too."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from processor.upkeep.maintenance import EVERY_SECONDS


class Schedule:
    """Rings `drain` every `poll_seconds` and `maintain` every ten minutes, both at once at the start."""

    def __init__(self, *, poll_seconds: float, drain: Callable[[], None], maintain: Callable[[], None]) -> None:
        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # else two lines for each ring
        # APScheduler goes by the wall clock and skips what is a second late: late rings are rung, and only once.
        self._scheduler = AsyncIOScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True})
        for ring, seconds in ((drain, poll_seconds), (maintain, EVERY_SECONDS)):
            self._scheduler.add_job(_in_loop, "interval", args=[ring], seconds=seconds, next_run_time=datetime.now(UTC))

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        self._scheduler.shutdown(wait=False)


async def _in_loop(ring: Callable[[], None]) -> None:
    # A plain function would be called in a thread.
    ring()
