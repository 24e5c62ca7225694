"""The child's side of the line between a supervisor and its child: each learns of the other's end, also by kill -9."""

import asyncio
import contextlib
import os
import socket

BEAT = b"."
LOOK_SECONDS, LOOKS_MAX = 0.01, 100  # at a parent that dies


class Lifeline:
    """One end of a socket pair; the supervisor never writes, and the kernel closes its end however it dies.

    `parent`: the supervisor's number, if it is a process of its own.
    """

    def __init__(self, fd: int, parent: int | None = None) -> None:
        self._parent = parent
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._socket.setblocking(False)

    async def watch(self, beat_seconds: float = 1.0) -> None:
        """Beats from the event loop, so that a loop that hangs falls silent; returns when the supervisor is gone.

        The first beat says "ready": begin when the work can begin, and go on until the process ends.
        """
        with self._socket, contextlib.suppress(ConnectionError):
            while not await self._gone_within(beat_seconds):
                pass
        await self._until_gone()

    async def _until_gone(self) -> None:
        """The kernel closes the files of the dead one by one: a lock of theirs may outlast their end of the line."""
        for _ in range(LOOKS_MAX):
            if os.getppid() != self._parent:
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def _gone_within(self, beat_seconds: float) -> bool:
        # A full buffer holds beats enough for a supervisor that was busy, or stopped with Ctrl-Z.
        with contextlib.suppress(BlockingIOError):
            self._socket.send(BEAT)
        try:
            async with asyncio.timeout(beat_seconds):
                await asyncio.get_running_loop().sock_recv(self._socket, 1)
        except TimeoutError:
            return False
        return True
