"""What a handler writes through its connection is committed with its event, or not at all, whatever happens."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

import hookd as api
from chassis.database import Connection, Database
from processor.effects.store import ENDED_ITSELF, LOST_CONNECTION, WENT_ON
from processor.handling.declare import Declaration
from processor.handling.handler import WrongHandlers, handler_of
from tests.born import hookd
from tests.databases import execute
from tests.factories import an_event, counts, events, row_of
from tests.processing import Gate, Watch, a_handler, an_app, processing
from tests.registering import a_source

LEDGER = "CREATE TABLE public.ledger (event_id uuid, note text NOT NULL DEFAULT '')"
WRITE = "INSERT INTO ledger (event_id) VALUES ($1)"
WITHIN_ONE = """
SELECT e.xmin = l.xmin FROM hookd.events e JOIN public.ledger l ON l.event_id = e.id WHERE e.id = $1
"""
HANDLERS_PIDS = """
SELECT array_agg(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'hookd processor handler'
"""
WAITS_FOR_ITS_RETRY = "id = $1 AND status = 'new' AND held_by IS NULL AND attempts = $2"
AGE = "UPDATE hookd.events SET due_at = now() WHERE status = 'new' AND held_by IS NULL"
PATIENCE_SECONDS = 20.0


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    await connection.execute(LEDGER)
    return await Watch.over(connection)


async def write(event: api.Event, conn: asyncpg.Connection) -> None:
    await conn.execute(WRITE, event.id)


async def written(connection: Connection) -> list[UUID]:
    return [row["event_id"] for row in await connection.fetch("SELECT event_id FROM public.ledger")]


class Waiting(Gate):
    """A handler that writes, then waits inside until the gate is open."""

    async def write_and_wait(self, event: api.Event, conn: asyncpg.Connection) -> None:
        await conn.execute(WRITE, event.id)
        await self.pass_through(event)


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


# The connection


async def test_a_connection_lost_in_the_middle(database: Database, connection: Connection, watch: Watch) -> None:
    """When the server ends its connection in the middle of a run, nothing is saved, and the next run is another's."""
    event_id = await an_event(connection)

    async def loses(event: api.Event, conn: asyncpg.Connection) -> None:
        await write(event, conn)
        if event.attempt < 3:
            await connection.execute("SELECT pg_terminate_backend($1, 10000)", conn.get_server_pid())
        if event.attempt == 1:
            await conn.execute("SELECT 1")

    async with processing(database, loses):
        for attempt in (1, 2):
            await watch.until(WAITS_FOR_ITS_RETRY, event_id, attempt)
            assert (await row_of(connection, event_id))["reason"] == LOST_CONNECTION
            await connection.execute(AGE)
        assert await watch.settled() == {event_id: ("processed", None)}
    assert await written(connection) == [event_id]


SLOW_COMMIT = """
CREATE TABLE public.slow (is_so bool); INSERT INTO public.slow VALUES (true);
CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT is_so FROM public.slow) THEN PERFORM pg_sleep(3600); END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON public.ledger DEFERRABLE INITIALLY DEFERRED
   FOR EACH ROW EXECUTE FUNCTION public.wait();
"""
COMMITTING = (
    "SELECT EXISTS (SELECT FROM pg_stat_activity"
    " WHERE pid = ANY($1) AND query = 'COMMIT;' AND state = 'active' AND wait_event = 'PgSleep')"
)


async def test_a_commit_whose_outcome_is_unknown(database: Database, connection: Connection, watch: Watch) -> None:
    """It is left to the lease: neither settled nor renewed here; if it was not committed, the event runs again."""
    await connection.execute(SLOW_COMMIT)
    event_id = await an_event(connection)
    with capture_logs() as logs:
        async with processing(database, write, lease_seconds=3.0) as parts:
            await watch.until("held_by IS NOT NULL")
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (pids := await connection.fetchval(HANDLERS_PIDS)):  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(0.01)
                while not await connection.fetchval(COMMITTING, pids):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
            await connection.execute("UPDATE public.slow SET is_so = false")
            await connection.execute("SELECT pg_terminate_backend($1)", pids[0])
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(parts.leases):  # noqa: ASYNC110 - they tell nobody
                    await asyncio.sleep(0.01)
            row = await row_of(connection, event_id)
            assert (row["status"], row["held_by"] is None, row["attempts"]) == ("new", False, 1)
            assert await watch.settled() == {event_id: ("processed", None)}
    assert await written(connection) == [event_id]
    assert (await row_of(connection, event_id))["attempts"] == 2
    assert [line["event"] for line in logs] == ["commit.unknown"]


async def test_a_commit_that_the_server_refuses(database: Database, connection: Connection, watch: Watch) -> None:
    """A constraint that is checked at the commit, and broken, is a failed attempt that says so."""
    await connection.execute(
        "ALTER TABLE public.ledger ADD CONSTRAINT once UNIQUE (note) DEFERRABLE INITIALLY DEFERRED;"
        "INSERT INTO public.ledger VALUES (NULL, '')"
    )
    event_id = await an_event(connection)
    async with processing(database, write):
        await watch.until(WAITS_FOR_ITS_RETRY, event_id, 1)
    assert 'duplicate key value violates unique constraint "once"' in (await row_of(connection, event_id))["reason"]
    assert await written(connection) == [None]


@pytest.fixture
async def shut(server_url: str, connection: Connection) -> Callable[[bool], Awaitable[None]]:
    """Whether the test's database takes new connections."""
    name = await connection.fetchval("SELECT current_database()")

    async def allow(is_shut: bool) -> None:
        await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS {not is_shut}")

    return allow


async def test_no_connection_to_be_had(
    database: Database, connection: Connection, watch: Watch, shut: Callable[[bool], Awaitable[None]]
) -> None:
    """Where none is to be had its handler does not run: the event is handed back with its attempt, and waits."""
    with capture_logs() as logs:
        async with processing(database, write) as parts:
            await parts.store.check()
            await shut(True)
            event_id = await an_event(connection)
            await watch.until("id = $1 AND held_by IS NULL AND claims >= 2 AND attempts = 0", event_id)
            await shut(False)
            assert (await watch.settled())[event_id] == ("processed", None)
    assert await written(connection) == [event_id]
    said = [line["event"] for line in logs]
    assert (said.count("transactions.lost"), said.count("transactions.back")) == (1, 1)


async def test_what_a_handler_finds(database: Database, connection: Connection, watch: Watch) -> None:
    """A session of the processor's own role as the database gives it to any: none of hookd's planner settings."""
    await an_event(connection)
    names = (
        "enable_seqscan", "enable_nestloop", "enable_sort", "jit", "plan_cache_mode", "statement_timeout",
        "lock_timeout", "search_path", "client_encoding",
    )  # fmt: skip
    found: dict[str, str] = {}

    async def look(event: api.Event, conn: asyncpg.Connection) -> None:
        assert isinstance(conn, asyncpg.Connection)
        for name in (*names, "TimeZone", "transaction_isolation", "application_name"):
            found[name] = await conn.fetchval("SELECT current_setting($1)", name)
        found["limit"] = await conn.fetchval("SELECT current_setting('idle_in_transaction_session_timeout')")
        if conn.get_server_version().major >= 17:
            found["limit"] += await conn.fetchval("SELECT current_setting('transaction_timeout')")

    async with processing(database, look):
        assert set((await watch.settled()).values()) == {("processed", None)}
    plain = {name: await connection.fetchval("SELECT current_setting($1)", name) for name in names}
    assert {name: found[name] for name in names} == plain
    assert found["limit"] in ("15s", "15s15s")
    assert (found["TimeZone"], found["transaction_isolation"]) == ("UTC", "read committed")
    assert found["application_name"] == "hookd processor handler"


async def test_nothing_is_left_to_the_next(database: Database, connection: Connection, watch: Watch) -> None:
    """Settings, roles, locks and temporary tables of a run are gone when the next begins on the same connection."""
    await an_event(connection, due="2 minutes ago")
    await an_event(connection, due="1 minute ago")
    seen: list[tuple[Any, ...]] = []

    async def litter(event: api.Event, conn: asyncpg.Connection) -> None:
        row = await conn.fetchrow(
            "SELECT pg_backend_pid(), current_setting('search_path'), current_user, to_regclass('pg_temp.mine'),"
            " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"
        )
        seen.append(tuple(row or ()))
        await conn.execute(
            "SET search_path = hookd; CREATE TEMP TABLE mine (); SELECT pg_advisory_lock(1); SET ROLE hookd_reader"
        )

    async with processing(database, litter, handler_connections=1):
        assert set((await watch.settled()).values()) == {("processed", None)}
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0][3:] == (None, 0)


async def test_a_codec_of_the_handlers_own(database: Database, connection: Connection, watch: Watch) -> None:
    """What a handler makes of types on its connection does not reach the settle."""
    event_id = await an_event(connection)

    async def other_uuids(event: api.Event, conn: asyncpg.Connection) -> None:
        await conn.set_type_codec("uuid", schema="pg_catalog", encoder=lambda it: it["text"], decoder=str)
        await conn.execute(WRITE, {"text": str(event.id)})

    async with processing(database, other_uuids):
        assert await watch.settled() == {event_id: ("processed", None)}


async def test_who_keeps_the_connection(database: Database, connection: Connection, watch: Watch) -> None:
    """What a handler leaves behind can write nothing with its connection any more, whoever has it now."""
    event_id = await an_event(connection)
    kept: list[Connection] = []

    async def keep(event: api.Event, conn: asyncpg.Connection) -> None:
        kept.append(conn)

    async with processing(database, keep):
        await watch.settled()
        # Read-only from the commit on, not to be had while it is made as new, and of no use once it is released.
        refusals = r"released|read-only|another operation is in progress"
        with pytest.raises((asyncpg.InterfaceError, asyncpg.ReadOnlySQLTransactionError), match=refusals):
            await kept[0].execute(WRITE, event_id)
    assert await written(connection) == []


# What a handler does to its transaction


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
        "ROLLBACK; BEGIN READ WRITE; INSERT INTO ledger DEFAULT VALUES; COMMIT",
        "CLOSE ALL; INSERT INTO ledger DEFAULT VALUES; COMMIT",
    ],
)
async def test_what_gets_past(database: Database, connection: Connection, watch: Watch, sql: str) -> None:
    """Who means to can commit something apart from the event (docs/effects.md); its attempt has failed all the same."""
    event_id = await an_event(connection)

    async def insists(event: api.Event, conn: asyncpg.Connection) -> None:
        for step in sql.split("; "):
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
    **{each: each for each in ("COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "BEGIN")},
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
    assert (status == "processed") <= {"COMMIT", "ROLLBACK", "COMMIT AND CHAIN"}.isdisjoint(steps)


# How many at once


async def test_connections_at_once(database: Database, connection: Connection, watch: Watch) -> None:
    """No more than HOOKD_HANDLER_CONNECTIONS run at once; those that wait for one keep no others waiting."""
    await events(connection, 5, source="shop", due="1 minute ago")
    gate = Waiting()
    ordinary = a_handler(Gate(is_open=True).pass_through, "other")
    async with processing(
        database, a_handler(gate.write_and_wait, "shop"), ordinary, handler_connections=2, concurrency=2
    ) as parts:
        await gate.entered(2)
        other = await an_event(connection, source="other", due="2 minutes ago")
        await watch.until("id = $1 AND status = 'processed'", other)
        assert (parts.runner.running, parts.runner.connected.running) == (2, 2)
        gauges = {metric.name: metric.values for metric in parts.tally.collect() if metric.name.startswith("hookd_")}
        assert gauges["hookd_transactions"] == {(): 2}
        assert len(await connection.fetchval(HANDLERS_PIDS)) == 2
        gate.open()
        assert set((await watch.settled()).values()) == {("processed", None)}
    assert gate.most_inside == 2
    assert len(set(await written(connection))) == 5


async def test_a_large_body(database: Database, connection: Connection, watch: Watch) -> None:
    """A body that is fetched when its handler starts makes no difference."""
    event_id = await an_event(connection, payload=b"x" * 200_000)

    async def measure(event: api.Event, conn: asyncpg.Connection) -> None:
        await conn.execute("INSERT INTO ledger VALUES ($1, $2)", event.id, str(len(event.body)))

    async with processing(database, measure):
        assert await watch.settled() == {event_id: ("processed", None)}
    assert await connection.fetchval("SELECT note FROM public.ledger WHERE event_id = $1", event_id) == "200000"
    assert await connection.fetchval(WITHIN_ONE, event_id) is True


@pytest.mark.parametrize("seen_by", ["its handler", "a filter", "a judge"])
async def test_large_bodies_that_wait_for_a_connection(
    database: Database, connection: Connection, watch: Watch, seen_by: str
) -> None:
    """Whoever sees a large body first: those that wait for a connection take neither workers nor room from others."""
    if seen_by == "a judge":
        await a_source(connection, "shop", "github", mode="monitor")
    payload = b"[" + b" " * 200_000 + b"7]"  # a room that takes one of them
    await events(connection, 4, source="shop", due="1 minute ago", payload=payload)
    gate = Waiting()
    where = "payload[0] == `7`" if seen_by == "a filter" else None
    slow = handler_of(Declaration(gate.write_and_wait, "app.py:1", source="shop", where=where))
    ordinary = a_handler(Gate(is_open=True).pass_through, "other")
    limits = {"handler_connections": 1, "concurrency": 1, "held_bytes_max": 1 << 20, "transaction_timeout_seconds": 300}
    async with processing(database, slow, ordinary, **limits):
        await gate.entered(1)
        small = await an_event(connection, source="other")
        large = await an_event(connection, source="other", payload=payload)
        await watch.until("id = $1 AND status = 'processed'", small)
        await watch.until("id = $1 AND status = 'processed'", large)
        gate.open()
        assert set((await watch.settled()).values()) == {("processed", None)}
    assert gate.most_inside == 1
    assert len(set(await written(connection))) == 4


# Killed

KILLED = """
import asyncpg

@hookd.on("*")
async def handle(event: hookd.Event, conn: asyncpg.Connection):
    await conn.execute("INSERT INTO ledger VALUES ($1, $2)", event.id, str(event.attempt))
    await asyncio.sleep(0.05)
    await conn.execute("UPDATE ledger SET note = note || ' of ' || $2 WHERE event_id = $1", event.id, str(os.getpid()))
"""


@pytest.mark.any_server
async def test_processors_that_are_killed(
    database_url: str, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """Killed with -9 in the middle of handlers, again and again: at the end each event's effects are there once."""
    ids = await events(connection, 20)
    app = an_app(tmp_path, KILLED)
    settings: dict[str, Any] = {"database_url": database_url, "lease_seconds": "1", "concurrency": "2"}
    for number in (1, 2, 3):
        async with hookd("processor", "--app", app, **settings) as processor:
            await watch.until(
                "(SELECT count(*) FROM hookd.events WHERE status = 'processed') >= $1"
                " AND EXISTS (SELECT FROM hookd.events WHERE held_by IS NOT NULL)",
                number * 4,
            )
            processor.kill()
            await processor.ended()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await connection.fetchval(HANDLERS_PIDS):  # noqa: ASYNC110 - the server is still to notice
                await asyncio.sleep(0.01)
        processed = await connection.fetch("SELECT id FROM hookd.events WHERE status = 'processed'")
        assert sorted(await written(connection)) == sorted(row["id"] for row in processed)
    assert await connection.fetchval("SELECT count(*) FROM hookd.events WHERE status = 'new' AND attempts > 0") > 0
    async with hookd("processor", "--app", app, **settings) as processor:
        assert set((await watch.settled()).values()) == {("processed", None)}
        assert await processor.stop() == 0
    assert sorted(await written(connection)) == sorted(ids)
    assert await connection.fetchval("SELECT bool_and(note ~ '^[0-9]+ of [0-9]+$') FROM public.ledger") is True
    assert await counts(connection) == {("demo", "processed"): 20}


# Suspects

DIED_TWICE: dict[str, Any] = {"held_by": "a dead one", "attempts": 2, "claims": 2, "due": "1 second ago"}

SUSPECTS = """
import asyncpg

async def write(event, conn):
    await conn.execute("INSERT INTO ledger VALUES ($1, $2)", event.id, str(os.getpid()))

@hookd.on("good")
async def good(event, conn: asyncpg.Connection):
    await write(event, conn)

@hookd.on("raises")
async def raises(event, conn: asyncpg.Connection):
    await write(event, conn)
    raise ValueError("broken")

@hookd.on("kills")
async def kills(event, conn: asyncpg.Connection):
    await write(event, conn)
    os._exit(1)

@hookd.on("hangs")
async def hangs(event, conn: asyncpg.Connection):
    await write(event, conn)
    await asyncio.sleep(60)

@hookd.on("commits")
async def commits(event, conn: asyncpg.Connection):
    await write(event, conn)
    await conn.execute("COMMIT")

@hookd.on("replayed")
async def replayed(event, conn: asyncpg.Connection):
    await write(event, conn)
    other = await asyncpg.connect(os.environ["OTHER_URL"])
    await other.execute("UPDATE hookd.events SET held_by = NULL, due_at = 'infinity' WHERE id = $1", event.id)
    await other.close()

@hookd.on("changed")
async def changed(event):
    pass
"""


@pytest.mark.any_server
@pytest.mark.unmeasured
async def test_suspects(
    database: Database, database_url: str, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """A suspect's child has a transaction of its own that settles the event: both or neither there too."""

    async def never_here(event: api.Event, conn: asyncpg.Connection) -> None:
        raise AssertionError("not run in the processor itself")

    sources = ("good", "raises", "kills", "hangs", "commits", "replayed", "changed")
    ids = {source: await an_event(connection, source=source, **DIED_TWICE) for source in sources}
    app = an_app(tmp_path, f"os.environ['OTHER_URL'] = {database_url!r}\n{SUSPECTS}")
    with capture_logs() as logs:
        async with processing(database, never_here, app=app, transaction_timeout_seconds=0.5) as parts:
            await watch.until("NOT EXISTS (SELECT FROM hookd.events WHERE held_by IS NOT NULL OR claims < 3)")
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(parts.leases):  # noqa: ASYNC110 - they tell nobody
                    await asyncio.sleep(0.01)
    rows = {source: await row_of(connection, event_id) for source, event_id in ids.items()}
    assert {source: (row["status"], row["reason"]) for source, row in rows.items()} == {
        "good": ("processed", None),
        "raises": ("new", "ValueError: broken"),
        "kills": ("new", "the processor died while handling it"),
        "hangs": ("new", "timed out after 0.5 s"),
        "commits": ("new", ENDED_ITSELF),
        "replayed": ("new", "the processor died while handling it"),
        "changed": ("new", "its handler has changed in the app"),
    }
    ((event_id, pid),) = await connection.fetch("SELECT * FROM public.ledger")
    assert event_id == ids["good"]
    assert pid != str(os.getpid())
    assert await connection.fetchval(WITHIN_ONE, event_id) is True
    assert await counts(connection) == {("good", "processed"): 1}
    assert parts.tally.total["processed"] == 1
    assert "transaction.rolled_back" in [line["event"] for line in logs]


@pytest.mark.any_server
@pytest.mark.unmeasured
async def test_a_suspect_without_a_connection_to_be_had(
    database: Database,
    connection: Connection,
    watch: Watch,
    tmp_path: Path,
    shut: Callable[[bool], Awaitable[None]],
) -> None:
    """It is handed back, and still known for a suspect."""
    app = an_app(tmp_path, SUSPECTS)
    async with processing(database, write, app=app) as parts:
        await parts.store.check()
        await shut(True)
        event_id = await an_event(connection, source="good", **DIED_TWICE)
        await watch.until("id = $1 AND held_by IS NULL AND claims >= 3 AND attempts = 2", event_id)
        await shut(False)
        assert (await watch.settled())[event_id] == ("processed", None)
    assert await written(connection) == [event_id]


async def has_left(connection: Connection, pid: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        backend = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)"
        while await connection.fetchval(backend, pid):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


# Which handlers those are


async def by_name(event: api.Event, conn, other=None) -> None: ...  # type: ignore[no-untyped-def]
async def by_longer_name(event: api.Event, connection) -> None: ...  # type: ignore[no-untyped-def]
async def by_type(event: api.Event, db: asyncpg.Connection) -> None: ...
async def by_text(event: api.Event, db: "asyncpg.Connection") -> None: ...
async def by_the_pools_type(event: api.Event, db: asyncpg.pool.PoolConnectionProxy) -> None: ...


@pytest.mark.parametrize("function", [by_name, by_longer_name, by_type, by_text, by_the_pools_type])
def test_who_is_given_a_connection(function: Callable[..., Any]) -> None:
    """A parameter that is annotated as one, or without an annotation bears its name."""
    assert a_handler(function).wants_connection


async def without(event: api.Event) -> None: ...
async def another_thing(event: api.Event, payload: dict[str, Any]) -> None: ...


@pytest.mark.parametrize("function", [without, another_thing])
def test_who_is_given_none(function: Callable[..., Any]) -> None:
    """Who asks for none costs none."""
    assert not a_handler(function).wants_connection


def in_a_thread(event: api.Event, conn: asyncpg.Connection) -> None: ...


def test_no_thread_is_given_one() -> None:
    """A `def` that asks for one is refused when it is loaded."""
    with pytest.raises(WrongHandlers, match="a connection is for an async def"):
        a_handler(in_a_thread)
