"""Children are kept alive, heard and ended, as long as the supervisor lives, and no longer."""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chassis.supervisor import Child, back_off, in_words
from tests.supervising import A_CHILD, PATIENCE_SECONDS, Log, RollCall, a_child, heard, runs, supervising

pytestmark = pytest.mark.unmeasured

A_SUPERVISOR = """
import asyncio, sys
from chassis.supervisor import Child, Supervisor

async def main(a_child, roll):
    children = [Child(name, (roll, name, "steady"), heartbeat_seconds=5) for name in ("one", "two")]
    program = (sys.executable, "-P", "-c", a_child)
    await Supervisor(children, grace_seconds=5, program=program).run(asyncio.Event())

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def roll(tmp_path: Path) -> AsyncIterator[RollCall]:
    async with RollCall(tmp_path / "roll") as roll:
        yield roll


@pytest.fixture
def log() -> Iterator[Log]:
    with heard() as log:
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
