"""Drain: claim → sift → run → settle → count. (A run with a transaction of its own settles in it.)"""

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from datetime import datetime

from chassis.database import Unavailable
from chassis.logs import get_logger
from processor.chooser import Chooser
from processor.claiming.store import oldest_due
from processor.claiming.watermark import Watermark
from processor.effects.store import Seal, Transaction, Transactions
from processor.handling.dispatch import Choice, Undecided
from processor.handling.event import Event
from processor.holding.claimed import Claimed
from processor.holding.lease import Leases
from processor.holding.room import Room
from processor.outcome import PROCESSED, Cut, Ending, Outcome, Saved, gave_up, handed_back, rejected
from processor.running.suspects import Suspects
from processor.running.workers import Worker, Workers
from processor.settings import ProcessorSettings
from processor.settling.store import Settlement
from processor.settling.tally import Tally
from processor.sifting.sieve import Sieve
from processor.store import Store

CLAIM_ROWS_MAX = 1000  # claims of 250 to 500 drain a third slower
HELD_ROWS_MAX = 4000  # a claim is under way while the workers have this much less to do
CONNECTED_ROWS_MIN = 100  # may wait for a connection before they keep others from being claimed
REFILL_SHARE = 2  # claimed again when half of what may be held is left
SETTLE_ROWS_MAX = 1000
SETTLE_PAUSE_SECONDS = 1.0  # back soon after the database's return
UNSETTLED_MAX = 4000  # results that wait for the database before nothing more is started
SUSPECT_ATTEMPTS = 3  # its holder died twice: from the third try on it runs alone
WATCH_SECONDS = 0.1
UNREADY_SECONDS = 1.0  # until a row is tried again that could not be made ready

log = get_logger()


class Drain:
    """Takes what is due until told to stop; `ring` wakes it."""

    def __init__(
        self,
        store: Store,
        leases: Leases,
        chooser: Chooser,
        suspects: Suspects,
        tally: Tally,
        settings: ProcessorSettings,
        sieve: Sieve,
        transactions: Transactions,
    ) -> None:
        self._store = store
        self._leases = leases
        self._chooser = chooser
        self._suspects = suspects
        self._tally = tally
        self._settings = settings
        self._sieve = sieve
        self._transactions = transactions
        self._records_all = settings.record_attempts == "all"
        self._room = asyncio.Event()
        self.workers = Workers(settings.concurrency, self._perform, self._room.set)
        # Apart, so that whoever waits for a connection keeps no worker from those who need none.
        self.connected = Workers(settings.handler_connections, self._perform_connected, self._room.set)
        self.crews = (self.workers, self.connected)
        self._bell = asyncio.Event()
        self._ended = asyncio.Event()
        self._unsettled: list[Settlement] = []
        self._settling = 0  # batches on their way
        # Two rooms: rows that wait for a worker must not keep the body out that their worker waits for.
        self._claim_room = Room(settings.held_bytes_max // 2)
        self._fetch_room = Room(settings.held_bytes_max // 2)
        self._preparing: set[Claimed] = set()  # their bodies are fetched, their transactions begun
        self._ending = 0  # transactions
        self._unconnected = False  # the last transaction could not be begun
        self._claiming = 0  # rows that claims under way ask for
        self._backlog = False  # the last claim brought all it may: there is more
        self._watermark = Watermark()
        self._since: datetime | None = None  # from where on the first claimer last looked; None: at all there is
        self._pace = Pace(settings.concurrency, settings.lease_seconds / 3)
        self._connected_pace = Pace(CONNECTED_ROWS_MIN, settings.lease_seconds / 3)
        self.stopping = False
        self.due_until: datetime | None = None
        self.lag_seconds = 0.0
        self.exhausted = False  # the last claim looked at all there is, and found nothing due
        self.failure: Unavailable | None = None  # the last claim's
        self.stuck = asyncio.Event()
        self._stuck_max = min(settings.stuck_threads_max, settings.concurrency)  # all are stuck, if not too many

    def ring(self) -> None:
        """There may be something due."""
        self._bell.set()

    async def claim(self, lane: int = 0) -> int:
        """Hold what is due and fits, and hand it to the workers; how many rows that was."""
        target = self._pace.rows(self.workers.started)
        self.workers.low_water = target // REFILL_SHARE
        self.connected.low_water = self._connected_pace.rows(self.connected.started)
        wanted = min(max(target - self.workers.queued - self._claiming, 1), CLAIM_ROWS_MAX)
        bytes_max = self._claim_room.free // (2 if self._backlog else 1)
        self._claiming += wanted
        try:
            claimed = await self._hold(wanted, bytes_max, lane)
            if claimed:
                await self._hand_out(claimed, lane)
        finally:
            self._claiming -= wanted
        if self._backlog:
            self._room.set()
        return len(claimed)

    async def take(self, born: Sequence[Claimed]) -> None:
        """Hand to the workers what was held from its beginning. Raises Unavailable: then all are handed back."""
        self._leases.hold(born)
        self._claim_room.take(sum(map(_inline_bytes, born)))
        if not self.stuck.is_set():
            await self._hand_out(born, 0)
            return
        for each in born:
            self._finish(each, handed_back(each.row["claims"]))

    def withdraw(self) -> None:
        """Hand back what has not been begun when its sender had to be answered. To be called several times a second."""
        for each in self.workers.withdraw(lambda claimed: claimed.waiter is not None and claimed.waiter.is_late):
            self._finish(each, handed_back(each.row["claims"]))

    async def _hold(self, rows_max: int, bytes_max: int, lane: int) -> list[Claimed]:
        since = self._watermark.begin()
        self._claim_room.take(bytes_max)
        try:
            claimed = await self._store.queue.claim(rows_max, bytes_max, self.due_until, time.monotonic, lane, since)
        except Unavailable:
            self._watermark.forget()
            raise
        finally:
            self._claim_room.give_back(bytes_max)
        if claimed and since is None:
            self._watermark.saw(oldest_due(claimed))
        if lane == 0:
            self._since = since
        self._backlog = len(claimed) == CLAIM_ROWS_MAX
        self.lag_seconds = max((each.row["waited_seconds"] for each in claimed), default=0.0)
        if claimed:
            self._leases.hold(claimed)
            self._claim_room.take(sum(map(_inline_bytes, claimed)))
        return claimed

    async def _hand_out(self, claimed: Sequence[Claimed], lane: int) -> None:
        """Settle what is sifted out, or out of its attempts; hand the rest to those who run it."""
        claimed = await self._sifted(claimed, lane)
        ordinary = [each for each in claimed if not self._is_special(each)]
        for special in claimed if len(ordinary) < len(claimed) else ():
            if self._chooser.is_used_up(special):
                self._finish(special, gave_up(special.row["attempts"], special.row["reason"]))
            elif self._is_special(special):
                self._suspects.put(special)
        self.workers.put(ordinary)

    async def _sifted(self, claimed: Sequence[Claimed], lane: int) -> Sequence[Claimed]:
        """Those that a handler may see; the others are finished. Raises Unavailable: then all are handed back."""
        try:
            outcomes = {} if self.stopping else await self._sieve.sift(claimed, lane)
        except Unavailable:
            for each in claimed:
                self._finish(each, handed_back(each.row["claims"], UNREADY_SECONDS))
            raise
        if not outcomes and not self.stopping:
            return claimed
        rest = [each for each in claimed if each.id not in outcomes]
        for each in claimed:
            if each.id in outcomes:
                self._finish(each, outcomes[each.id])
            elif self.stopping:
                self._finish(each, handed_back(each.row["claims"]))
        return [] if self.stopping else rest

    def _is_special(self, claimed: Claimed) -> bool:
        if self._chooser.is_used_up(claimed):
            return True
        row = claimed.row
        if row["attempts"] < SUSPECT_ATTEMPTS or not row["died"]:
            return False
        return self._chooser.outlook(claimed) is not None

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
                self._room.clear()
                await self._room.wait()
            try:
                await self.claim(lane=1)
            except Unavailable:
                self._backlog = False  # the first claimer finds out, and says so

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
            return self._settings.poll_seconds
        if self.failure is not None:
            log.warning("database.back")
        self.failure = None
        return wait

    async def _until_room(self) -> None:
        while self._is_full():
            self._room.clear()
            await self._room.wait()

    def _is_full(self) -> bool:
        return (
            self.stopping
            or any(crew.queued > crew.low_water for crew in self.crews)
            or len(self._unsettled) > UNSETTLED_MAX
            or not self._claim_room.free
        )

    @property
    def running(self) -> int:
        """Handlers."""
        return sum(crew.running for crew in self.crews)

    def _all_workers(self) -> list[Worker]:
        return [worker for crew in self.crews for worker in crew.workers]

    async def _seconds_until_due(self) -> float:
        """How long to sleep: by our own monotonic clock, for the schedule rings by the wall clock, which may be set."""
        if self._since is not None and self.due_until is not None:
            self._watermark.forget()  # a drain that is to end has nothing to wait for
            return 0.0
        longest = 5 * self._settings.poll_seconds
        if self._since is not None:
            longest = min(longest, self._watermark.seconds_until_all)
        due = await self._store.queue.next_due(self._since, longest)
        if self._since is None:
            self._watermark.saw(due.oldest)
        # An overdue row that a claim did not take is locked by somebody: soon, not at once.
        return min(max(due.seconds, 0.05), longest) if due.seconds is not None else longest

    async def rung(self) -> None:
        """Return once something may be due."""
        await self._bell.wait()
        self._bell.clear()

    async def _rung_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._bell.wait()

    async def _perform(self, worker: Worker, claimed: Claimed) -> None:
        """One event, from its start to its outcome."""
        if claimed.lost:
            self._drop(claimed)
            return
        body = claimed.row["payload"]
        if claimed.unsifted or (claimed.is_large and self._chooser.outlook(claimed) is not None):
            await self._perform_late(worker, claimed)
            return
        self._chooser.complete(claimed, body)
        ready = self._decided(claimed)
        if isinstance(ready, Outcome):
            self._finish(claimed, ready)
        elif ready.handler.wants_connection:
            self.workers.started -= 1
            self.connected.put([claimed])
        else:
            await self._run(worker, claimed, ready)

    async def _perform_connected(self, worker: Worker, claimed: Claimed) -> None:
        """The same for one whose handler asks for a connection."""
        if claimed.lost:
            self._drop(claimed)
            return
        assert isinstance(claimed.choice, Choice)
        await self._run(worker, claimed, claimed.choice)

    async def _run(self, worker: Worker, claimed: Claimed, choice: Choice) -> None:
        assert claimed.event is not None
        if choice.fault is not None:
            self.conclude(claimed, rejected(choice.fault))
            return
        if choice.handler.wants_connection:
            await self._run_connected(worker, claimed, choice, claimed.event)
            return
        timeout_seconds = self._chooser.timeout_seconds(choice)
        if claimed.waiter is not None:
            timeout_seconds = claimed.waiter.seconds_for(choice.handler, timeout_seconds)
            if not timeout_seconds:
                self._finish(claimed, handed_back(claimed.row["claims"]))
                return
        self.conclude(claimed, await worker.run(choice, claimed.event, claimed, timeout_seconds))

    async def _run_connected(self, worker: Worker, claimed: Claimed, choice: Choice, event: Event) -> None:
        """One event whose handler has a transaction: its own settle is the last that is done in it."""
        timeout_seconds = self._chooser.timeout_seconds(choice)
        self._preparing.add(claimed)
        try:
            transaction = await self._begun(timeout_seconds)
        except Unavailable:
            if not self.stopping:
                self.conclude(claimed, "unready")
            return
        finally:
            self._preparing.discard(claimed)
        if self.stopping:
            await transaction.end("stopping", self.seal(claimed))
            return  # and handed back by `stop`
        self._ending += 1
        try:
            ended = await worker.run(choice, event, claimed, timeout_seconds, transaction)
            became = await transaction.end("lost" if claimed.lost else ended, self.seal(claimed))
        finally:
            self._ending -= 1
        self.conclude(claimed, became)

    async def _begun(self, timeout_seconds: float) -> Transaction:
        """Raises Unavailable, and tells once that there are no transactions to be had, and that there are again."""
        try:
            transaction = await self._transactions.begin(timeout_seconds)
        except Unavailable as error:
            if not self._unconnected:
                log.error("transactions.lost", reason=str(error))
            self._unconnected = True
            raise
        if self._unconnected:
            log.warning("transactions.back")
        self._unconnected = False
        return transaction

    def seal(self, claimed: Claimed) -> Seal:
        """What its settle writes within a transaction of its own."""
        return Seal.of(self._processed(claimed))

    def _processed(self, claimed: Claimed) -> Settlement:
        return Settlement(claimed, PROCESSED, self._records_all, self._tally.folded(claimed.row["source"]))

    async def _perform_late(self, worker: Worker, claimed: Claimed) -> None:
        """One event whose body did not come with the claim, and is fetched once there is room; or to be sifted yet."""
        size = claimed.row["bytes"] if claimed.row["payload"] is None else 0
        self._preparing.add(claimed)
        await self._fetch_room.wait_for(size)
        try:
            ready = await self.ready(claimed)
            if self.stopping:
                return  # and handed back by `stop`
            self._preparing.discard(claimed)
            if isinstance(ready, Outcome):
                self.finish(claimed, ready)
            elif claimed.lost:
                self._drop(claimed)
            else:
                await self._run(worker, claimed, ready)
        except Unavailable:
            if not self.stopping:
                self.conclude(claimed, "unready")
        finally:
            self._preparing.discard(claimed)
            self._fetch_room.give_back(size)

    async def ready(self, claimed: Claimed) -> Choice | Outcome:
        """Its handler, once its body is there; or its outcome where no handler may see it. Raises Unavailable."""
        body = claimed.row["payload"]
        if body is None:
            body = await self._store.queue.body(claimed.id)
        if claimed.unsifted and (outcome := await self._sieve.sift_late(claimed, body)) is not None:
            return outcome
        self._chooser.complete(claimed, body)
        if isinstance(self._chooser.outlook(claimed), Undecided):
            return await asyncio.to_thread(self._decided, claimed)  # a filter may parse all of a large body
        return self._decided(claimed)

    def _decided(self, claimed: Claimed) -> Choice | Outcome:
        """Its handler, its filters asked; or its outcome where no handler may see it."""
        choice = self._chooser.choice(claimed)
        if choice is None:
            return self._chooser.unhandled(claimed)
        if self._chooser.is_used_up(claimed):
            return gave_up(claimed.row["attempts"], claimed.row["reason"])
        return choice

    def finish(self, claimed: Claimed, outcome: Outcome) -> None:
        """Settle it so, unless it was lost."""
        if claimed.lost:
            self._drop(claimed)
        else:
            self._finish(claimed, outcome)

    def conclude(self, claimed: Claimed, ending: Ending | Cut | Saved) -> None:
        """Turn a run's end into what the settle writes, unless the run has settled itself, or lost the event."""
        if isinstance(ending, Ending) and not claimed.lost:
            if claimed.waiter is not None:
                claimed.waiter.tell(ending.answer)
            self._finish(claimed, self._chooser.conclude(claimed, ending))
        elif ending == "saved":
            self._tally.settled([self._processed(claimed)])
            self._let_go(claimed)
        elif claimed.lost:
            self._drop(claimed)
        elif ending == "lost":
            log.warning("transaction.rolled_back", id=str(claimed.id), reason="the event is another's by now")
            self._let_go(claimed)
        elif ending == "unknown":
            log.error(
                "commit.unknown", id=str(claimed.id), hint="unless it is committed, it runs again after its lease"
            )
            self._let_go(claimed)
        else:
            self._finish(claimed, handed_back(claimed.row["claims"], UNREADY_SECONDS if ending == "unready" else 0.0))

    def _finish(self, claimed: Claimed, outcome: Outcome) -> None:
        if claimed.waiter is not None:
            claimed.waiter.tell(None)  # unless its answer was told
        noted = outcome.attempted and (self._records_all or outcome.status != "processed")
        self._unsettled.append(Settlement(claimed, outcome, noted, self._tally.folded(claimed.row["source"])))
        self._ended.set()

    def _drop(self, claimed: Claimed) -> None:
        """It is not held any more: where its lease was lost somebody else has it, whatever came of it here."""
        if claimed.waiter is not None:
            claimed.waiter.tell(None)
        self._claim_room.give_back(_inline_bytes(claimed))
        self._room.set()

    def _let_go(self, claimed: Claimed) -> None:
        """Nothing is left to do for it here: it is settled, or left to its lease."""
        self._leases.let_go([claimed])
        self._drop(claimed)

    async def settle(self, lane: int = 0) -> int:
        """Write what has ended, up to a batch; how many rows the fence let through."""
        batch, self._unsettled = self._unsettled[:SETTLE_ROWS_MAX], self._unsettled[SETTLE_ROWS_MAX:]
        self._settling += 1
        try:
            held = [each for each in batch if not each.claimed.lost]
            settled = await self._store.results.settle(held, lane) if held else set()
        except Unavailable:
            self._unsettled = batch + self._unsettled
            raise
        finally:
            self._settling -= 1
        self._leases.let_go(each.claimed for each in batch)
        self._claim_room.give_back(sum(_inline_bytes(each.claimed) for each in batch))
        self._tally.settled([each for each in held if each.claimed.id in settled])
        if len(self._unsettled) <= UNSETTLED_MAX:
            self._room.set()
        if any(each.outcome.status == "new" for each in batch):
            self.ring()  # due perhaps sooner than the claimer means to sleep
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
                    log.error("settle.delayed", rows=len(self._unsettled), reason=str(error))
                    await asyncio.sleep(min(self._settings.poll_seconds, SETTLE_PAUSE_SECONDS))

    async def keep_watch(self) -> None:
        """Cut off what is over its time; never returns."""
        while True:
            await asyncio.sleep(min(WATCH_SECONDS, self._chooser.timeout_seconds_min / 4))
            overdue = [worker for crew in self.crews for worker in crew.overdue()]
            for worker in overdue:
                if worker.in_thread and worker.cut is None and worker.claimed is not None:
                    log.error("thread.stuck", id=str(worker.claimed.id), hint="a def handler cannot be cancelled")
                worker.cut_off("timeout")
            if sum(worker.in_thread for worker in overdue) >= self._stuck_max:
                self.stuck.set()

    def lose(self) -> None:
        """Leases are gone: cut their runs off, drop their results."""
        for worker in self._all_workers():
            if worker.claimed is not None and worker.claimed.lost:
                worker.cut_off("lost")
        self._suspects.lose()

    @property
    def idle(self) -> bool:
        """Nothing is held here."""
        return not (
            self._claiming
            or len(self._leases)
            or any(crew.queued for crew in self.crews)
            or self.running
            or self._ending
            or self._unsettled
            or self._settling
        )

    async def stop(self, grace_seconds: float, hurry: asyncio.Event) -> None:
        """Claim no more; give running handlers their grace (until `hurry`), hand the rest back, and settle."""
        self.stopping = True
        queued = [*self.workers.take_back(), *self.connected.take_back(), *self._suspects.take_back()]
        for claimed in [*queued, *self._preparing]:
            self._finish(claimed, handed_back(claimed.row["claims"]))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                while (self.running or self._suspects.running) and not hurry.is_set():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        self._suspects.kill()
        for worker in self._all_workers():
            if worker.claimed is not None and worker.in_thread and not worker.claimed.lost:
                self.conclude(worker.claimed, worker.left_behind())
            elif worker.claimed is not None:
                worker.cut_off("stopping")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                while self._has_results_coming():  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
        if self._unsettled or self._settling:
            log.error("settle.abandoned", rows=len(self._unsettled), hint="these will be handled once more")

    def _has_results_coming(self) -> bool:
        return bool(
            self._claiming
            or self._unsettled
            or self._settling
            or self._suspects.running
            or self._ending
            or any(worker.claimed and not worker.in_thread for worker in self._all_workers())
        )


class Pace:
    """How many rows to hold: what can start within `horizon_seconds` at the pace seen lately."""

    def __init__(self, least: int, horizon_seconds: float) -> None:
        self._least = min(least, HELD_ROWS_MAX)
        self._horizon_seconds = horizon_seconds
        self._seen_at = time.monotonic()
        self._seen = 0
        self._lately = 0.0  # started within the last `horizon_seconds`, the longer ago the less it counts

    def rows(self, started: int) -> int:
        now = time.monotonic()
        fading = math.exp((self._seen_at - now) / self._horizon_seconds)
        self._lately = self._lately * fading + started - self._seen
        self._seen_at, self._seen = now, started
        return min(max(int(self._lately), self._least), HELD_ROWS_MAX)


def _inline_bytes(claimed: Claimed) -> int:
    return claimed.row["bytes"] if claimed.row["payload"] is not None else 0
