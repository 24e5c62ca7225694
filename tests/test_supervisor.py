"""Children are kept alive, heard, replaced and ended; no connection that waits for one of them is lost."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from chassis.sockets import open_listeners
from chassis.supervisor import Child, Supervisor, back_off, in_words

pytestmark = pytest.mark.unmeasured

PATIENCE_SECONDS = 20.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

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

A_SUPERVISOR = """
import asyncio, sys
from chassis.supervisor import Child, Supervisor

async def main(a_child, roll):
    children = [Child(name, (roll, name, "steady"), heartbeat_seconds=5) for name in ("one", "two")]
    program = (sys.executable, "-P", "-c", a_child)
    await Supervisor(children, grace_seconds=5, program=program).run(asyncio.Event())

asyncio.run(main(*sys.argv[1:]))
"""


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


@pytest.fixture
async def roll(tmp_path: Path) -> AsyncIterator[RollCall]:
    async with RollCall(tmp_path / "roll") as roll:
        yield roll


@dataclass(frozen=True)
class Running:
    supervisor: Supervisor
    stop: asyncio.Event
    task: asyncio.Task[int]

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.task


A_CHILD_PROGRAM = (sys.executable, "-P", "-c", A_CHILD)
AN_ECHO_PROGRAM = (sys.executable, "-P", "-c", AN_ECHO_WORKER)


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


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    with capture_logs(processors=[log]):
        yield log


# --- alive


async def test_a_child_that_dies_is_started_again(roll: RollCall, log: Log) -> None:
    """A child that was killed is started again, and the log says which signal it was."""
    async with supervising(a_child(roll)):
        first = await roll.next()
        os.kill(first.pid, signal.SIGKILL)
        second = await roll.next()
    assert not runs(first.pid)
    [died] = log.of("child.died")
    assert (died["child"], died["pid"], died["signal"]) == ("one", first.pid, "SIGKILL")
    assert [line["pid"] for line in log.of("child.started")] == [first.pid, second.pid]


def test_the_wait_before_a_start_doubles() -> None:
    """A child that dies at once is started again after 1, 2, 4, 8, 16 s, then every 30 s."""
    waits = itertools.accumulate(range(7), lambda previous, _: back_off(previous, lived=0.1, first=1.0), initial=0.0)
    assert list(waits)[1:] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_a_long_life_forgives() -> None:
    """A child that lived for 60 s is started again after 1 s, whatever was before."""
    assert back_off(30.0, lived=59.9, first=1.0) == 30.0
    assert back_off(30.0, lived=60.0, first=1.0) == 1.0


def test_a_death_is_told_by_its_signals_name() -> None:
    """The log names the signal that ended a child; one without a name is told by its number."""
    assert in_words(3) == {"exit_code": 3}
    assert in_words(-9) == {"signal": "SIGKILL"}
    assert in_words(-40) == {"exit_code": -40}


async def test_children_are_equals(roll: RollCall, log: Log) -> None:
    """A child that dies again and again takes nothing from its neighbour, and waits longer each time."""
    async with supervising(a_child(roll, "steady"), a_child(roll, "broken", "exit 1")) as running:
        steady = await roll.next()
        deaths = await log.wait_for("child.died", 3)
        running.stop.set()
        assert await running.ended() == 0
    assert [(line["exit_code"], line["again_in_seconds"]) for line in deaths] == [(1, 0.05), (1, 0.1), (1, 0.2)]
    assert await steady.ended() == b"bye\n"


async def test_a_program_that_cannot_be_started_is_seen(log: Log) -> None:
    """A missing program is a death like any other: in the log, and tried again."""
    async with supervising(Child("one", ()), program=("/no/such/program",)) as running:
        [first, _] = await log.wait_for("child.died", 2)
        running.stop.set()
        assert await running.ended() == 0
    assert "No such file" in first["error"]


# --- called wrongly


async def test_wrong_usage_ends_everything(roll: RollCall, log: Log) -> None:
    """A child that exits with 2 before it was ever ready ends all, with that exit code: a mistake is seen at once."""
    async with supervising(a_child(roll, "right"), a_child(roll, "wrong", "exit 2")) as running:
        assert await running.ended() == 2
    assert log.of("child.refused")[0]["child"] == "wrong"
    assert not any(runs(line["pid"]) for line in log.of("child.started"))


async def test_a_later_mistake_does_not_end_a_running_service(roll: RollCall, log: Log) -> None:
    """A child that was ready once and then exits with 2 is started again as after any death."""
    async with supervising(a_child(roll, manner="brief")):
        for _ in range(2):
            (await roll.next()).writer.write(b"!")
        await roll.next()
    assert [line["exit_code"] for line in log.of("child.died")] == [2, 2]


# --- silent


async def test_a_silent_child_is_replaced(roll: RollCall, log: Log) -> None:
    """A child whose event loop hangs falls silent, is killed and started again."""
    async with supervising(a_child(roll, manner="frozen", heartbeat_seconds=0.5)):
        first, second = await roll.next(), await roll.next()
    assert first.pid != second.pid
    assert log.of("child.silent")[0]["pid"] == first.pid
    assert log.of("child.died")[0]["signal"] == "SIGKILL"


async def test_a_child_that_never_says_a_word_is_replaced(roll: RollCall, log: Log) -> None:
    """A child that hangs while it starts is killed too, after a longer time."""
    async with supervising(a_child(roll, manner="mute", heartbeat_seconds=0.1, start_seconds=0.2)):
        [first, second] = await log.wait_for("child.started", 2)
    assert log.of("child.silent")[0]["pid"] == first["pid"]
    assert not runs(second["pid"])


async def test_an_unwatched_child_may_be_silent(roll: RollCall) -> None:
    """A handler may hold a processor's event loop for long, while a receiver as silent is replaced time and again."""
    processor = a_child(roll, "processor", "frozen")
    worker = a_child(roll, "worker", "frozen", heartbeat_seconds=0.3)
    async with supervising(processor, worker):
        arrived = [(await roll.next()).name for _ in range(4)]
    assert sorted(arrived) == ["processor", "worker", "worker", "worker"]


async def test_a_supervisor_that_was_held_up_condemns_nobody(roll: RollCall, log: Log) -> None:
    """A child that beat all the while is not called silent because its supervisor did not listen (Ctrl-Z)."""
    async with supervising(a_child(roll, heartbeat_seconds=1.0)) as running:
        child = await roll.next()
        time.sleep(1.5)  # noqa: ASYNC251 - the hold-up itself
        await asyncio.sleep(0.3)  # time to look
        running.stop.set()
        assert await running.ended() == 0
    assert await child.ended() == b"bye\n"
    assert log.of("child.silent") == []


# --- ended


async def test_a_stop_ends_all_in_order(roll: RollCall, log: Log) -> None:
    """At a stop each child gets SIGTERM and leaves by itself; the supervisor exits with 0 when the last is gone."""
    async with supervising(a_child(roll, "one"), a_child(roll, "two")) as running:
        children = [await roll.next(), await roll.next()]
        running.stop.set()
        assert await running.ended() == 0
    assert [await each.ended() for each in children] == [b"bye\n", b"bye\n"]
    assert not any(runs(each.pid) for each in children)
    assert [line["exit_code"] for line in log.of("child.stopped")] == [0, 0]


async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(roll: RollCall, log: Log) -> None:
    """A child that does not leave within the grace is killed, and the log says so."""
    async with supervising(a_child(roll, manner="deaf"), grace_seconds=0.3) as running:
        child = await roll.next()
        running.stop.set()
        assert await running.ended() == 0
    assert not runs(child.pid)
    assert log.of("child.overdue")[0]["pid"] == child.pid
    assert log.of("child.stopped")[0]["signal"] == "SIGKILL"


async def test_a_second_stop_has_no_grace(roll: RollCall) -> None:
    """A second stop signal kills at once what still runs."""
    async with supervising(a_child(roll, manner="deaf"), grace_seconds=3600) as running:
        child = await roll.next()
        running.stop.set()
        running.supervisor.stop_now()
        assert await running.ended() == 0
    assert not runs(child.pid)


async def test_a_stop_does_not_wait_for_a_back_off(roll: RollCall, log: Log) -> None:
    """A child that waits to be started again holds up no stop."""
    async with supervising(a_child(roll, manner="exit 1"), first_wait_seconds=3600) as running:
        await log.wait_for("child.died")
        running.stop.set()
        assert await running.ended() == 0


async def test_no_child_outlives_a_cancelled_supervisor(roll: RollCall) -> None:
    """A supervisor that is cancelled leaves neither a running child nor a zombie."""
    async with supervising(a_child(roll, "one"), a_child(roll, "two", "deaf")) as running:
        children = [await roll.next(), await roll.next()]
        running.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running.ended()
        assert not any(runs(each.pid) for each in children)


async def test_children_end_with_a_supervisor_that_is_killed(roll: RollCall) -> None:
    """After a kill -9 of the supervisor its children find the line dead, and leave in order."""
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", A_SUPERVISOR, A_CHILD, str(roll.path), stdout=asyncio.subprocess.DEVNULL
    )
    children = [await roll.next(), await roll.next()]
    supervisor.kill()
    await supervisor.wait()
    assert [await each.ended() for each in children] == [b"bye\n", b"bye\n"]


# Dies as slowly as one that is killed on a busy machine: its end of the line is closed first, all else later.
A_SLOW_DEATH = """
import os, socket, subprocess, sys, time
ours, theirs = socket.socketpair()
theirs.set_inheritable(True)
subprocess.Popen((sys.executable, "-P", "-c", sys.argv[1], str(theirs.fileno())), pass_fds=(theirs.fileno(),))
theirs.close()
ours.recv(1)
ours.close()
time.sleep(0.3)
"""
AN_HEIR = """
import asyncio, os, sys
from chassis.lifeline import Lifeline
parent = os.getppid()
asyncio.run(Lifeline(int(sys.argv[1]), parent).watch())
print("orphan" if os.getppid() != parent else "child")
"""


async def test_a_child_leaves_after_its_supervisor() -> None:
    """Who finds the line dead waits until its supervisor is gone: what that one locked is free then."""
    supervisor = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", A_SLOW_DEATH, AN_HEIR, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        said, _ = await supervisor.communicate()
    assert said == b"orphan\n"


# --- nothing lost


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
