"""Children that listen are replaced, or die; no connection that waits for one of them is lost."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from chassis.sockets import open_listeners
from chassis.supervisor import Child
from tests.supervising import PATIENCE_SECONDS, Log, RollCall, a_child, heard, runs, supervising

pytestmark = pytest.mark.unmeasured

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

# Echoes a line with its process id; on SIGTERM it serves what it accepted, and leaves the rest in the queue.
AN_ECHO_WORKER = """
import asyncio, os, signal, sys
from chassis.lifeline import Lifeline
from chassis.sockets import adopt

async def main(_, lifeline_fd, __, listen_fd):
    loop, stop, busy = asyncio.get_running_loop(), asyncio.Event(), set()
    listener = adopt(int(listen_fd))

    async def serve(connection):
        reader, writer = await asyncio.open_connection(sock=connection)
        line = await reader.readline()
        writer.write(b"%d %s" % (os.getpid(), line))
        await writer.drain()
        writer.close()

    def accept():
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        task = loop.create_task(serve(connection))
        busy.add(task)
        task.add_done_callback(busy.discard)

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(listener, accept)
    watch = loop.create_task(Lifeline(int(lifeline_fd)).watch(0.05))
    watch.add_done_callback(lambda _: stop.set())
    await stop.wait()
    loop.remove_reader(listener)
    listener.close()
    if busy:
        await asyncio.wait(busy)

asyncio.run(main(*sys.argv[1:]))
"""

AN_ECHO_PROGRAM = (sys.executable, "-P", "-c", AN_ECHO_WORKER)


@pytest.fixture
async def roll(tmp_path: Path) -> AsyncIterator[RollCall]:
    async with RollCall(tmp_path / "roll") as roll:
        yield roll


@pytest.fixture
def log() -> Iterator[Log]:
    with heard() as log:
        yield log


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(each) for each in open_listeners("127.0.0.1", 0, 2)]


def echo_workers(listeners: Sequence[socket.socket]) -> list[Child]:
    return [Child(f"worker {i}", (), each, heartbeat_seconds=5.0) for i, each in enumerate(listeners, start=1)]


async def connect(listener: socket.socket) -> Connection:
    return await asyncio.open_connection(*listener.getsockname())


async def answer(connection: Connection) -> int:
    """The process that served this connection."""
    reader, writer = connection
    async with asyncio.timeout(PATIENCE_SECONDS):
        writer.write(b"hello\n")
        pid, line = (await reader.readline()).split()
        assert line == b"hello"
        writer.close()
        await writer.wait_closed()
    return int(pid)


async def ask(listener: socket.socket) -> int:
    return await answer(await connect(listener))


async def test_no_queued_connection_is_lost_with_its_worker(listeners: list[socket.socket], log: Log) -> None:
    """1,000 fresh connections while one of two workers is killed -9 three times: every one is served."""
    async with supervising(*echo_workers(listeners), program=AN_ECHO_PROGRAM):
        served: list[int] = []
        for _ in range(3):
            victim = await ask(listeners[0])
            os.kill(victim, signal.SIGSTOP)
            os.waitid(os.P_PID, victim, os.WSTOPPED)  # noqa: ASYNC222 - at once; what comes now waits in its queue
            waiting = [await connect(listeners[0]) for _ in range(167)]
            os.kill(victim, signal.SIGKILL)
            waiting += [await connect(listeners[0]) for _ in range(167)]
            answers = await asyncio.gather(*map(answer, waiting))
            assert victim not in answers
            served += answers
    assert len(served) == 1002
    assert len(log.of("child.died")) == 3


async def test_a_rolling_restart_loses_no_connection(listeners: list[socket.socket], log: Log) -> None:
    """Connections made all through a rolling restart are served: each by an old worker or by its successor."""
    async with supervising(*echo_workers(listeners), program=AN_ECHO_PROGRAM) as running:
        served = {await ask(listeners[0]) for _ in range(20)}
        old = {line["pid"] for line in log.of("child.started")}
        replaced = asyncio.create_task(log.wait_for("child.stopped", 2))
        running.supervisor.restart()
        while not replaced.done():
            served |= {await ask(listeners[0]) for _ in range(20)}
        served_after = {await ask(listeners[0]) for _ in range(40)}
    assert {line["pid"] for line in await replaced} == old
    assert {line["exit_code"] for line in await replaced} == {0}
    assert served_after == {line["pid"] for line in log.of("child.started")} - old
    assert served <= old | served_after


async def test_the_successor_serves_while_the_old_worker_finishes(listeners: list[socket.socket], log: Log) -> None:
    """A worker that is being replaced finishes the request it has; new ones do not wait for that."""
    [listener, _] = listeners
    listeners[1].close()
    async with supervising(*echo_workers([listener]), program=AN_ECHO_PROGRAM) as running:
        slow = await connect(listener)
        old = await ask(listener)  # accepted after the slow one, so that one is accepted too
        running.supervisor.restart()
        new = (await log.wait_for("child.started", 2))[1]["pid"]
        while await ask(listener) != new:
            pass
        assert runs(old)
        assert await answer(slow) == old
        await log.wait_for("child.stopped")
        assert await ask(listener) == new


async def test_a_successor_that_cannot_start_replaces_nobody(
    roll: RollCall, log: Log, listeners: list[socket.socket], tmp_path: Path
) -> None:
    """A rolling restart into broken settings is given up; the old worker serves on, and the next one may succeed."""
    manner = tmp_path / "manner"
    manner.write_text("steady")
    async with supervising(a_child(roll, manner=str(manner), listener=listeners[0])) as running:
        old = await roll.next()
        manner.write_text("exit 2")
        running.supervisor.restart()
        await log.wait_for("restart.abandoned")
        assert runs(old.pid)
        manner.write_text("steady")
        running.supervisor.restart()
        new = await roll.next()
        assert await old.ended() == b"bye\n"
        assert runs(new.pid)


async def test_what_does_not_listen_is_not_restarted(roll: RollCall, log: Log, listeners: list[socket.socket]) -> None:
    """A rolling restart leaves a child without a listener alone."""
    async with supervising(a_child(roll, "processor"), a_child(roll, "worker", listener=listeners[0])) as running:
        [await roll.next(), await roll.next()]
        running.supervisor.restart()
        assert (await roll.next()).name == "worker"
        assert [line["child"] for line in await log.wait_for("child.stopped")] == ["worker"]
