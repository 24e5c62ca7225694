"""`hookd processor`: the daemon, and `--once` for cron; started, hinted, killed and stopped as they will be."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from chassis.database import Connection
from processor.schedule import Schedule
from rig.hookd import PATIENCE_SECONDS, Hookd
from tests import commands
from tests.born import hookd
from tests.databases import execute
from tests.factories import an_event, at, counts, events, row_of
from tests.processing import Watch, an_app

pytestmark = pytest.mark.unmeasured

QUICK = '@hookd.on("*")\nasync def handle(event): pass\n'

# Waits inside until there is a file `gate`, once it has said so with a file of its id.
GATED = """
FOLDER = os.path.dirname(__file__)

@hookd.on("*")
async def handle(event):
    open(f"{FOLDER}/{event.id}", "w").close()
    while not os.path.exists(f"{FOLDER}/gate"):
        await asyncio.sleep(0.01)
"""

HANG = '@hookd.on("*")\ndef handle(event): time.sleep(60)\n'

SWALLOW = """
@hookd.on("*")
async def handle(event):
    open(__file__ + ".began", "w").close()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
"""


MAINTAINED = "INSERT INTO hookd.maintenance VALUES ('days', now() - $1::interval, 'by the test')"


def has_begun(folder: Path) -> bool:
    return any(folder.glob("*.began"))


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


def processor(database_url: str, app: str, *options: str, **settings: str) -> Any:
    given: dict[str, Any] = {"database_url": database_url, **settings}
    return hookd("processor", "--app", app, *options, **given)


def to_its_end(database_url: str, app: str, *options: str, **settings: str) -> commands.Ran:
    """The same, for one that ends by itself."""
    given = {f"HOOKD_{name.upper()}": value for name, value in settings.items()}
    here = commands.Hookd(Path(app).parent, {"HOOKD_DATABASE_URL": database_url, **given})
    return here("processor", "--app", app, *options)


async def said(command: Hookd) -> str:
    """What it printed, once it has ended."""
    assert command.process.stdout is not None
    printed, _ = await asyncio.gather(command.process.stdout.read(), command.ended())
    return printed.decode().strip()


def summary(line: str) -> dict[str, str]:
    return dict(word.split("=") for word in line.split())


async def exists(path: Path) -> None:
    async with asyncio.timeout(20):
        while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240 - a file tells nobody
            await asyncio.sleep(0.01)


async def cut_connections(connection: Connection, name: str = "hookd %") -> None:
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE $1",
        name,
    )


@contextlib.asynccontextmanager
async def away(server_url: str, connection: Connection) -> AsyncIterator[None]:
    """Nobody can connect to the database, and nobody is."""
    name = await connection.fetchval("SELECT current_database()")
    await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        await cut_connections(connection)
        yield
    finally:
        await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


# The schedule


async def test_the_schedule_rings() -> None:
    """The schedule rings at the start and from then on, also what is late: once, and not for each time it missed."""
    rung: list[float] = []
    maintained = asyncio.Event()
    schedule = Schedule(poll_seconds=0.2, drain=lambda: rung.append(time.monotonic()), maintain=maintained.set)
    schedule.start()
    time.sleep(1.5)  # noqa: ASYNC251 - held up for longer than APScheduler forgives of itself
    held_up_until = time.monotonic()
    await asyncio.wait_for(maintained.wait(), 10)  # which would else be skipped, and rung for in ten minutes
    while not (rung and rung[-1] > held_up_until):  # noqa: ASYNC110 - it rings, and tells nobody else
        await asyncio.sleep(0.01)
    schedule.stop()
    assert rung[-1] - held_up_until < 1
    assert len([moment for moment in rung if moment > held_up_until]) == 1


# The daemon


async def test_a_hint_wakes_it_at_once(database_url: str, connection: Connection, watch: Watch, tmp_path: Path) -> None:
    """It takes the backlog at start, and what is hinted at once; a hint that is missed costs time, never an event."""
    backlog = await events(connection, 5)
    async with processor(database_url, an_app(tmp_path, QUICK), poll_seconds="3600") as daemon:
        assert set(await watch.settled()) == set(backlog)
        for _ in range(3):
            event_id = await an_event(connection, received="now")
            began = time.monotonic()
            await connection.execute("NOTIFY hookd")
            assert event_id in await watch.settled()
            assert time.monotonic() - began < 1
        await an_event(connection, received="now")  # no hint
        await cut_connections(connection, "hookd processor listen")
        await watch.settled()
        assert await daemon.stop() == 0
    names = [line["event"] for line in daemon.lines]
    assert (names[0], names[-1]) == ("processor.started", "processor.stopped")


async def test_losing_every_hint_costs_latency(
    database_url: str, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """Without any hint, it looks on its schedule."""
    async with processor(database_url, an_app(tmp_path, QUICK), poll_seconds="0.2") as daemon:
        await daemon.logged("processor.started")
        for _ in range(3):
            event_id = await an_event(connection)
            assert (await watch.settled())[event_id] == ("processed", None)


async def test_a_killed_processor_lets_its_leases_run_out(
    database_url: str, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """After a kill -9 the leases run out, and the next claim takes the rows with their attempt counted."""
    event_id = await an_event(connection)
    app = an_app(tmp_path, GATED)
    async with processor(database_url, app, lease_seconds="1") as first:
        await exists(tmp_path / str(event_id))
        first.kill()
        await first.ended()
    row = await row_of(connection, event_id)
    assert (row["status"], row["attempts"], row["held_by"] is not None) == ("new", 1, True)
    (tmp_path / "gate").touch()
    async with processor(database_url, app, lease_seconds="1", poll_seconds="3600"):
        assert await watch.settled() == {event_id: ("processed", None)}
    row = await row_of(connection, event_id)
    assert (row["attempts"], row["claims"]) == (2, 2)


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
async def test_stopping(
    database_url: str, connection: Connection, watch: Watch, tmp_path: Path, name: signal.Signals
) -> None:
    """SIGTERM or Ctrl-C: it claims no more, running handlers end in their grace, the rest is handed back, exit 0."""
    ids = await events(connection, 3)
    async with processor(database_url, an_app(tmp_path, GATED), "--concurrency", "1") as daemon:
        await watch.until("(SELECT count(*) FROM hookd.events WHERE held_by IS NOT NULL) >= 2")
        daemon.process.send_signal(name)
        await daemon.logged("processor.stopping")
        await watch.until("(SELECT count(*) FROM hookd.events WHERE held_by IS NOT NULL) = 1")
        (tmp_path / "gate").touch()
        assert await daemon.ended() == 0
    statuses = sorted([(await row_of(connection, event_id))["status"] for event_id in ids])
    assert statuses == ["new", "new", "processed"]
    assert await connection.fetchval("SELECT max(attempts) FROM hookd.events WHERE status = 'new'") == 0
    assert await connection.fetchval("SELECT count(held_by) FROM hookd.events") == 0


async def test_a_second_signal_hurries(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """A second signal ends the grace: what runs is handed back, and the exit code is 0 all the same."""
    event_id = await an_event(connection)
    async with processor(database_url, an_app(tmp_path, GATED), grace_seconds="3600") as daemon:
        await exists(tmp_path / str(event_id))
        daemon.process.send_signal(signal.SIGTERM)
        await daemon.logged("processor.stopping")
        assert await daemon.stop() == 0
    row = await row_of(connection, event_id)
    assert (row["status"], row["held_by"], row["attempts"]) == ("new", None, 0)


@pytest.mark.any_server
async def test_a_hanging_handler_does_not_keep_it(
    database_url: str, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """It leaves without waiting for a thread, exit 0; a coroutine that will not be cancelled is left behind too."""
    await an_event(connection)
    async with processor(database_url, an_app(tmp_path, HANG), grace_seconds="0") as daemon:
        await watch.until("held_by IS NOT NULL")
        assert await daemon.stop() == 0
    assert await connection.fetchval("SELECT count(*) FROM hookd.events WHERE held_by IS NULL AND attempts = 0") == 1
    async with processor(database_url, an_app(tmp_path, SWALLOW), grace_seconds="0") as daemon:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not has_begun(tmp_path):  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
        assert await daemon.stop() == 1
    assert daemon.lines[-1]["event"] == "processor.left"


async def test_too_many_stuck_threads(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """Threads stuck beyond the limit: it hands over its rest and exits 1, to be started again."""
    await events(connection, 4)
    settings = {"handler_timeout_seconds": "0.2", "stuck_threads_max": "2", "concurrency": "2"}
    async with processor(database_url, an_app(tmp_path, HANG), **settings) as daemon:
        assert await daemon.ended() == 1
    assert any(line["event"] == "processor.stuck" for line in daemon.lines)
    # What hangs has had an attempt; the rest is handed over as if it had not been claimed.
    attempts = await connection.fetch("SELECT attempts FROM hookd.events WHERE held_by IS NULL ORDER BY 1")
    assert [row["attempts"] for row in attempts] == [0, 0, 1, 1]


@pytest.mark.any_server
async def test_it_starts_before_its_database(
    server_url: str, database_url: str, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """A database that is away, at the start or later, is waited for, and work goes on within 5 s of its return."""
    event_id = await an_event(connection)
    app = an_app(tmp_path, QUICK)
    async with contextlib.AsyncExitStack() as leaving:
        async with away(server_url, connection):
            daemon = await leaving.enter_async_context(processor(database_url, app))
            await daemon.logged("database.lost")
        began = time.monotonic()
        assert await watch.settled() == {event_id: ("processed", None)}
        assert time.monotonic() - began < 5
        async with away(server_url, connection):
            await daemon.logged("database.lost", 2)
        began = time.monotonic()
        await an_event(connection)
        assert set((await watch.settled()).values()) == {("processed", None)}
        assert time.monotonic() - began < 5
        assert await daemon.stop() == 0
    assert not [line for line in daemon.lines if line["event"] == "unstructured"]


@pytest.mark.any_server
async def test_a_database_that_was_not_migrated(empty_database_url: str, tmp_path: Path) -> None:
    """A database that waiting does not mend is one line and exit 1, as a daemon and with `--once`."""
    for options in ((), ("--once",)):
        refused = to_its_end(empty_database_url, an_app(tmp_path, QUICK), *options)
        words = "Error: the database has no hookd schema yet: run hookd migrate\n"
        assert (refused.code, refused.err) == (1, words)


# Once


async def test_once(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """`--once` drains what was due when it started, runs due maintenance, and prints one summary line."""
    await events(connection, 3)
    await an_event(connection, source="retry")
    await an_event(connection, source="reject")
    later = await an_event(connection, due="1 hour")
    await an_event(connection, status="processed", received="40 days ago")
    await connection.execute(MAINTAINED, timedelta(minutes=11))
    app = an_app(
        tmp_path,
        '@hookd.on("demo")\nasync def good(event): pass\n'
        '@hookd.on("retry")\ndef retry(event): raise hookd.Retry("again", after=0)\n'
        '@hookd.on("reject")\ndef reject(event): raise hookd.Reject("never")\n',
    )
    once = to_its_end(database_url, app, "--once")
    assert once.code == 0
    told = summary(once.out)
    assert {name: told[name] for name in ("processed", "failed", "retried", "handed_back")} == {
        "processed": "3", "failed": "1", "retried": "1", "handed_back": "0"
    }  # fmt: skip
    assert float(told["seconds"]) < 20
    assert told["left_due"] == "True"  # the retry became due after its start
    assert (await row_of(connection, later))["claims"] == 0
    assert (
        await connection.fetchval("SELECT count(*) FROM hookd.events WHERE received_at < now() - interval '39 d'") == 0
    )
    succeeded = await connection.fetch("SELECT step FROM hookd.maintenance ORDER BY 1")
    assert [step for (step,) in succeeded] == ["days", "keys", "refused", "retention"]


async def test_one_drain_at_a_time(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """A second `--once` says that one is at work and exits 0; maintenance that was done lately is not done again."""
    event_id = await an_event(connection)
    await connection.execute(MAINTAINED, timedelta(minutes=9))
    app = an_app(tmp_path, GATED)
    async with processor(database_url, app, "--once") as first:
        await exists(tmp_path / str(event_id))
        async with processor(database_url, app, "--once") as second:
            assert "another hookd processor --once is at work" in await said(second)
            assert await second.ended() == 0
        (tmp_path / "gate").touch()
        assert summary(await said(first))["processed"] == "1"
        assert await first.ended() == 0
    assert await connection.fetchval("SELECT string_agg(detail, '') FROM hookd.maintenance") == "by the test"


async def test_names_beyond_a_hundred(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """Of the sources that the counters know already: the next one is counted as `other`, whichever process counts."""
    await connection.execute(
        "INSERT INTO hookd.counts SELECT (now() AT TIME ZONE 'UTC')::date, 's' || n, 'processed', 1"
        " FROM generate_series(1, 100) AS n"
    )
    for source in ("s7", "new"):
        await an_event(connection, source=source)
    assert to_its_end(database_url, an_app(tmp_path, QUICK), "--once").code == 0
    counted = await counts(connection)
    assert (counted["s7", "processed"], counted["other", "processed"]) == (2, 1)
    assert len(counted) == 101


async def test_once_ends_in_time(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """`--for` bounds it: what has not ended then is handed back for the next one, and the summary says so."""
    await events(connection, 2)
    once = to_its_end(database_url, an_app(tmp_path, GATED), "--once", "--for", "0.5s", grace_seconds="0")
    assert once.code == 0
    told = summary(once.out)
    assert (told["processed"], told["handed_back"], told["left_due"]) == ("0", "2", "True")
    assert await connection.fetchval("SELECT max(attempts) FROM hookd.events") == 0


@pytest.mark.any_server
async def test_once_without_a_database(
    server_url: str, database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """`--once` exits 1 with one clear line when the database is away, at its start as in the middle."""
    event_id = await an_event(connection)
    app = an_app(tmp_path, GATED)
    async with processor(database_url, app, "--once", poll_seconds="0.1") as once:
        await exists(tmp_path / str(event_id))
        async with away(server_url, connection):
            (tmp_path / "gate").touch()
            assert await once.ended() == 1
            async with processor(database_url, app, "--once") as late:
                assert await late.ended() == 1
    for each in (once, late):
        (words,) = [line["text"] for line in each.lines if line["event"] == "unstructured"]
        assert words.startswith("Error: PostgreSQL ")
    row = await row_of(connection, event_id)
    assert row["status"] == "new"


async def test_the_daemon_runs_maintenance(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """Maintenance runs at the start, and notes when each of its steps succeeded."""
    last = (await at(connection, "14 days")).date()
    await connection.execute(f"DROP TABLE hookd.events_{last:%Y%m%d}, hookd.attempts_{last:%Y%m%d}")
    async with processor(database_url, an_app(tmp_path, QUICK)) as daemon:
        await daemon.logged("processor.started")
        async with asyncio.timeout(20):
            while await connection.fetchval("SELECT count(*) FROM hookd.maintenance") < 3:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        assert await daemon.stop() == 0
    assert await connection.fetchval("SELECT max(day) FROM hookd.days()") == last
    assert await connection.fetchval("SELECT detail FROM hookd.maintenance WHERE step = 'days'") == "1 made"
