"""Run: each row in its turn, from its start to the end of its handler. (A run with a transaction settles in it.)"""

import asyncio

from chassis.database import Unavailable
from chassis.logs import get_logger
from processor.chooser import Chooser
from processor.effects.store import Seal, Transaction, Transactions
from processor.handling.dispatch import Choice, Undecided
from processor.handling.event import Event
from processor.holding.claimed import Claimed
from processor.holding.holding import Holding
from processor.holding.room import Room
from processor.holding.store import Bodies
from processor.outcome import Outcome, gave_up, handed_back, rejected, unready
from processor.running.workers import Worker, Workers
from processor.settings import ProcessorSettings
from processor.settling.settler import Settler
from processor.sifting.certificates import Coming
from processor.sifting.sieve import Sieve

log = get_logger()

PARKED_MAX = 1000  # rows that wait for a certificate; a start with a backlog may have so many of one topic


class Runner:
    """Two crews of workers, and what each of them does with a row. Once it is `stopping`, no run begins."""

    def __init__(
        self,
        bodies: Bodies,
        sieve: Sieve,
        chooser: Chooser,
        transactions: Transactions,
        holding: Holding,
        settler: Settler,
        settings: ProcessorSettings,
    ) -> None:
        self._bodies = bodies
        self._sieve = sieve
        self._chooser = chooser
        self._transactions = transactions
        self._holding = holding
        self._settler = settler
        self.workers = Workers(settings.concurrency, self._perform, holding.freed.set)
        # Apart, so that whoever waits for a connection keeps no worker from those who need none.
        self.connected = Workers(settings.handler_connections, self._perform_connected, holding.freed.set)
        self.crews = (self.workers, self.connected)
        # Not that of what is held: rows that wait for a worker must not keep the body out that their worker waits for.
        # Nor one for both crews: what waits for a connection must not keep out the bodies of those who need none.
        self._room = Room(settings.held_bytes_max // 4)
        self._connected_room = Room(settings.held_bytes_max // 4)
        self._preparing: set[Claimed] = set()  # their bodies are fetched, their transactions begun
        self._parked: set[Claimed] = set()  # what they are judged by is being fetched
        self._ending = 0  # transactions
        self._unconnected = False  # the last transaction could not be begun
        self.stopping = False

    async def _perform(self, worker: Worker, claimed: Claimed) -> None:
        """One event, from its start to its outcome, or to those who have connections."""
        if claimed.lost:
            self._holding.drop(claimed)
            return
        if claimed.unsifted:
            await self._perform_late(worker, claimed, self._room)
            return
        if claimed.is_large and (outlook := self._chooser.outlook(claimed)) is not None:
            if isinstance(outlook, Choice) and outlook.handler.wants_connection:
                self._hand_over(claimed)
            else:
                await self._perform_late(worker, claimed, self._room)
            return
        self._chooser.complete(claimed, claimed.row["payload"])
        ready = self._decided(claimed)
        if isinstance(ready, Outcome):
            self._settler.put(claimed, ready)
        elif ready.handler.wants_connection:
            self._hand_over(claimed)
        else:
            await self._run(worker, claimed, ready)

    def _hand_over(self, claimed: Claimed) -> None:
        self.workers.started -= 1
        self.connected.put([claimed])

    async def _perform_late(self, worker: Worker, claimed: Claimed, room: Room) -> None:
        """One event whose body did not come with the claim, and is fetched once there is room; or to be sifted yet."""
        size = claimed.row["bytes"] if claimed.row["payload"] is None else 0
        self._preparing.add(claimed)
        await room.wait_for(size)
        try:
            ready = await self.ready(claimed)
            if self.stopping:
                return  # and handed back by whoever stops
            self._preparing.discard(claimed)
            if isinstance(ready, Outcome):
                self._settler.finish(claimed, ready)
            elif claimed.lost:
                self._holding.drop(claimed)
            elif ready.handler.wants_connection and room is self._room:
                claimed.event = None  # its body is fetched again, so that none is held while it waits
                self._hand_over(claimed)
            else:
                await self._run(worker, claimed, ready)
        except Coming as coming:
            if not self.stopping:
                self._park(claimed, coming.end)
        except Unavailable:
            if not self.stopping:
                self._settler.conclude(claimed, "unready")
        finally:
            self._preparing.discard(claimed)
            room.give_back(size)

    def _park(self, claimed: Claimed, end: "asyncio.Task[None]") -> None:
        """Out of the workers' way until what it waits for has come to its end."""
        self.workers.started -= 1
        if len(self._parked) >= PARKED_MAX:
            self._settler.put(claimed, unready(claimed.row["claims"], claimed.row["attempts"]))
            return
        self._parked.add(claimed)
        end.add_done_callback(lambda _: self._unpark(claimed))

    def _unpark(self, claimed: Claimed) -> None:
        self._parked.discard(claimed)
        if not self.stopping:
            self.workers.put([claimed])

    async def ready_at_last(self, claimed: Claimed) -> Choice | Outcome:
        """The same as `ready`, for who keeps no worker from others. Raises Unavailable."""
        while True:
            try:
                return await self.ready(claimed)
            except Coming as coming:
                await asyncio.wait([coming.end])

    async def ready(self, claimed: Claimed) -> Choice | Outcome:
        """Its handler, once its body is there; or its outcome where no handler may see it.

        Raises Unavailable, and Coming: then it is asked for again.
        """
        body = claimed.row["payload"]
        if body is None:
            body = await self._bodies.fetch(claimed.id)
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

    async def _perform_connected(self, worker: Worker, claimed: Claimed) -> None:
        """One event whose handler asks for a connection."""
        if claimed.lost:
            self._holding.drop(claimed)
        elif claimed.event is None:
            await self._perform_late(worker, claimed, self._connected_room)
        else:
            assert isinstance(claimed.choice, Choice)
            await self._run(worker, claimed, claimed.choice)

    async def _run(self, worker: Worker, claimed: Claimed, choice: Choice) -> None:
        assert claimed.event is not None
        if choice.fault is not None:
            self._settler.conclude(claimed, rejected(choice.fault))
            return
        if choice.handler.wants_connection:
            await self._run_connected(worker, claimed, choice, claimed.event)
            return
        timeout_seconds = self._chooser.timeout_seconds(choice)
        if claimed.waiter is not None:
            timeout_seconds = claimed.waiter.seconds_for(choice.handler, timeout_seconds)
            if not timeout_seconds:
                self._settler.put(claimed, handed_back())
                return
        self._settler.conclude(claimed, await worker.run(choice, claimed.event, claimed, timeout_seconds))

    async def _run_connected(self, worker: Worker, claimed: Claimed, choice: Choice, event: Event) -> None:
        """One event whose handler has a transaction: its own settle is the last that is done in it."""
        timeout_seconds = self._chooser.timeout_seconds(choice)
        self._preparing.add(claimed)
        try:
            transaction = await self._begun(timeout_seconds)
        except Unavailable:
            if not self.stopping:
                self._settler.conclude(claimed, "unready")
            return
        finally:
            self._preparing.discard(claimed)
        if self.stopping:
            await transaction.end("stopping", self.seal(claimed))
            return  # and handed back by whoever stops
        self._ending += 1
        try:
            ended = await worker.run(choice, event, claimed, timeout_seconds, transaction)
            became = await transaction.end("lost" if claimed.lost else ended, self.seal(claimed))
        finally:
            self._ending -= 1
        self._settler.conclude(claimed, became)

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
        return Seal.of(self._settler.processed(claimed))

    def lose(self) -> None:
        """Leases are gone: cut their runs off."""
        for worker in self._all_workers():
            if worker.claimed is not None and worker.claimed.lost:
                worker.cut_off("lost")

    def take_back(self) -> list[Claimed]:
        """What has not been started, and what is not ready for its handler yet."""
        return [*self.workers.take_back(), *self.connected.take_back(), *self._preparing, *self._parked]

    def cut_off(self) -> None:
        """Let nothing run on: what is in a thread is concluded without it."""
        for worker in self._all_workers():
            if worker.claimed is not None and worker.in_thread and not worker.claimed.lost:
                self._settler.conclude(worker.claimed, worker.left_behind())
            elif worker.claimed is not None:
                worker.cut_off("stopping")

    def _all_workers(self) -> list[Worker]:
        return [worker for crew in self.crews for worker in crew.workers]

    @property
    def running(self) -> int:
        """Handlers."""
        return sum(crew.running for crew in self.crews)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for its run, and none is under way."""
        return not (any(crew.queued for crew in self.crews) or self.running or self._ending)

    @property
    def has_results_coming(self) -> bool:
        """Whether there are runs that will end; a thread's may not."""
        return bool(self._ending or any(worker.claimed and not worker.in_thread for worker in self._all_workers()))
