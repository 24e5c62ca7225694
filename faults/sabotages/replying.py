"""Replies in the request, broken on purpose."""

import time
from typing import Any

from chassis.database import Unavailable
from faults.sabotage import sabotage
from hookd.replying import store
from hookd.replying.replier import Replier, born
from hookd.replying.store import UNKNOWN
from ingest.receiver import LARGE_LANE_BYTES
from processor.holding.claimed import Claimed
from processor.outcome import PROCESSED
from processor.settling.settler import Settler
from processor.waiter import Waiter


@sabotage
def reply_before_the_row() -> None:
    """A function that replies has run before its row is written."""

    async def reply(self: Replier, row: Any, size: int, timeout_seconds: float | None, until: float) -> Any:
        claimed = Claimed(born(row, UNKNOWN), time.monotonic() + self._lease_seconds, waiter=Waiter(until))
        self._born.append(claimed)
        self._arrived.set()
        answer = await self._answer(claimed, until)
        await self._lanes["large" if size > LARGE_LANE_BYTES else "small"].put(row, size, timeout_seconds)
        return answer

    Replier.reply = reply  # type: ignore[method-assign]


@sabotage
def born_without_a_lease() -> None:
    """A row that is replied to is held for no time at all."""
    lease = "now() + make_interval(secs => $12)"
    assert lease in store.BEAR
    store.BEAR = store.BEAR.replace(lease, "now() + 0 * make_interval(secs => $12)")


@sabotage
def settle_late_as_processed() -> None:
    """What could not be settled at once is settled as processed, whatever came of it."""
    settle = Settler.settle

    async def settle_late(self: Settler, lane: int = 0) -> int:
        try:
            return await settle(self, lane)
        except Unavailable:
            self._unsettled = [each._replace(outcome=PROCESSED) for each in self._unsettled]
            raise

    Settler.settle = settle_late  # type: ignore[method-assign]
