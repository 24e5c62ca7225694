"""The connection that a handler is given: which handlers have one, how many there are, and what becomes of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

import hookd as api
from chassis.database import Connection, Database
from processor.effects.store import LOST_CONNECTION
from processor.handling.declare import Declaration
from processor.handling.handler import WrongHandlers, handler_of
from tests.factories import an_event, events, row_of
from tests.ledger import (
    HANDLERS_PIDS,
    PATIENCE_SECONDS,
    WAITS_FOR_ITS_RETRY,
    WITHIN_ONE,
    WRITE,
    Waiting,
    over_a_ledger,
    shut,
    write,
    written,
)
from tests.processing import Gate, Watch, a_handler, processing
from tests.registering import a_source


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await over_a_ledger(connection)


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


# The connection


AGE = "UPDATE hookd.events SET due_at = now() WHERE status = 'new' AND held_by IS NULL"


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
                while not await connection.fetchval(COMMITTING, pids):  # noqa: ASYNC110 - the server tells nobody
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


async def test_no_connection_to_be_had(
    database: Database, connection: Connection, watch: Watch, server_url: str
) -> None:
    """Where none is to be had its handler does not run: the event is handed back with its attempt, and waits."""
    with capture_logs() as logs:
        async with processing(database, write) as parts:
            await parts.store.check()
            await shut(server_url, connection, True)
            event_id = await an_event(connection)
            await watch.until("id = $1 AND held_by IS NULL AND claims >= 2 AND attempts = 0", event_id)
            await shut(server_url, connection, False)
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
