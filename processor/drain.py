"""Drain: claim → sift → run → settle → count. Its loops side by side, and their end."""

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator

from chassis.logs import get_logger
from processor.claiming.claimer import Claimer
from processor.holding.holding import Holding
from processor.links import LANES
from processor.outcome import handed_back
from processor.running.runner import Runner
from processor.running.suspects import Suspects
from processor.running.watchdog import Watchdog
from processor.settling.settler import Settler

log = get_logger()


class Drain:
    """Knows of all that is on its way from the claim to the settle."""

    def __init__(
        self,
        claimer: Claimer,
        runner: Runner,
        watchdog: Watchdog,
        suspects: Suspects,
        settler: Settler,
        holding: Holding,
    ) -> None:
        self._claimer = claimer
        self._runner = runner
        self._watchdog = watchdog
        self._suspects = suspects
        self._settler = settler
        self._holding = holding

    def loops(self, *, claims: bool) -> Iterator[Awaitable[None]]:
        """What goes on beside the workers, and never returns."""
        if claims:
            yield self._claimer.keep_claiming()
            yield self._claimer.keep_claiming_beside()
        for lane in LANES:
            yield self._settler.keep_settling(lane)
        yield self._watchdog.keep_watch()
        yield self._suspects.keep_trying()

    def lose(self) -> None:
        """Leases are gone: cut their runs off, drop their results."""
        self._runner.lose()
        self._suspects.lose()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held here."""
        return not (self._claimer.claiming or len(self._holding) or self._settler.is_busy) and self._runner.is_idle

    async def stop(self, grace_seconds: float, hurry: asyncio.Event) -> None:
        """Claim no more; give running handlers their grace (until `hurry`), hand the rest back, and settle."""
        self._runner.stopping = True
        for claimed in [*self._runner.take_back(), *self._suspects.take_back()]:
            self._settler.put(claimed, handed_back())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                while (self._runner.running or self._suspects.running) and not hurry.is_set():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        self._suspects.kill()
        self._runner.cut_off()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                while self._has_results_coming():  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
        if self._settler.is_busy:
            log.error("settle.abandoned", rows=self._settler.waiting, hint="these will be handled once more")

    def _has_results_coming(self) -> bool:
        return bool(
            self._claimer.claiming or self._settler.is_busy or self._suspects.running or self._runner.has_results_coming
        )
