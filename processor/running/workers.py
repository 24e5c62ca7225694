"""A fixed set of workers over one deque, and one watchdog for all their time-outs: no task and no timer per event."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from processor.effects.store import Transaction
from processor.handling.dispatch import Choice
from processor.handling.event import Event
from processor.holding.claimed import Claimed
from processor.outcome import Cut, Ending, ended_by, ended_with, timed_out

YIELD_EVERY = 100  # handlers that never wait would else keep the event loop to themselves

Perform: TypeAlias = Callable[["Worker", Claimed], Awaitable[None]]


class Worker:
    """One of the fixed set; runs one event at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor) -> None:
        self._loop = loop
        self._pool = pool
        self.task: asyncio.Task[None] | None = None
        self.claimed: Claimed | None = None
        self.choice: Choice | None = None
        self.began = 0.0
        self.until = 0.0
        self.cut: Cut | None = None
        self.cancelled = 0  # times, in this run
        self.in_thread = False
        self.leaving = False
        self._transaction: Transaction | None = None

    async def run(
        self,
        choice: Choice,
        event: Event,
        claimed: Claimed,
        timeout_seconds: float,
        transaction: Transaction | None = None,
    ) -> Ending | Cut:
        """How the handler's run ended; `lost` or `stopping` when it was cut off for that."""
        self.claimed, self.began, self.cut, self._transaction = claimed, self._loop.time(), None, transaction
        self.until = self.began + timeout_seconds
        self.choice, self.cancelled = choice, 0
        try:
            if choice.handler.is_async:
                connection = transaction and transaction.connection
                ending = ended_by(await choice.handler.call(event, choice.variables, connection))
            else:
                ending = await self._run_in_thread(choice, event)
        except asyncio.CancelledError as error:
            if self.leaving:
                raise
            ending = ended_with(error)  # cut off, or the handler cancelled itself
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is that event's failure
            ending = ended_with(error)
        finally:
            cut, self.claimed, self.cut, self._transaction = self.cut, None, None, None
        while self.task is not None and self.task.cancelling():
            self.task.uncancel()
        if cut is None:
            return ending
        return timed_out(self._loop.time() - self.began) if cut == "timeout" else cut

    async def _run_in_thread(self, choice: Choice, event: Event) -> Ending:
        self.in_thread = True
        try:
            return await asyncio.shield(self._loop.run_in_executor(self._pool, call, choice, event))
        finally:
            self.in_thread = False

    def left_behind(self) -> Ending | Cut:
        """How the run of a thread ends that the process does not wait for: an attempt, if it was over its time."""
        return timed_out(self._loop.time() - self.began) if self.cut == "timeout" else "stopping"

    def cut_off(self, why: Cut) -> None:
        """Cancel an `async def`; a thread cannot be cancelled: it is marked, and judged when it ends."""
        first, self.cut = self.cut is None, self.cut or why
        if not self.in_thread and self.task is not None and (first or why == "timeout"):
            self.task.cancel()
            self.cancelled += 1
        if not first and self._transaction is not None:
            self._transaction.give_up()  # it goes on: its transaction does not

    def facts(self) -> dict[str, str | float]:
        """Of its run, for the log."""
        assert self.claimed is not None
        assert self.choice is not None
        return {
            "id": str(self.claimed.id),
            "source": self.claimed.row["source"],
            "handler": self.choice.handler.name,
            "over_seconds": round(self._loop.time() - self.until, 1),
        }


def call(choice: Choice, event: Event) -> Ending:
    """Run a `def` handler to its end, in this thread. (A StopIteration that left it would never reach a future.)"""
    try:
        return ended_by(choice.handler.call_in_thread(event, choice.variables))
    except BaseException as error:  # noqa: BLE001 - whatever user code raises is that event's failure
        return ended_with(error)


class Workers:
    """`perform(worker, claimed)` is awaited for each row, by `count` workers at once at most.

    `low` is called when no more than `low_water` rows are left to start.
    """

    def __init__(self, count: int, perform: Perform, low: Callable[[], None]) -> None:
        self._perform = perform
        self._low = low
        self.low_water = 0
        self._queue: deque[Claimed] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="handler")
        self.workers = [Worker(self._loop, self._pool) for _ in range(count)]
        self.started = 0

    def start(self, group: asyncio.TaskGroup) -> None:
        for worker in self.workers:
            worker.task = group.create_task(self._work(worker))

    def put(self, claimed: Iterable[Claimed]) -> None:
        self._queue.extend(claimed)
        for _ in range(min(len(self._queue), len(self._idle))):
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def take_back(self) -> list[Claimed]:
        """What has not been started."""
        rest = list(self._queue)
        self._queue.clear()
        return rest

    def withdraw(self, is_unwanted: Callable[[Claimed], bool]) -> list[Claimed]:
        """Take out what is not wanted any more, and has not been started."""
        wanted, unwanted = deque[Claimed](), list[Claimed]()
        for each in self._queue:
            (unwanted if is_unwanted(each) else wanted).append(each)
        self._queue = wanted
        return unwanted

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return sum(worker.claimed is not None for worker in self.workers)

    def end(self) -> None:
        """Cancel all, whatever they are doing."""
        for worker in self.workers:
            worker.leaving = True
            if worker.task is not None:
                worker.task.cancel()

    async def _work(self, worker: Worker) -> None:
        while not worker.leaving:
            if not self._queue:
                waiter = self._loop.create_future()
                self._idle.append(waiter)
                await waiter
                continue
            self.started += 1
            claimed = self._queue.popleft()
            if len(self._queue) == self.low_water:
                self._low()
            await self._perform(worker, claimed)
            if self.started % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def overdue(self) -> list[Worker]:
        """Workers whose run is over its time."""
        now = self._loop.time()
        return [worker for worker in self.workers if worker.claimed is not None and worker.until < now]
