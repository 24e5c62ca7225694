"""What a long-running process does beside its work: it hears signals, watches its supervisor, keeps a beat."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from chassis.lifeline import Lifeline


@dataclass(frozen=True)
class Stop:
    """`asked` is set by the first signal to stop, or when the supervisor is gone; `hurry` by the second."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self) -> None:
        (self.hurry if self.asked.is_set() else self.asked).set()

    def hear_signals(self, on_hangup: Callable[[], None] | None = None) -> "Stop":
        hear(self.ask, on_hangup)
        return self

    async def watch(self, lifeline: Lifeline | None) -> None:
        """Ask to stop when the supervisor is gone; a process without one returns at once."""
        if lifeline is not None:
            await lifeline.watch()
            self.asked.set()


def hear(end: Callable[[], None], on_hangup: Callable[[], None] | None = None) -> None:
    """SIGTERM and SIGINT call `end`; so does SIGHUP, as a closed terminal should, where it means nothing else."""
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, end)
    if on_hangup is not None:
        loop.add_signal_handler(signal.SIGHUP, on_hangup)
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it stays ignored
        loop.add_signal_handler(signal.SIGHUP, end)


async def every(seconds: float, *works: Callable[[], None]) -> None:
    """Call each work, again and again; never returns."""
    while True:
        await asyncio.sleep(seconds)
        for work in works:
            work()
