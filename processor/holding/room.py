"""Room for bodies: memory stays bounded whatever their sizes are."""

import asyncio
from collections import deque


class Room:
    """A budget of bytes. One body always fits when nothing else is held, however large."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def free(self) -> int:
        return max(self._bytes_max - self._used, 0)

    def take(self, size: int) -> None:
        """Count bytes that are here already."""
        self._used += size

    async def wait_for(self, size: int) -> None:
        """Return once `size` bytes fit, and count them; first come, first served."""
        if self._waiting or not self._fits(size):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.give_back(size)
                raise
        else:
            self._used += size

    def give_back(self, size: int) -> None:
        self._used -= size
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            waiting_size, turn = self._waiting.popleft()
            if not turn.done():
                self._used += waiting_size
                turn.set_result(None)

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._bytes_max
