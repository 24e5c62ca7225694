"""From the claim to the workers: what is held is sifted, and handed to whoever runs it."""

from collections.abc import Sequence

from chassis.database import Unavailable
from processor.chooser import Chooser
from processor.holding.claimed import Claimed
from processor.holding.holding import Holding
from processor.outcome import gave_up, handed_back, unready
from processor.running.runner import Runner
from processor.running.suspects import Suspects
from processor.running.watchdog import Watchdog
from processor.settling.settler import Settler
from processor.sifting.sieve import Sieve

SUSPECT_ATTEMPTS = 3  # its holder died twice: from the third try on it runs alone


class Intake:
    """The way in for what was claimed, or born claimed."""

    def __init__(
        self,
        holding: Holding,
        sieve: Sieve,
        chooser: Chooser,
        runner: Runner,
        watchdog: Watchdog,
        suspects: Suspects,
        settler: Settler,
    ) -> None:
        self._holding = holding
        self._sieve = sieve
        self._chooser = chooser
        self._runner = runner
        self._watchdog = watchdog
        self._suspects = suspects
        self._settler = settler

    async def put(self, claimed: Sequence[Claimed], lane: int) -> None:
        """Settle what is sifted out, or out of its attempts; hand the rest to those who run it."""
        claimed = await self._sifted(claimed, lane)
        ordinary = [each for each in claimed if not self._is_special(each)]
        for special in claimed if len(ordinary) < len(claimed) else ():
            if self._chooser.is_used_up(special):
                self._settler.put(special, gave_up(special.row["attempts"], special.row["reason"]))
            elif self._is_special(special):
                self._suspects.put(special)
        self._runner.workers.put(ordinary)

    async def _sifted(self, claimed: Sequence[Claimed], lane: int) -> Sequence[Claimed]:
        """Those that a handler may see; the others are finished. Raises Unavailable: then all are handed back."""
        try:
            outcomes = {} if self._runner.stopping else await self._sieve.sift(claimed, lane)
        except Unavailable:
            for each in claimed:
                self._settler.put(each, unready(each.row["claims"], each.row["attempts"]))
            raise
        if not outcomes and not self._runner.stopping:
            return claimed
        rest = [each for each in claimed if each.id not in outcomes]
        for each in claimed:
            if each.id in outcomes:
                self._settler.put(each, outcomes[each.id])
            elif self._runner.stopping:
                self._settler.put(each, handed_back())
        return [] if self._runner.stopping else rest

    def _is_special(self, claimed: Claimed) -> bool:
        if self._chooser.is_used_up(claimed):
            return True
        row = claimed.row
        if row["attempts"] < SUSPECT_ATTEMPTS or not row["died"]:
            return False
        return self._chooser.outlook(claimed) is not None

    async def take(self, born: Sequence[Claimed]) -> None:
        """Hold what was held from its beginning, and put it in. Raises Unavailable: then all are handed back."""
        self._holding.hold(born)
        if not self._watchdog.stuck.is_set():
            await self.put(born, 0)
            return
        for each in born:
            self._settler.put(each, handed_back())

    def withdraw(self) -> None:
        """Hand back what has not been begun when its sender had to be answered. To be called several times a second."""
        late = self._runner.workers.withdraw(lambda claimed: claimed.waiter is not None and claimed.waiter.is_late)
        for each in late:
            self._settler.put(each, handed_back())
