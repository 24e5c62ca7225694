"""What a long-running process does beside its work: it hears signals, watches its supervisor, keeps a beat."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from chassis.lifeline import Lifeline


@dataclass(frozen=True)
class Stop:
    """`asked` is set by the first SIGTERM, SIGINT or SIGHUP, or when the supervisor is gone; `hurry` by the second."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self) -> None:
        (self.hurry if self.asked.is_set() else self.asked).set()

    def hear_signals(self) -> "Stop":
        names = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it stays ignored
            names.append(signal.SIGHUP)
        for name in names:
            asyncio.get_running_loop().add_signal_handler(name, self.ask)
        return self

    async def watch(self, lifeline: Lifeline | None) -> None:
        """Ask to stop when the supervisor is gone; a process without one returns at once."""
        if lifeline is not None:
            await lifeline.watch()
            self.asked.set()


async def every(seconds: float, *works: Callable[[], None]) -> None:
    """Call each work, again and again; never returns."""
    while True:
        await asyncio.sleep(seconds)
        for work in works:
            work()
