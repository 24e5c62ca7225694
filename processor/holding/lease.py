"""Leases, renewed from a thread with an event loop and a connection of its own, which no handler can starve.

(A handler that holds the GIL for longer than the lease loses it, and its late result matches no row.)
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from chassis.database import Database
from chassis.logs import get_logger
from processor.holding.claimed import Claimed
from processor.holding.store import Renewer

MISSES_MAX = 2  # one may be a settle on its way; after two the row is another's
ROWS_MAX = 1000

log = get_logger()


class Leases:
    """The rows this process holds. `lost` is called in the main event loop when some were lost, and are marked so."""

    def __init__(
        self, database: Database, *, lease_seconds: float, lost: Callable[[], None], name: str = "processor"
    ) -> None:
        self._database = database
        self._name = name
        self._lease_seconds = lease_seconds
        self._lost = lost
        self._held: dict[UUID, Claimed] = {}
        self._lock = threading.Lock()
        self._main = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hold(self, claimed: Sequence[Claimed]) -> None:
        with self._lock:
            # Claimed again by this very process: the first lease ran out, while the database was away.
            lost = [self._held[each.id] for each in claimed if each.id in self._held]
            self._held.update((each.id, each) for each in claimed)
        self._tell(lost)

    def let_go(self, claimed: Iterable[Claimed]) -> None:
        with self._lock:
            self._forget(claimed)

    def __len__(self) -> int:
        return len(self._held)

    def end(self) -> None:
        """Stop renewing. What is still held runs out by itself."""
        self._ended.set()

    def _run(self) -> None:
        asyncio.run(self._renew_until_ended())

    async def _renew_until_ended(self) -> None:
        renewer = Renewer(self._database, lease_seconds=self._lease_seconds, name=self._name)
        # Looked at more often than renewed: a lease is renewed when a third of it is over.
        while not self._ended.is_set():
            await asyncio.sleep(self._lease_seconds / 12)
            await self.renew(renewer)
        await renewer.close()

    async def renew(self, renewer: Renewer) -> int:
        """Renew every lease of which a third is over; returns how many were due."""
        with self._lock:
            horizon = time.monotonic() + self._lease_seconds * 2 / 3
            due = [each for each in self._held.values() if each.lease_until < horizon]
        for start in range(0, len(due), ROWS_MAX):
            await self._renew_some(renewer, due[start : start + ROWS_MAX])
        return len(due)

    async def _renew_some(self, renewer: Renewer, due: Sequence[Claimed]) -> None:
        lease_until = time.monotonic() + self._lease_seconds
        try:
            renewed = await renewer.renew(due)
        except Exception as error:  # noqa: BLE001 - were this thread to end unseen, every lease would
            log.warning("lease.unrenewed", rows=len(due), reason=str(error))
            self._give_up([each for each in due if each.lease_until < time.monotonic()])
            return
        for each in due:
            if each.id in renewed:
                each.lease_until, each.missed_renewals = lease_until, 0
            else:
                each.missed_renewals += 1
        self._give_up([each for each in due if each.missed_renewals >= MISSES_MAX])

    def _give_up(self, claimed: Sequence[Claimed]) -> None:
        with self._lock:
            lost = self._forget(claimed)
        self._tell(lost)

    def _forget(self, claimed: Iterable[Claimed]) -> list[Claimed]:
        held = [each for each in claimed if self._held.get(each.id) is each]
        for each in held:
            del self._held[each.id]
        return held

    def _tell(self, lost: Sequence[Claimed]) -> None:
        if lost:
            for each in lost:
                each.lost = True
            log.warning("lease.lost", rows=len(lost))
            self._main.call_soon_threadsafe(self._lost)
