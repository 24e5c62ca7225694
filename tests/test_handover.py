"""What is held, when a processor stops, loses its leases or its database: handed back, dropped or settled late."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs

import hookd
from chassis.database import Connection, Database
from processor.holding.claimed import Claimed
from processor.holding.lease import Leases
from processor.store import Store
from tests.databases import execute
from tests.factories import an_event, events, row_of
from tests.holding import seconds_until
from tests.processing import Gate, Watch, a_handler, processing

CLAIM_WAITS = """
SELECT EXISTS (SELECT FROM pg_stat_activity
                WHERE datname = current_database() AND application_name LIKE 'hookd processor claim%'
                  AND wait_event_type = 'Lock' AND query LIKE '%UPDATE hookd.events%')
"""


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


# Stopping


async def test_stopping_hands_back_what_waits(database: Database, connection: Connection, watch: Watch) -> None:
    """Told to stop, it claims no more, hands back what has not started with its attempt, and lets handlers finish."""
    ids = await events(connection, 4)
    gate = Gate()
    async with processing(database, gate.pass_through, concurrency=2, grace_seconds=20) as parts:
        await gate.entered(2)
        running = set(gate.inside)
        await watch.until("(SELECT count(*) FROM hookd.events WHERE held_by IS NOT NULL) = 4")
        stopping = asyncio.create_task(parts.drain.stop(20, asyncio.Event()))
        await watch.until(
            "(SELECT count(*) FROM hookd.events WHERE held_by IS NULL AND attempts = 0 AND claims = 1) = 2"
        )
        late = await an_event(connection)
        gate.open()
        await stopping
    rows = {event_id: await row_of(connection, event_id) for event_id in [*ids, late]}
    assert {event_id for event_id, row in rows.items() if row["status"] == "processed"} == running
    for event_id in set(rows) - running:
        assert (rows[event_id]["held_by"], rows[event_id]["attempts"]) == (None, 0)
    assert rows[late]["claims"] == 0


@pytest.mark.parametrize("is_hurried", [False, True])
async def test_the_grace_ends(database: Database, connection: Connection, is_hurried: bool) -> None:
    """When the grace is over, or a second signal came, what runs is cut off and handed back with its attempt."""
    event_id = await an_event(connection)
    thread_id = await an_event(connection, source="thread")
    gate, release, hurry = Gate(), threading.Event(), asyncio.Event()
    began, loop = asyncio.Event(), asyncio.get_running_loop()

    def hang(event: hookd.Event) -> None:
        loop.call_soon_threadsafe(began.set)
        release.wait(20)

    async with processing(database, gate.pass_through, a_handler(hang, "thread"), grace_seconds=0) as parts:
        await gate.entered()
        await began.wait()
        if is_hurried:
            hurry.set()
        await asyncio.wait_for(parts.drain.stop(20 if is_hurried else 0.05, hurry), 10)
    release.set()
    assert gate.ended == [(event_id, "cut")]
    for each in (event_id, thread_id):
        row = await row_of(connection, each)
        assert (row["status"], row["held_by"], row["attempts"], row["claims"]) == ("new", None, 0, 1)
        assert await connection.fetchval("SELECT due_at <= now() FROM hookd.events WHERE id = $1", each)


async def test_stopping_while_a_body_waits_for_room(database: Database, connection: Connection, watch: Watch) -> None:
    """An event whose body is still to be fetched has not started: it is handed back with its attempt."""
    first = await an_event(connection, payload=b"x" * 600_000, due="1 hour ago")
    second = await an_event(connection, payload=b"x" * 600_000)
    gate = Gate()
    async with processing(database, gate.pass_through, concurrency=2, held_bytes_max=1 << 20) as parts:
        await gate.entered()
        await watch.until("id = $1 AND held_by IS NOT NULL", second)
        stopping = asyncio.create_task(parts.drain.stop(20, asyncio.Event()))
        await watch.until("id = $1 AND held_by IS NULL", second)
        gate.open()
        await stopping
    assert gate.ended == [(first, "done")]
    row = await row_of(connection, second)
    assert (row["status"], row["attempts"], row["claims"]) == ("new", 0, 1)


async def test_stopping_in_the_middle_of_a_claim(database: Database, connection: Connection) -> None:
    """What a claim brings that was on its way when it was told to stop is handed back, with its attempt."""
    gate = Gate()
    async with processing(database, gate.pass_through) as parts:
        async with connection.transaction():
            await connection.execute("LOCK TABLE hookd.events")
            event_id = await an_event(connection)
            async with asyncio.timeout(20):
                while not await connection.fetchval(CLAIM_WAITS):
                    # Within a transaction PostgreSQL shows the same picture of its backends again and again.
                    await connection.execute("SELECT pg_stat_clear_snapshot()")
                    parts.claimer.ring()
            stopping = asyncio.create_task(parts.drain.stop(0, asyncio.Event()))
            await asyncio.sleep(0)
        await stopping
        row = await row_of(connection, event_id)
    assert (row["held_by"], row["attempts"], row["claims"]) == (None, 0, 1)
    assert gate.ended == []


# Very often


async def test_events_wait_for_their_handler_however_often_they_are_looked_at(
    database: Database, connection: Connection, watch: Watch
) -> None:
    """Without a handler for their source they are handed back as long as the settings say, and no attempt counts."""
    early = await an_event(connection, source="shop", claims=150, received="90 minutes ago")
    late = await an_event(connection, source="shop", claims=150, received="3 hours ago")
    async with processing(database, a_handler(Gate().pass_through, "other"), unhandled_seconds=7200):
        await watch.until("id = $1 AND held_by IS NULL AND claims = 151", early)
        await watch.until("id = $1 AND status = 'failed'", late)
    row = await row_of(connection, early)
    assert (row["status"], row["attempts"]) == ("new", 0)
    assert (await row_of(connection, late))["reason"] == "no handler for source 'shop'"


async def test_what_waited_for_a_worker_keeps_its_attempts(
    database: Database, connection: Connection, watch: Watch
) -> None:
    """Of what a processor holds when it stops only what ran may count, after a hundred claims."""
    running = await an_event(connection, due="1 hour ago", claims=150)
    waiting = await an_event(connection, claims=150)
    gate = Gate()
    async with processing(database, gate.pass_through, concurrency=1, grace_seconds=0):
        await gate.entered()
        await watch.until("id = $1 AND held_by IS NOT NULL", waiting)
    assert [(await row_of(connection, each))["attempts"] for each in (running, waiting)] == [1, 0]


async def test_what_cannot_be_made_ready_for_long_fails_after_days(
    database: Database, connection: Connection, watch: Watch, server_url: str
) -> None:
    """After a hundred claims in vain the next are attempts, with their waits: no outage of minutes fails an event."""
    name = await connection.fetchval("SELECT current_database()")

    async def write(event: hookd.Event, conn: asyncpg.Connection) -> None: ...

    async with processing(database, write) as parts:
        await parts.store.check()
        await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        event_id = await an_event(connection, claims=150, attempts=3)
        await watch.until("id = $1 AND held_by IS NULL AND claims = 151", event_id)
        await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert (await row_of(connection, event_id))["attempts"] == 4
    assert await seconds_until(connection, event_id) > 3600


# Leases


async def test_a_blocked_event_loop_keeps_its_lease(database: Database, connection: Connection, watch: Watch) -> None:
    """A handler that blocks the event loop for longer than the lease does not lose it: a thread of its own renews."""
    event_id = await an_event(connection)
    blocked, stolen = threading.Event(), []

    async def block(event: hookd.Event) -> None:
        blocked.set()
        time.sleep(1.8)  # noqa: ASYNC251 - what no handler should do
        blocked.clear()

    async def steal() -> None:
        rival = Store(database, "a rival", lease_seconds=60)
        await rival.check()
        blocked.wait(20)
        while blocked.is_set():
            stolen.extend(await rival.queue.claim(1, 1 << 20, None, time.monotonic))
        await rival.close()

    thief = asyncio.create_task(asyncio.to_thread(asyncio.run, steal()))
    async with processing(database, block, lease_seconds=1.0):
        assert await watch.settled() == {event_id: ("processed", None)}
    await thief
    assert stolen == []


async def test_a_lost_lease(database: Database, connection: Connection, watch: Watch) -> None:
    """A row that it could not renew twice is lost: its run is cancelled, its result dropped, its place given free."""
    event_id = await an_event(connection)
    gate = Gate()
    async with processing(database, gate.pass_through, lease_seconds=1.0, concurrency=1) as parts:
        await gate.entered()
        await connection.execute(
            "UPDATE hookd.events SET claims = claims + 1, held_by = 'another', due_at = now() + interval '1 h'"
        )
        other = await an_event(connection)
        await gate.until(lambda gate: other in gate.inside)
        assert gate.ended == [(event_id, "cut")]
        gate.open()
        await watch.until("id = $1 AND status = 'processed'", other)
    assert len(parts.leases) == 0
    row = await row_of(connection, event_id)
    assert (row["status"], row["held_by"], row["claims"]) == ("new", "another", 2)


async def test_a_row_claimed_twice_by_one_process(database: Database) -> None:
    """Where a process claims a row whose lease it lost, the former run is cut off, and the latter's lease is kept."""
    told: list[bool] = []
    leases = Leases(database, lease_seconds=60, lost=lambda: told.append(True))
    former, latter = (Claimed({"id": UUID(int=1), "claims": n}, time.monotonic() + 60) for n in (1, 2))
    leases.hold([former])
    leases.hold([latter])
    await asyncio.sleep(0)
    assert (former.lost, latter.lost, told) == (True, False, [True])
    leases.let_go([former])
    assert len(leases) == 1
    leases.let_go([latter])
    assert len(leases) == 0


REFUSE_RENEWALS = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW.attempts / 0; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON hookd.events FOR EACH ROW
WHEN (OLD.held_by = NEW.held_by AND OLD.claims = NEW.claims) EXECUTE FUNCTION public.refuse();
"""


async def test_a_renewal_that_is_refused(database: Database, connection: Connection, watch: Watch) -> None:
    """Whatever PostgreSQL says of it, leases are tried to be renewed until they have run out."""
    event_id = await an_event(connection)
    await connection.execute(REFUSE_RENEWALS)
    gate = Gate()
    with capture_logs() as logs:
        async with processing(database, gate.pass_through, lease_seconds=6.0):
            await gate.entered()
            claimed = await row_of(connection, event_id)
            async with asyncio.timeout(20):
                while "lease.unrenewed" not in {line["event"] for line in logs}:  # noqa: ASYNC110 - it tells its log
                    await asyncio.sleep(0.02)
            await connection.execute("DROP TRIGGER refuse ON hookd.events")
            await watch.until("id = $1 AND due_at > $2", event_id, claimed["due_at"])
            gate.open()
            assert await watch.settled() == {event_id: ("processed", None)}
    assert gate.ended == [(event_id, "done")]
    assert (await row_of(connection, event_id))["claims"] == 1


# The database


@pytest.fixture
async def lock_out(server_url: str, connection: Connection) -> Callable[[], Any]:
    """Shut the test's database for everybody, and open it again."""
    name = await connection.fetchval("SELECT current_database()")

    @contextlib.asynccontextmanager
    async def away() -> AsyncIterator[None]:
        await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        try:
            yield
        finally:
            await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    return away


async def test_the_database_goes_away(
    database: Database, connection: Connection, watch: Watch, lock_out: Callable[[], Any]
) -> None:
    """While the database is away handlers run on, and results wait for it: nothing is lost, nothing done twice."""
    await events(connection, 20)
    gate, ran = Gate(), []

    async def note(event: hookd.Event) -> None:
        ran.append(event.id)
        await gate.pass_through(event)

    with capture_logs() as logs:
        async with processing(database, note, concurrency=5) as parts:
            await gate.entered(5)
            async with lock_out():
                gate.open()
                await gate.until(lambda gate: len(gate.ended) >= 5)
                while parts.claimer.failure is None:  # noqa: ASYNC110 - it tells its log
                    await asyncio.sleep(0.01)
            began = time.monotonic()
            assert set((await watch.settled()).values()) == {("processed", None)}
            assert time.monotonic() - began < 5
            while parts.claimer.failure is not None:  # noqa: ASYNC110 - it tells its log
                await asyncio.sleep(0.01)
    assert len(ran) == len(set(ran)) == 20
    said = [line["event"] for line in logs]
    assert said.count("database.lost") == said.count("database.back") == 1
    assert await connection.fetchval("SELECT max(attempts) FROM hookd.events") == 1
