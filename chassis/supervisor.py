"""Keeps children alive: starts them, hears their heartbeat, starts them again, replaces them one by one, ends them all.

A child that dies is started again after 1 s, doubling to 30 s; a life of 60 s forgives what was before.
A child that exits with 2 (wrong usage or settings) before it was ever ready ends everything: no later start could
mend that, and whoever made the mistake is still looking. Once it was ready, a 2 is a death like any other: somebody
broke a settings file under a running service, and the other children still serve.
"""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from dataclasses import dataclass

from chassis.logs import get_logger

HOOKD: tuple[str, ...] = (sys.executable, "-P", "-m", "hookd")
WRONG_USAGE = 2
LOOKS = 4  # at a lifeline, in the time that a child may be silent

log = get_logger()


@dataclass(frozen=True)
class Child:
    name: str
    arguments: tuple[str, ...]
    listener: socket.socket | None = None
    heartbeat_seconds: float | None = None  # killed when silent for so long; None: never, a handler may hold its loop
    start_seconds: float = 30.0  # the first beat may take so much longer


class Supervisor:
    """Its children are equals: none waits for another."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        grace_seconds: float,
        margin_seconds: float = 5.0,
        first_wait_seconds: float = 1.0,
        program: Sequence[str] | None = None,
    ) -> None:
        self._children = children
        self._grace_seconds = grace_seconds + margin_seconds
        self._first_wait_seconds = first_wait_seconds
        self._program = program or HOOKD
        self._keepers: list[Keeper] = []
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._restart = asyncio.Event()
        self._exit_code = 0

    async def run(self, stop: asyncio.Event) -> int:
        """Until `stop`; returns the code to exit with. No child outlives it, also when it is cancelled."""
        self._stop = stop
        async with asyncio.TaskGroup() as self._tasks:
            for child in self._children:
                self._hire(child, first=True)
            rolling = self._tasks.create_task(self._roll())
            await stop.wait()
            rolling.cancel()
            for keeper in self._keepers:
                keeper.retire()
        return self._exit_code

    def restart(self) -> None:
        """One after another, each child with a listener gets a successor, which is ready before the old one stops."""
        self._restart.set()

    def stop_now(self) -> None:
        """Stops without any grace."""
        self._hurry.set()
        self._stop.set()

    def _hire(self, child: Child, *, first: bool) -> "Keeper":
        keeper = Keeper(child, self._program, self._grace_seconds, self._first_wait_seconds, self._hurry)
        self._keepers.append(keeper)
        self._tasks.create_task(self._employ(keeper, first=first))
        return keeper

    async def _employ(self, keeper: "Keeper", *, first: bool) -> None:
        refused = not await keeper.keep()
        self._keepers.remove(keeper)
        if refused and first:
            self._exit_code = WRONG_USAGE
            self._stop.set()

    async def _roll(self) -> None:
        while await self._restart.wait():
            self._restart.clear()
            for old in [each for each in self._keepers if each.child.listener and not each.retired]:
                successor = self._hire(old.child, first=False)
                if not await successor.proven:
                    log.error("restart.abandoned", child=old.child.name, hint="the old ones still serve")
                    break
                old.retire()


class Keeper:
    """Keeps one child alive until it retires, through as many processes as that takes, one at a time."""

    def __init__(
        self,
        child: Child,
        program: Sequence[str],
        grace_seconds: float,
        first_wait_seconds: float,
        hurry: asyncio.Event,
    ) -> None:
        self.child = child
        self.proven: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._program = program
        self._grace_seconds = grace_seconds
        self._first_wait_seconds = first_wait_seconds
        self._hurry = hurry
        self._retirement = asyncio.Event()

    @property
    def retired(self) -> bool:
        return self._retirement.is_set()

    def retire(self) -> None:
        self._retirement.set()

    async def keep(self) -> bool:
        """True once retired; False when the child says before its first beat that it was called wrongly."""
        wait = 0.0
        while True:
            born = time.monotonic()
            ending = await self._live()
            if self.retired:
                log.info("child.stopped", child=self.child.name, **ending)
                return True
            if ending.get("exit_code") == WRONG_USAGE and not self.proven.done():
                log.error("child.refused", child=self.child.name, **ending)
                self._prove(ready=False)
                return False
            wait = back_off(wait, time.monotonic() - born, self._first_wait_seconds)
            log.error("child.died", child=self.child.name, **ending, again_in_seconds=wait)
            if await happens_within(wait, self._retirement):
                return True

    async def _live(self) -> dict[str, int | str]:
        """One process, from its start to its end, and how it ended in the words of the log."""
        ours, theirs = socket.socketpair()
        with ours:
            try:
                process = await self._start(theirs)
            except OSError as error:
                return {"error": str(error)}
            log.info("child.started", child=self.child.name, pid=process.pid)
            exit_code = await self._see_through(process, ours)
            return {"pid": process.pid, **in_words(exit_code)}

    async def _start(self, lifeline: socket.socket) -> Process:
        handed = {"--lifeline-fd": lifeline}
        if self.child.listener:
            handed["--listen-fd"] = self.child.listener
        with lifeline:
            return await asyncio.create_subprocess_exec(
                *self._program,
                *self.child.arguments,
                *(word for option, each in handed.items() for word in (option, str(each.fileno()))),
                pass_fds=[each.fileno() for each in handed.values()],
                stdin=DEVNULL,
                start_new_session=True,  # Ctrl-C is for the supervisor to hear, and for its children to be told
            )

    async def _see_through(self, process: Process, lifeline: socket.socket) -> int:
        try:
            async with asyncio.TaskGroup() as tasks:
                chores = [tasks.create_task(self._hear(process, lifeline)), tasks.create_task(self._see_off(process))]
                exit_code = await process.wait()
                for chore in chores:
                    chore.cancel()
            return exit_code
        finally:
            send(process, signal.SIGKILL)
            await process.wait()

    async def _hear(self, process: Process, lifeline: socket.socket) -> None:
        """The first beat proves the child; from then on its silence ends it, where it is watched."""
        lifeline.setblocking(False)
        seconds = self.child.heartbeat_seconds
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds and self.child.start_seconds):
                if await asyncio.get_running_loop().sock_recv(lifeline, 1):
                    self._prove(ready=True)
        # Looks are counted, not seconds: after a frozen machine thaws, a child gets its time to beat again.
        silent_looks = 0
        while seconds and silent_looks < LOOKS:
            await asyncio.sleep(seconds / LOOKS)
            silent_looks += 1
            if beats(lifeline):
                silent_looks = 0
                self._prove(ready=True)
        if seconds and not self.retired:
            log.error("child.silent", child=self.child.name, pid=process.pid, seconds=seconds)
            send(process, signal.SIGKILL)

    async def _see_off(self, process: Process) -> None:
        await self._retirement.wait()
        send(process, signal.SIGTERM)
        if not await happens_within(self._grace_seconds, self._hurry):
            log.warning("child.overdue", child=self.child.name, pid=process.pid, grace_seconds=self._grace_seconds)
        send(process, signal.SIGKILL)

    def _prove(self, *, ready: bool) -> None:
        if not self.proven.done():
            self.proven.set_result(ready)


def back_off(previous: float, lived: float, first: float, longest: float = 30.0, long_life: float = 60.0) -> float:
    """How many seconds to wait before the next start."""
    if previous == 0 or lived >= long_life:
        return first
    return min(previous * 2, longest)


def in_words(exit_code: int) -> dict[str, int | str]:
    try:
        return {"signal": signal.Signals(-exit_code).name}
    except ValueError:
        return {"exit_code": exit_code}


def beats(lifeline: socket.socket) -> bool:
    with contextlib.suppress(BlockingIOError, ConnectionError):
        return lifeline.recv(4096) != b""
    return False


def send(process: Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


async def happens_within(seconds: float, event: asyncio.Event) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await event.wait()
    return False
