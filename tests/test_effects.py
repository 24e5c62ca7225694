"""What a handler writes through its connection is committed with its event, or not at all, whatever happens."""

import asyncio
import contextlib

import asyncpg
import pytest
from structlog.testing import capture_logs

import hookd as api
from chassis.database import Connection, Database
from processor.handling.declare import Declaration
from processor.handling.handler import handler_of
from tests.factories import an_event, counts, row_of
from tests.ledger import (
    HANDLERS_PIDS,
    PATIENCE_SECONDS,
    WAITS_FOR_ITS_RETRY,
    WITHIN_ONE,
    WRITE,
    Waiting,
    has_left,
    over_a_ledger,
    write,
    written,
)
from tests.processing import Watch, a_handler, processing


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await over_a_ledger(connection)


# Both or neither


async def test_both_are_committed_at_once(database: Database, connection: Connection, watch: Watch) -> None:
    """What a handler writes and the settle of its event are one transaction; all else is as after any other settle."""
    event_id = await an_event(connection, source="shop")
    async with processing(database, a_handler(write, "shop"), record_attempts="all") as parts:
        assert await watch.settled() == {event_id: ("processed", None)}
        assert await connection.fetchval(WITHIN_ONE, event_id) is True
    assert parts.tally.total["processed"] == 1
    row = await row_of(connection, event_id)
    assert (row["held_by"], row["attempts"], row["claims"]) == (None, 1, 1)
    assert await counts(connection) == {("shop", "processed"): 1}
    attempt = await connection.fetchrow("SELECT claim, attempt, error, ended_at FROM hookd.attempts")
    assert attempt is not None
    assert tuple(attempt) == (1, 1, None, row["finished_at"])
    assert len(parts.leases) == 0


async def test_its_end_is_when_it_was_settled(database: Database, connection: Connection, watch: Watch) -> None:
    """Not when its transaction began."""
    event_id = await an_event(connection)

    async def linger(event: api.Event, conn: asyncpg.Connection) -> None:
        await conn.execute("CREATE TABLE public.began AS SELECT now() AS at, clock_timestamp() AS before")
        await conn.execute("SELECT pg_sleep(0.05)")

    async with processing(database, linger):
        await watch.settled()
    finished_at = (await row_of(connection, event_id))["finished_at"]
    assert await connection.fetchval("SELECT $1 > before AND before > at FROM public.began", finished_at) is True


async def fails(event: api.Event, conn: asyncpg.Connection) -> None:
    await write(event, conn)
    raise KeyError("repository")


async def retries(event: api.Event, conn: asyncpg.Connection) -> None:
    await write(event, conn)
    raise api.Retry("later", after=3600)


async def rejects(event: api.Event, conn: asyncpg.Connection) -> None:
    await write(event, conn)
    raise api.Reject("never")


async def test_nothing_is_saved_of_a_run_that_failed(database: Database, connection: Connection, watch: Watch) -> None:
    """Of a handler that raises nothing is saved; its event is retried, or has failed, as any other's."""
    functions = {"fails": fails, "retries": retries, "rejects": rejects}
    ids = {source: await an_event(connection, source=source) for source in functions}
    async with processing(database, *(a_handler(function, source) for source, function in functions.items())):
        await watch.until("NOT EXISTS (SELECT FROM hookd.events WHERE held_by IS NOT NULL OR claims = 0)")
    assert await written(connection) == []
    rows = {source: await row_of(connection, event_id) for source, event_id in ids.items()}
    assert {source: (row["status"], row["reason"], row["attempts"]) for source, row in rows.items()} == {
        "fails": ("new", "KeyError: 'repository'", 1),
        "retries": ("new", "later", 1),
        "rejects": ("failed", "never", 1),
    }
    assert await connection.fetchval("SELECT count(*) FROM hookd.attempts") == 3


ELSEWHERE = {
    "another has it": "UPDATE hookd.events SET claims = claims + 1, held_by = 'b', due_at = now() + interval '1 h'",
    "another has settled it": (
        "UPDATE hookd.events SET claims = claims + 1, held_by = NULL, status = 'processed', finished_at = now()"
    ),
    "it was replayed": "UPDATE hookd.events SET held_by = NULL, attempts = 0, due_at = now() + interval '1 h'",
}


@pytest.mark.parametrize("what", ELSEWHERE)
async def test_nothing_is_saved_where_the_event_is_anothers(
    database: Database, connection: Connection, watch: Watch, what: str
) -> None:
    """A run whose settle finds its row no more is rolled back, and changes nothing of the row."""
    event_id = await an_event(connection)
    gate = Waiting()
    with capture_logs() as logs:
        async with processing(database, gate.write_and_wait) as parts:
            await gate.entered()
            await connection.execute(ELSEWHERE[what])
            before = await row_of(connection, event_id)
            gate.open()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(parts.leases):  # noqa: ASYNC110 - they tell nobody
                    await asyncio.sleep(0.01)
    assert await written(connection) == []
    assert await row_of(connection, event_id) == before
    assert [line["event"] for line in logs] == ["transaction.rolled_back"]
    assert await counts(connection) == {}


async def test_a_replay_in_the_middle_of_a_run(database: Database, connection: Connection, watch: Watch) -> None:
    """What was done for an event that is replayed meanwhile is undone; the run after the replay is what counts."""
    event_id = await an_event(connection)
    runs = 0

    async def replayed(event: api.Event, conn: asyncpg.Connection) -> None:
        nonlocal runs
        runs += 1
        await write(event, conn)
        if runs == 1:
            await connection.execute("UPDATE hookd.events SET held_by = NULL, attempts = 0, due_at = now()")

    async with processing(database, replayed):
        assert await watch.settled() == {event_id: ("processed", None)}
    assert (await written(connection), runs) == ([event_id], 2)


# Time-outs, shutdown, leases


async def test_the_time_out_of_a_transaction(database: Database, connection: Connection, watch: Watch) -> None:
    """At its time-out, which is one of its own, a run is rolled back and its connection given up."""
    event_id = await an_event(connection)
    gate = Waiting()
    async with processing(database, gate.write_and_wait, transaction_timeout_seconds=0.2):
        await gate.entered()
        (pid,) = await connection.fetchval(HANDLERS_PIDS)
        await watch.until(WAITS_FOR_ITS_RETRY, event_id, 1)
        await has_left(connection, pid)
    assert gate.ended == [(event_id, "cut")]
    assert (await row_of(connection, event_id))["reason"].startswith("timed out after 0.")
    assert await written(connection) == []


async def test_a_statement_that_takes_too_long(database: Database, connection: Connection, watch: Watch) -> None:
    """A statement that goes on at the time-out is cancelled on the server: what it had locked is free."""
    event_id = await an_event(connection)

    async def linger(event: api.Event, conn: asyncpg.Connection) -> None:
        await conn.execute("LOCK TABLE ledger")
        await conn.execute("SELECT pg_sleep(3600)")

    async with processing(database, linger, transaction_timeout_seconds=0.2):
        await watch.until(WAITS_FOR_ITS_RETRY, event_id, 1)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await written(connection) == []


async def test_a_handler_that_is_not_to_be_cancelled(database: Database, connection: Connection, watch: Watch) -> None:
    """One that swallows its cancellation loses its connection all the same."""
    event_id = await an_event(connection)
    raised: list[Exception] = []

    async def swallow(event: api.Event, conn: asyncpg.Connection) -> None:
        await write(event, conn)
        while not raised:
            with contextlib.suppress(asyncio.CancelledError, asyncpg.PostgresError):
                await asyncio.sleep(0.01)
                try:
                    await conn.execute(WRITE, event.id)
                except asyncpg.InterfaceError as error:
                    raised.append(error)

    async with processing(database, swallow, transaction_timeout_seconds=0.2):
        await watch.until(WAITS_FOR_ITS_RETRY, event_id, 1)
    assert len(raised) == 1
    assert await written(connection) == []


async def test_its_own_time_out_is_the_handlers(database: Database, connection: Connection, watch: Watch) -> None:
    """`timeout=` of a handler counts for its transaction too."""
    gate = Waiting()
    event_id = await an_event(connection)
    declared = Declaration(gate.write_and_wait, "app.py:1", source="demo", timeout_seconds=0.2)
    async with processing(database, handler_of(declared)):
        await watch.until(WAITS_FOR_ITS_RETRY, event_id, 1)
    assert gate.ended == [(event_id, "cut")]


async def test_shutdown(database: Database, connection: Connection, watch: Watch) -> None:
    """When the grace is over a run is rolled back, and its event handed back with its attempt."""
    event_id = await an_event(connection)
    waiting = await an_event(connection)
    gate = Waiting()
    async with processing(database, gate.write_and_wait, grace_seconds=0, handler_connections=1):
        await gate.entered()
        await watch.until("(SELECT count(held_by) FROM hookd.events) = 2")
    assert [end for _, end in gate.ended] == ["cut"]
    assert await written(connection) == []
    for each in (event_id, waiting):
        row = await row_of(connection, each)
        assert (row["status"], row["held_by"], row["attempts"], row["claims"]) == ("new", None, 0, 1)


async def test_shutdown_lets_a_run_end_in_its_grace(database: Database, connection: Connection, watch: Watch) -> None:
    """A run that ends within the grace is committed."""
    event_id = await an_event(connection)
    gate = Waiting()
    async with processing(database, gate.write_and_wait) as parts:
        await gate.entered()
        stopping = asyncio.create_task(parts.drain.stop(PATIENCE_SECONDS, asyncio.Event()))
        await asyncio.sleep(0)
        gate.open()
        await stopping
    assert await written(connection) == [event_id]
    assert (await row_of(connection, event_id))["status"] == "processed"


async def test_its_lease_is_renewed(database: Database, connection: Connection, watch: Watch) -> None:
    """While the transaction is open the event's lease is put forward, and its end is not kept out by that."""
    event_id = await an_event(connection)
    gate = Waiting()
    async with processing(database, gate.write_and_wait, lease_seconds=1.0):
        await gate.entered()
        for _ in range(3):
            await watch.until("due_at > $1", (await row_of(connection, event_id))["due_at"])
        gate.open()
        assert await watch.settled() == {event_id: ("processed", None)}
    assert await written(connection) == [event_id]


async def test_a_lost_lease(database: Database, connection: Connection, watch: Watch) -> None:
    """A run whose lease is lost is cut off and rolled back at once."""
    event_id = await an_event(connection)
    gate = Waiting()
    async with processing(database, gate.write_and_wait, lease_seconds=1.0):
        await gate.entered()
        await connection.execute(ELSEWHERE["another has it"])
        await gate.until(lambda gate: gate.ended == [(event_id, "cut")])
    assert await written(connection) == []
    assert (await row_of(connection, event_id))["held_by"] == "b"
