"""The processor, broken on purpose."""

import asyncio
import sys
from typing import Any

from chassis.database import Unavailable
from faults.sabotage import sabotage
from processor.claiming import store as claiming
from processor.holding.lease import Leases
from processor.outcome import RETURNED, Outcome
from processor.running import intake, workers
from processor.running.watchdog import Watchdog
from processor.settling import store as settling
from processor.settling.settler import Settler


@sabotage
def no_fence() -> None:
    """A settle writes whatever it is told, whoever holds the row by now."""
    fence = " AND e.claims = r.claims AND e.status = 'new' AND e.held_by IS NOT NULL"
    assert fence in settling.SETTLE
    settling.SETTLE = settling.SETTLE.replace(fence, "")


@sabotage
def no_lease() -> None:
    """A claim holds its rows for no time at all."""
    lease = "due_at = now() + make_interval(secs => $3)"
    assert lease in claiming.CLAIM
    claiming.CLAIM = claiming.CLAIM.replace(lease, "due_at = now() + 0 * make_interval(secs => $3)")


@sabotage
def no_renewal() -> None:
    """No lease is ever renewed."""
    Leases.start = lambda self: None  # type: ignore[method-assign]


@sabotage
def no_skip_locked() -> None:
    """Two claims at the same moment take the same rows: what is due is looked up, and then taken if it is still new.

    (Taken whatever it is by then, some would be settled: that the table itself refuses, and the processor ends.)
    """
    for before, after in (
        ("FOR UPDATE SKIP LOCKED),\nfit", "),\nfit"),
        ("WHERE e.id = fit.id", "WHERE e.status = 'new' AND e.id = fit.id"),
    ):
        assert before in claiming.CLAIM
        claiming.CLAIM = claiming.CLAIM.replace(before, after)


@sabotage
def leave_the_dead() -> None:
    """What is held when its holder dies is never claimed again."""
    due = "WHERE status = 'new' AND due_at <="
    assert due in claiming.CLAIM
    claiming.CLAIM = claiming.CLAIM.replace(due, "WHERE held_by IS NULL AND status = 'new' AND due_at <=")


@sabotage
def no_attempts() -> None:
    """A claim does not count the attempt."""
    assert "attempts = e.attempts + 1" in claiming.CLAIM
    claiming.CLAIM = claiming.CLAIM.replace("attempts = e.attempts + 1", "attempts = greatest(e.attempts, 1)")


@sabotage
def no_suspects() -> None:
    """What killed its holder twice is run among its neighbours again."""
    intake.SUSPECT_ATTEMPTS = sys.maxsize


@sabotage
def process_without_handling() -> None:
    """What is claimed is settled as processed, and no handler is run."""

    async def run(
        self: Any, choice: Any, event: Any, claimed: Any, timeout_seconds: Any, transaction: Any = None
    ) -> Any:
        await asyncio.sleep(0)
        return RETURNED

    workers.Worker.run = run  # type: ignore[method-assign]


@sabotage
def drop_failed_settles() -> None:
    """A settle that failed is not tried again."""
    settle = Settler.settle

    async def once(self: Settler, lane: int = 0) -> int:
        waiting = list(self._unsettled)
        try:
            return await settle(self, lane)
        except Unavailable:
            self._unsettled = [each for each in self._unsettled if each not in waiting]
            return 0

    Settler.settle = once  # type: ignore[method-assign]


@sabotage
def ignore_timeouts() -> None:
    """No run is ever over its time."""
    workers.Workers.overdue = lambda self: []  # type: ignore[method-assign]


@sabotage
def never_stuck() -> None:
    """However many threads are stuck, the process goes on with what workers are left."""
    keep_watch = Watchdog.keep_watch

    async def keep(self: Watchdog) -> None:
        self._stuck_max = sys.maxsize
        await keep_watch(self)

    Watchdog.keep_watch = keep  # type: ignore[method-assign]


@sabotage
def forget_to_hand_back() -> None:
    """A processor that leaves keeps what it has not run to its end."""
    put = Settler.put

    def forget(self: Settler, claimed: Any, outcome: Outcome) -> None:
        if outcome.status != "new" or outcome.attempted:
            put(self, claimed, outcome)

    Settler.put = forget  # type: ignore[method-assign]


@sabotage
def count_what_is_handed_back() -> None:
    """What was handed back counts as an attempt."""
    put = Settler.put

    def count(self: Settler, claimed: Any, outcome: Outcome) -> None:
        put(self, claimed, outcome._replace(refund=0) if outcome.status == "new" else outcome)

    Settler.put = count  # type: ignore[method-assign]
