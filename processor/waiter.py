"""A sender that waits, within its request, for what a handler answers."""

import asyncio

from processor.handling.handler import Handler
from protocol.challenge import Answer


class Waiter:
    """Waits until a time of the event loop's clock. `told`: the answer, or None once it is clear that there is none."""

    def __init__(self, until: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = until
        self.told: asyncio.Future[Answer | None] = self._loop.create_future()

    @property
    def is_late(self) -> bool:
        """Whether it waits no longer."""
        return self._until <= self._loop.time()

    def tell(self, answer: Answer | None) -> None:
        """The first word counts."""
        if not self.told.done():
            self.told.set_result(answer)

    def seconds_for(self, handler: Handler, timeout_seconds: float) -> float:
        """How long it may run here; 0: not at all, for it would be too late, or answers nobody.

        A thread is not cut off, so what it has done too late for its sender is done: it has its usual time.
        """
        left = self._until - self._loop.time()
        if not handler.replies or left <= 0:
            return 0.0
        return min(timeout_seconds, left) if handler.is_async else timeout_seconds
