"""Whatever a handler does to its transaction: what it wrote is saved with its event, or not at all."""

import contextlib

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hookd as api
from chassis.database import Connection, Database
from processor.effects.store import ENDED_ITSELF, WENT_ON
from tests.factories import an_event, row_of
from tests.ledger import LEDGER, WAITS_FOR_ITS_RETRY, WRITE, over_a_ledger, write, written
from tests.processing import Watch, processing


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await over_a_ledger(connection)


async def test_savepoints(database: Database, connection: Connection, watch: Watch) -> None:
    """A handler may try what fails within a savepoint; the rest is saved."""
    event_id = await an_event(connection)

    async def tries(event: api.Event, conn: asyncpg.Connection) -> None:
        async with conn.transaction():
            await conn.execute(WRITE, event.id)
        with contextlib.suppress(asyncpg.NotNullViolationError):
            async with conn.transaction():
                await conn.execute("INSERT INTO ledger VALUES ($1, 'gone')", event.id)
                await conn.execute("INSERT INTO ledger VALUES ($1, NULL)", event.id)

    async with processing(database, tries):
        assert await watch.settled() == {event_id: ("processed", None)}
    assert await connection.fetchval("SELECT array_agg(note) FROM public.ledger") == [""]


async def test_a_failed_statement_that_is_passed_over(database: Database, connection: Connection, watch: Watch) -> None:
    """Without a savepoint nothing can be saved after it: a failed attempt, not an event whose effects are missing."""
    event_id = await an_event(connection)

    async def goes_on(event: api.Event, conn: asyncpg.Connection) -> None:
        await write(event, conn)
        with contextlib.suppress(asyncpg.DivisionByZeroError):
            await conn.execute("SELECT 1 / 0")

    async with processing(database, goes_on):
        await watch.until(WAITS_FOR_ITS_RETRY, event_id, 1)
    assert (await row_of(connection, event_id))["reason"] == WENT_ON
    assert await written(connection) == []


ENDS = [
    "COMMIT",
    "END",
    "COMMIT AND CHAIN",
    "INSERT INTO ledger DEFAULT VALUES; COMMIT; INSERT INTO ledger DEFAULT VALUES",
    "PREPARE TRANSACTION 'mine'",
    "ROLLBACK",
    "ROLLBACK AND CHAIN",
    "ROLLBACK; BEGIN READ WRITE; INSERT INTO ledger DEFAULT VALUES",
]
# Of these PostgreSQL itself says that they fail.
OTHER_ENDS = [
    "ROLLBACK; BEGIN",
    "ROLLBACK; BEGIN; INSERT INTO ledger DEFAULT VALUES; COMMIT",
    "DO 'BEGIN COMMIT; END'",
]


@pytest.mark.parametrize("is_swallowed", [False, True])
@pytest.mark.parametrize("sql", [*ENDS, *OTHER_ENDS])
async def test_a_handler_that_ends_its_transaction(
    database: Database, connection: Connection, watch: Watch, sql: str, is_swallowed: bool
) -> None:
    """Its COMMIT commits nothing, after its ROLLBACK nothing can be written: a failed attempt that says what it did."""
    event_id = await an_event(connection)

    async def ends(event: api.Event, conn: asyncpg.Connection) -> None:
        await write(event, conn)
        with contextlib.suppress(*((asyncpg.PostgresError,) if is_swallowed else ())):
            await conn.execute(sql)
        with contextlib.suppress(asyncpg.PostgresError):
            await write(event, conn)

    async with processing(database, ends):
        await watch.until(WAITS_FOR_ITS_RETRY, event_id, 1)
    assert await written(connection) == []
    assert sql in OTHER_ENDS or (await row_of(connection, event_id))["reason"] == ENDED_ITSELF


@pytest.mark.parametrize(
    "sql",
    [
        "ROLLBACK AND CHAIN; INSERT INTO ledger DEFAULT VALUES; COMMIT",
        "SAVEPOINT mine; SELECT 1 / 0; COMMIT AND CHAIN; INSERT INTO ledger DEFAULT VALUES; COMMIT",
        "ROLLBACK; BEGIN READ WRITE; INSERT INTO ledger DEFAULT VALUES; COMMIT",
        "CLOSE ALL; INSERT INTO ledger DEFAULT VALUES; COMMIT",
    ],
)
async def test_what_gets_past(database: Database, connection: Connection, watch: Watch, sql: str) -> None:
    """Who means to can commit something apart from the event (docs/effects.md); its attempt has failed all the same."""
    event_id = await an_event(connection)

    async def insists(event: api.Event, conn: asyncpg.Connection) -> None:
        for step in sql.split("; "):
            with contextlib.suppress(asyncpg.DivisionByZeroError):
                await conn.execute(step)

    async with processing(database, insists):
        await watch.until(WAITS_FOR_ITS_RETRY, event_id, 1)
    assert len(await written(connection)) == 1
    assert (await row_of(connection, event_id))["reason"] == ENDED_ITSELF


async def test_what_its_commit_says(database: Database, connection: Connection, watch: Watch) -> None:
    """The error that a handler's own COMMIT raises names the rule, and the place is in the attempt's traceback."""
    event_id = await an_event(connection)

    async def commits(event: api.Event, conn: asyncpg.Connection) -> None:
        await conn.execute("COMMIT")

    async with processing(database, commits):
        await watch.until(WAITS_FOR_ITS_RETRY, event_id, 1)
    trace = await connection.fetchval("SELECT traceback FROM hookd.attempts")
    assert "in commits\n" in trace
    assert "hookd commits this transaction itself, once the handler has returned" in trace


STEPS = {
    "write": "INSERT INTO ledger DEFAULT VALUES",
    "fail": "SELECT 1 / 0",
    "savepoint": "SAVEPOINT mine",
    "release": "RELEASE SAVEPOINT mine",
    "back": "ROLLBACK TO SAVEPOINT mine",
    **{each: each for each in ("COMMIT", "ROLLBACK", "BEGIN")},
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(list(STEPS)), max_size=8))
async def test_whatever_a_handler_does_to_its_transaction(
    database: Database, connection: Connection, steps: list[str]
) -> None:
    """Something is saved only if its event is processed; if it is, then all that it wrote and did not take back.

    (What begins a transaction that may write is left out: see above.)
    """
    await connection.execute(
        "DROP TABLE IF EXISTS public.ledger; DELETE FROM hookd.events; DROP TRIGGER IF EXISTS tell ON hookd.events;"
        "DROP FUNCTION IF EXISTS public.tell"
    )
    await connection.execute(LEDGER)
    watch = await Watch.over(connection)
    event_id = await an_event(connection)
    seen = None

    async def steps_on(event: api.Event, conn: asyncpg.Connection) -> None:
        nonlocal seen
        for step in steps:
            with contextlib.suppress(asyncpg.PostgresError):
                await conn.execute(STEPS[step])
        with contextlib.suppress(asyncpg.PostgresError):
            seen = await conn.fetchval("SELECT count(*) FROM ledger")

    async with processing(database, steps_on, attempts_max=1):
        status, _ = (await watch.settled())[event_id]
    saved = len(await written(connection))
    assert saved == (seen if status == "processed" else 0)
    assert (status == "processed") <= {"COMMIT", "ROLLBACK"}.isdisjoint(steps)
