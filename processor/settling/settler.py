"""Settle: what has ended is written, a batch at a time, then counted and let go."""

import asyncio

from chassis.database import Unavailable
from chassis.logs import get_logger
from processor.chooser import Chooser
from processor.holding.claimed import Claimed
from processor.holding.holding import Holding
from processor.outcome import PROCESSED, Cut, Ending, Outcome, Saved, interrupted, unready
from processor.settings import ProcessorSettings
from processor.settling.store import Results, Settlement
from processor.settling.tally import Tally

ROWS_MAX = 1000
PAUSE_SECONDS = 1.0  # back soon after the database's return
UNSETTLED_MAX = 4000  # results that wait for the database before nothing more is started

log = get_logger()


class Settler:
    """Writes what it was given until its process ends. `bell`: rung when something may be due again."""

    def __init__(
        self,
        results: Results,
        holding: Holding,
        chooser: Chooser,
        tally: Tally,
        settings: ProcessorSettings,
        bell: asyncio.Event,
    ) -> None:
        self._results = results
        self._holding = holding
        self._chooser = chooser
        self._tally = tally
        self._records_all = settings.record_attempts == "all"
        self._poll_seconds = settings.poll_seconds
        self._bell = bell
        self._ended = asyncio.Event()
        self._unsettled: list[Settlement] = []
        self._settling = 0  # batches on their way

    def conclude(self, claimed: Claimed, ending: Ending | Cut | Saved) -> None:
        """Turn a run's end into what the settle writes, unless the run has settled itself, or lost the event."""
        if isinstance(ending, Ending) and not claimed.lost:
            if claimed.waiter is not None:
                claimed.waiter.tell(ending.answer)
            self.put(claimed, self._chooser.conclude(claimed, ending))
        elif ending == "saved":
            self._tally.settled([self.processed(claimed)])
            self._holding.let_go(claimed)
        elif claimed.lost:
            self._holding.drop(claimed)
        elif ending == "lost":
            log.warning("transaction.rolled_back", id=str(claimed.id), reason="the event is another's by now")
            self._holding.let_go(claimed)
        elif ending == "unknown":
            log.error(
                "commit.unknown", id=str(claimed.id), hint="unless it is committed, it runs again after its lease"
            )
            self._holding.let_go(claimed)
        elif ending == "unready":
            self.put(claimed, unready(claimed.row["claims"], claimed.row["attempts"]))
        else:
            self.put(claimed, interrupted(claimed.row["claims"]))

    def finish(self, claimed: Claimed, outcome: Outcome) -> None:
        """Settle it so, unless it was lost."""
        if claimed.lost:
            self._holding.drop(claimed)
        else:
            self.put(claimed, outcome)

    def put(self, claimed: Claimed, outcome: Outcome) -> None:
        """Settle it so."""
        if claimed.waiter is not None:
            claimed.waiter.tell(None)  # unless its answer was told
        noted = outcome.attempted and (self._records_all or outcome.status != "processed")
        self._unsettled.append(Settlement(claimed, outcome, noted, self._tally.folded(claimed.row["source"])))
        self._ended.set()

    def processed(self, claimed: Claimed) -> Settlement:
        """What is written, and counted, for one whose handler returned."""
        return Settlement(claimed, PROCESSED, self._records_all, self._tally.folded(claimed.row["source"]))

    async def settle(self, lane: int = 0) -> int:
        """Write what has ended, up to a batch; how many rows the fence let through."""
        batch, self._unsettled = self._unsettled[:ROWS_MAX], self._unsettled[ROWS_MAX:]
        self._settling += 1
        try:
            held = [each for each in batch if not each.claimed.lost]
            settled = await self._results.settle(held, lane) if held else set()
        except Unavailable:
            self._unsettled = batch + self._unsettled
            raise
        finally:
            self._settling -= 1
        self._holding.release([each.claimed for each in batch])
        self._tally.settled([each for each in held if each.claimed.id in settled])
        if not self.is_full:
            self._holding.freed.set()
        if any(each.outcome.status == "new" for each in batch):
            self._bell.set()  # due perhaps sooner than the claimer means to sleep
        return len(settled)

    async def keep_settling(self, lane: int) -> None:
        """Settle whenever something has ended; never returns."""
        while True:
            await self._ended.wait()
            self._ended.clear()
            while self._unsettled:
                try:
                    await self.settle(lane)
                except Unavailable as error:
                    log.error("settle.delayed", rows=self.waiting, reason=str(error))
                    await asyncio.sleep(min(self._poll_seconds, PAUSE_SECONDS))

    @property
    def waiting(self) -> int:
        """Results that are not on their way."""
        return len(self._unsettled)

    @property
    def is_full(self) -> bool:
        return self.waiting > UNSETTLED_MAX

    @property
    def is_busy(self) -> bool:
        """Whether there is something to write, or on its way."""
        return bool(self._unsettled or self._settling)
