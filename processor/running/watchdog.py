"""The watchdog: one for the time-outs of all workers."""

import asyncio
from collections.abc import Sequence

from chassis.logs import get_logger
from processor.chooser import Chooser
from processor.running.workers import Worker, Workers
from processor.settings import ProcessorSettings

WATCH_SECONDS = 0.1
CANCELLED_MAX = 20  # what it waits for while it tidies up is cancelled as well: it swallows each, and will go on so

log = get_logger()


class Watchdog:
    """`stuck`: set once so many runs go on over their time that the process had better be started again."""

    def __init__(self, crews: Sequence[Workers], chooser: Chooser, settings: ProcessorSettings) -> None:
        self._crews = crews
        self._chooser = chooser
        self._stuck_max = min(settings.stuck_threads_max, settings.concurrency)  # all are stuck, if not too many
        self.stuck = asyncio.Event()

    async def keep_watch(self) -> None:
        """Cut off what is over its time; never returns."""
        while True:
            await asyncio.sleep(min(WATCH_SECONDS, self._chooser.timeout_seconds_min / 4))
            overdue = [worker for crew in self._crews for worker in crew.overdue()]
            for worker in overdue:
                cut_off(worker)
            if sum(is_stuck(worker) for worker in overdue) >= self._stuck_max:
                self.stuck.set()


def cut_off(worker: Worker) -> None:
    """Once more, and say so when that is of no use."""
    first = worker.cut is None
    worker.cut_off("timeout")
    if worker.in_thread and first:
        log.error("thread.stuck", **worker.facts(), hint="a def handler cannot be cancelled")
    elif worker.cancelled == CANCELLED_MAX:
        log.error("coroutine.stuck", **worker.facts(), hint="it swallows CancelledError, and keeps its worker")


def is_stuck(worker: Worker) -> bool:
    """Whether nothing ends its run but the process's own end."""
    return worker.in_thread or worker.cancelled >= CANCELLED_MAX
