"""Children of a supervisor that say who they are, and the supervisor that starts them, ends them and says so."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs
from structlog.typing import EventDict

from chassis.supervisor import Child, Supervisor

PATIENCE_SECONDS = 20.0

# Says on a Unix socket who it is, then lives in the manner its arguments name; says so too when it leaves in order.
A_CHILD = """
import asyncio, os, signal, sys, time
from pathlib import Path
from chassis.lifeline import Lifeline

async def main(roll, name, manner, _, lifeline_fd, *others):
    if manner.startswith("/"):
        manner = Path(manner).read_text()
    if manner.startswith("exit"):
        sys.exit(int(manner.split()[1]))
    gone = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, gone.set)
    if manner == "deaf":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)
    if manner != "mute":
        watch = asyncio.create_task(Lifeline(int(lifeline_fd)).watch(0.05))
        watch.add_done_callback(lambda _: gone.set())
        await asyncio.sleep(0)
    reader, writer = await asyncio.open_unix_connection(roll)
    writer.write(f"{name} {os.getpid()}\\n".encode())
    await writer.drain()
    if manner == "frozen":
        time.sleep(600)
    if manner == "brief":
        await reader.read(1)
        sys.exit(2)
    await gone.wait()
    writer.write(b"bye\\n")
    await writer.drain()

asyncio.run(main(*sys.argv[1:]))
"""

A_CHILD_PROGRAM = (sys.executable, "-P", "-c", A_CHILD)


@dataclass(frozen=True)
class Process:
    """A child as it was heard: its last words, once its end of the connection is closed."""

    name: str
    pid: int
    last_words: asyncio.Future[bytes]
    writer: asyncio.StreamWriter

    async def ended(self) -> bytes:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asyncio.shield(self.last_words)


class RollCall:
    """Where children say who they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrived: asyncio.Queue[Process] = asyncio.Queue()

    async def __aenter__(self) -> "RollCall":
        self._server = await asyncio.start_unix_server(self._hear, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def next(self) -> Process:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._arrived.get()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name, pid = (await reader.readline()).split()
        last_words = asyncio.get_running_loop().create_future()
        self._arrived.put_nowait(Process(name.decode(), int(pid), last_words, writer))
        try:
            last_words.set_result(await reader.read())
        except ConnectionError:
            last_words.set_result(b"")
        finally:
            writer.close()


@dataclass(frozen=True)
class Running:
    supervisor: Supervisor
    stop: asyncio.Event
    task: asyncio.Task[int]

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.task


@contextlib.asynccontextmanager
async def supervising(
    *children: Child,
    program: Sequence[str] = A_CHILD_PROGRAM,
    grace_seconds: float = 10.0,
    first_wait_seconds: float = 0.05,
) -> AsyncIterator[Running]:
    stop = asyncio.Event()
    supervisor = Supervisor(
        children,
        grace_seconds=grace_seconds,
        margin_seconds=0.0,
        first_wait_seconds=first_wait_seconds,
        program=program,
    )
    running = Running(supervisor, stop, asyncio.create_task(supervisor.run(stop)))
    try:
        yield running
    finally:
        supervisor.stop_now()
        await asyncio.wait([running.task])


def a_child(roll: RollCall, name: str = "one", manner: str = "steady", **rest: Any) -> Child:
    return Child(name, (str(roll.path), name, manner), **rest)


def runs(pid: int) -> bool:
    """A zombie counts: whoever is not reaped still has its number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Log:
    """What the supervisor says."""

    def __init__(self) -> None:
        self._lines: list[EventDict] = []
        self._said = asyncio.Event()

    def __call__(self, _: object, __: str, line: EventDict) -> EventDict:
        self._lines.append(dict(line))
        self._said.set()
        return line

    def of(self, event: str) -> list[EventDict]:
        return [line for line in self._lines if line["event"] == event]

    async def wait_for(self, event: str, count: int = 1) -> list[EventDict]:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.of(event)) < count:
                self._said.clear()
                await self._said.wait()
        return self.of(event)


@contextlib.contextmanager
def heard() -> Iterator[Log]:
    log = Log()
    with capture_logs(processors=[log]):
        yield log
