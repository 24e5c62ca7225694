"""The schema is the contract between receiver and processor: one table is queue, log and status in one, day by day."""

import asyncio
import json
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chassis.database import Connection, Database
from processor.holding.store import Renewer
from processor.outcome import PROCESSED
from processor.settling.store import Settlement
from processor.store import Store
from tests.factories import an_attempt, an_event, an_id, at, counts, events

PATIENCE_SECONDS = 20.0

pytestmark = pytest.mark.all_days

# Columns, and the objects of the schema that have no comment of their own.
UNCOMMENTED = """
SELECT c.relname || coalesce('.' || a.attname, '')
  FROM pg_class c
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relnamespace = 'hookd'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND c.relname <> 'schema_version'
   AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)
"""


async def today(connection: Connection) -> date:
    day: date = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    return day


async def days(connection: Connection) -> list[date]:
    return [day for (day,) in await connection.fetch("SELECT day FROM hookd.days()")]


async def drop_day(connection: Connection, day: date) -> str:
    said: str = await connection.fetchval("SELECT hookd.drop_day($1)", day)
    return said


async def until_blocked(connection: Connection, pid: int) -> None:
    """Return once that backend waits for a lock."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await connection.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid):
            pass


@pytest.fixture
async def other(database_url: str) -> Any:
    """A second connection."""
    connection: Connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_every_table_and_column_is_explained(connection: Connection) -> None:
    """Each table and each column says in a comment what it is for; so does each function for people."""
    assert await connection.fetch(UNCOMMENTED) == []
    explained = await connection.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'hookd'::regnamespace AND obj_description(oid) IS NOT NULL"
    )
    functions = {name for (name,) in explained}
    assert functions >= {"uuid_at", "header", "add_day", "drop_day", "days", "make_roles"}


async def test_everything_lives_in_one_schema(connection: Connection) -> None:
    """Everything lives in schema hookd, the migrations' own table included: an application's database can be shared."""
    elsewhere = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace NOT IN ('hookd'::regnamespace, 'pg_catalog'::regnamespace,"
        " 'information_schema'::regnamespace, 'pg_toast'::regnamespace)"
    )
    assert elsewhere == []
    assert await connection.fetchval("SELECT version_num FROM hookd.schema_version") >= "0001"


async def test_what_a_receiver_must_say(connection: Connection) -> None:
    """Every column but id, source, method, target, headers and payload has a default or may be null."""
    must = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'hookd.events'::regclass AND attnum > 0"
        " AND attnotnull AND NOT atthasdef"
    )
    assert {name for (name,) in must} == {"id", "source", "method", "target", "headers", "payload"}
    row = await connection.fetchrow(
        "INSERT INTO hookd.events (id, source, method, target, headers, payload)"
        " VALUES ($1, 'demo', 'POST', '/demo', '[]', '') RETURNING *",
        an_id(datetime.now(UTC)),
    )
    assert row is not None
    assert (row["status"], row["attempts"], row["claims"], row["held_by"]) == ("new", 0, 0, None)
    assert row["due_at"] == row["received_at"]
    assert row["finished_at"] is None


IMPOSSIBLE = {
    "status = 'done', finished_at = now()": "events_status_known",
    "status = 'processed'": "events_finished_unless_new",
    "finished_at = now()": "events_finished_unless_new",
    "status = 'failed', finished_at = now(), held_by = 'somebody'": "events_held_only_while_new",
}


async def test_what_cannot_be(connection: Connection) -> None:
    """Only three states, finished exactly unless new, held only while new: the table refuses anything else."""
    event_id = await an_event(connection)
    for change, constraint in IMPOSSIBLE.items():
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await connection.execute(f"UPDATE hookd.events SET {change} WHERE id = $1", event_id)
        assert refused.value.constraint_name == constraint


async def test_two_narrow_indexes_and_no_foreign_key(connection: Connection) -> None:
    """Beside its key the table has one index on claimable rows and one on failures, both partial; no foreign keys
    lead to or from it."""
    found = await connection.fetch(
        "SELECT pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indrelid = 'hookd.events'::regclass AND NOT indisprimary"
    )
    predicates = sorted(definition.partition(" btree ")[2] for (definition,) in found)
    assert predicates == [
        "(due_at) WHERE (status = 'new'::text)",
        "(source, id) WHERE (status = 'failed'::text)",
    ]
    keys = "SELECT conname FROM pg_constraint WHERE contype = 'f' AND 'hookd.events'::regclass IN (conrelid, confrelid)"
    assert await connection.fetch(keys) == []


async def test_bodies_are_stored_as_they_are(connection: Connection) -> None:
    """Bodies are never compressed by PostgreSQL, in any day: 8 kB and up are written four times faster so."""
    storage = await connection.fetch(
        "SELECT DISTINCT attstorage FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
        " WHERE attname = 'payload' AND c.relname LIKE 'events%' AND c.relkind IN ('r', 'p')"
    )
    assert [bytes(kind) for (kind,) in storage] == [b"e"]


async def test_no_default_partition(connection: Connection) -> None:
    """There is no default partition, which would make every change of a day block; a row of no day is refused."""
    defaults = await connection.fetch("SELECT DISTINCT partdefid FROM pg_partitioned_table")
    assert [oid for (oid,) in defaults] == [0]
    far = datetime.now(UTC) + timedelta(days=200)
    with pytest.raises(asyncpg.CheckViolationError, match='no partition of relation "events" found'):
        await connection.execute(
            "INSERT INTO hookd.events (id, source, method, target, headers, payload)"
            " VALUES ($1, 'demo', 'POST', '/demo', '[]', '')",
            an_id(far),
        )


async def test_days_are_made_ahead(connection: Connection) -> None:
    """A migrated database has today and the fourteen days that follow, of events and of attempts."""
    first = await today(connection)
    assert await days(connection) == [first + timedelta(days=n) for n in range(15)]
    attempts = await connection.fetchval(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'hookd.attempts'::regclass"
    )
    assert attempts == 15
    # Storage options are a leaf's: its parent has no storage.
    options = await connection.fetch(
        "SELECT DISTINCT reloptions FROM pg_class WHERE relname LIKE 'events_2%' AND relkind = 'r'"
    )
    assert [option for (option,) in options] == [
        ["autovacuum_vacuum_scale_factor=0.02", "autovacuum_vacuum_cost_delay=0"]
    ]


async def test_a_day_holds_exactly_its_day(connection: Connection) -> None:
    """A row lies in the UTC day of its id, from the first millisecond to the last."""
    day = await today(connection) - timedelta(days=2)
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    for received in (midnight, midnight + timedelta(days=1, milliseconds=-1)):
        event_id = await an_event(connection, received=received)
        lies_in = await connection.fetchval(
            "SELECT relname FROM hookd.events e JOIN pg_class c ON c.oid = e.tableoid WHERE id = $1", event_id
        )
        assert lies_in == f"events_{day:%Y%m%d}"


async def test_add_day_is_idempotent(connection: Connection) -> None:
    """Adding a day says true once, and false from then on."""
    day = await today(connection) + timedelta(days=20)
    assert await connection.fetchval("SELECT hookd.add_day($1)", day) is True
    assert await connection.fetchval("SELECT hookd.add_day($1)", day) is False
    assert day in await days(connection)


async def test_add_day_from_many_sides(database_url: str) -> None:
    """Of many receivers and processors that make the same day at once exactly one makes it, and none fails."""
    connections: list[Connection] = [await asyncpg.connect(database_url) for _ in range(8)]
    day = await today(connections[0]) + timedelta(days=21)
    try:
        said = await asyncio.gather(*(each.fetchval("SELECT hookd.add_day($1)", day) for each in connections))
    finally:
        for each in connections:
            await each.close()
    assert sorted(said) == [False] * 7 + [True]


async def test_add_day_beside_readers_and_writers(connection: Connection, other: Connection) -> None:
    """A day is made while readers and writers have the table open: it waits for none, and none waits for it."""
    async with other.transaction():
        await an_event(other, received="now")
        assert await other.fetchval("SELECT count(*) FROM hookd.events") == 1
        assert await connection.fetchval("SELECT hookd.add_day($1)", await today(connection) + timedelta(days=22))
        await an_event(other, received="now")


async def test_add_day_has_bounds(connection: Connection) -> None:
    """No day is made that a wrong clock invented: at most a month ahead, at most ten years back."""
    first = await today(connection)
    for ahead in (31, -3660):
        assert await connection.fetchval("SELECT hookd.add_day($1)", first + timedelta(days=ahead)) is True
    for ahead in (32, -3661):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="is not a day hookd stores events of"):
            await connection.fetchval("SELECT hookd.add_day($1)", first + timedelta(days=ahead))


async def test_a_settled_day_is_dropped_with_all_that_belongs_to_it(connection: Connection) -> None:
    """Dropping a day takes its events, their attempts and their counts with it, and nothing else."""
    old = await an_event(connection, status="failed", received="40 days ago")
    await an_attempt(connection, old)
    young = await an_event(connection, status="processed", received="39 days ago")
    day = (await at(connection, "40 days ago")).date()
    assert await drop_day(connection, day) == "dropped"
    assert [event_id for (event_id,) in await connection.fetch("SELECT id FROM hookd.events")] == [young]
    assert await connection.fetch("SELECT * FROM hookd.attempts") == []
    assert await counts(connection) == {("demo", "processed"): 1}
    assert await connection.fetchval("SELECT to_regclass($1)", f"hookd.events_{day:%Y%m%d}") is None
    assert await connection.fetchval("SELECT to_regclass($1)", f"hookd.attempts_{day:%Y%m%d}") is None
    assert await drop_day(connection, day) == "absent"
    assert await connection.fetchval("SELECT hookd.add_day($1)", day) is True


async def test_a_day_with_a_new_event_stays(connection: Connection) -> None:
    """A day that still holds a new event is kept whole, be that event waiting, parked or held."""
    await an_event(connection, status="processed", received="40 days ago")
    event_id = await an_event(connection, received="40 days ago")
    day = (await at(connection, "40 days ago")).date()
    for state in ("due_at = now()", "due_at = 'infinity'", "held_by = 'somebody', claims = 1, attempts = 1"):
        await connection.execute(f"UPDATE hookd.events SET {state} WHERE id = $1", event_id)
        assert await drop_day(connection, day) == "kept"
    assert day in await days(connection)
    assert await connection.fetchval("SELECT count(*) FROM hookd.events") == 2


async def test_a_replay_puts_the_day_back(connection: Connection, other: Connection, database_url: str) -> None:
    """A replay that comes between the check and the drop keeps its day: the replayed event is not lost."""
    event_id = await an_event(connection, status="failed", received="40 days ago")
    day = (await at(connection, "40 days ago")).date()
    await connection.execute("ALTER FUNCTION hookd.drop_day SET lock_timeout = '20s'")  # to have time to come between
    watch: Connection = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("UPDATE hookd.events SET status = 'new', finished_at = NULL WHERE id = $1", event_id)
        dropping = asyncio.create_task(drop_day(connection, day))
        await until_blocked(watch, connection.get_server_pid())
    assert await dropping == "kept"
    assert await watch.fetchval("SELECT status FROM hookd.events WHERE id = $1", event_id) == "new"
    await watch.close()


async def test_drop_day_makes_nobody_wait_behind_a_reader(
    connection: Connection, other: Connection, database_url: str
) -> None:
    """A drop gives up on a table that somebody reads after 100 ms, and no COPY waits behind it for longer."""
    await an_event(connection, status="processed", received="40 days ago")
    day = (await at(connection, "40 days ago")).date()
    writer: Connection = await asyncpg.connect(database_url)
    row = (an_id(datetime.now(UTC)), "demo", "POST", "/demo", "[]", b"")
    columns = ["id", "source", "method", "target", "headers", "payload"]
    async with other.transaction():
        await other.fetch("SELECT count(*) FROM hookd.events")
        dropping = asyncio.create_task(drop_day(connection, day))
        await until_blocked(other, connection.get_server_pid())
        began = time.monotonic()
        await writer.copy_records_to_table("events", schema_name="hookd", columns=columns, records=[row])
        assert time.monotonic() - began < 0.5
        with pytest.raises(asyncpg.LockNotAvailableError):
            await dropping
    await writer.close()
    assert await drop_day(connection, day) == "dropped"


async def test_a_day_that_has_not_ended_is_never_dropped(connection: Connection) -> None:
    """Neither today nor a day to come can be dropped, whoever asks."""
    for ahead in (0, 1):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="has not ended"):
            await drop_day(connection, await today(connection) + timedelta(days=ahead))


async def test_definers_functions_trust_no_search_path(connection: Connection) -> None:
    """What runs with its owner's rights has its own search path, a short lock_timeout, and is not for everybody."""
    functions = await connection.fetch(
        "SELECT proname, proconfig, proacl::text FROM pg_proc WHERE pronamespace = 'hookd'::regnamespace AND prosecdef"
    )
    patience = {
        "add_day": "100ms",
        "drop_day": "100ms",
        "keep_refused": "1s",
        "forget_refused": "1s",
        "registry_changed": "5s",
    }
    assert {function["proname"] for function in functions} == set(patience)
    for function in functions:
        limit = f"lock_timeout={patience[function['proname']]}"
        assert {"search_path=pg_catalog, pg_temp", limit} <= set(function["proconfig"])
        assert "{=" not in function["proacl"]
        assert ",=" not in function["proacl"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.integers(0, 253_370_764_800_000), st.integers(0, (1 << 74) - 1))
@example(253_370_764_800_000, 0)
@example(0, 0)
async def test_uuid_at_is_the_least_id_of_its_millisecond(connection: Connection, milliseconds: int, rest: int) -> None:
    """`id >= hookd.uuid_at(t)` holds for exactly the ids minted at t's millisecond or later."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    minted = UUID(int=milliseconds << 80 | 0x7 << 76 | (rest >> 62) << 64 | 0b10 << 62 | rest & ((1 << 62) - 1))
    least, following = await connection.fetchrow(  # type: ignore[misc]
        "SELECT hookd.uuid_at($1), hookd.uuid_at($1 + interval '1 ms')", moment
    )
    assert least == UUID(int=milliseconds << 80)
    assert least <= minted < following


async def test_a_bound_on_the_id_reads_only_the_days_it_needs(connection: Connection) -> None:
    """A question about the last hour looks at the partitions of that hour alone."""
    plan = await connection.fetch(
        "EXPLAIN SELECT id FROM hookd.events WHERE id >= hookd.uuid_at($1) AND id < hookd.uuid_at($2)",
        await at(connection, "25 hours"),
        await at(connection, "26 hours"),
    )
    named = {word for (line,) in plan for word in line.split() if word.startswith("events_2")}
    assert 1 <= len(named) <= 2  # two at midnight


async def test_header(connection: Connection) -> None:
    """hookd.header() finds a header whatever its case, the first where it repeats, null where there is none."""
    bytes_as_text = bytes(range(0x80, 0x100)).decode("latin-1")
    pairs = [("Cookie", "a=1"), ("X-GitHub-Event", "push"), ("cookie", "b=2"), ("X-Empty", ""), ("X-B", bytes_as_text)]
    found = {"x-github-event": "push", "X-GITHUB-EVENT": "push", "cookie": "a=1", "x-empty": "", "x-b": bytes_as_text}
    for name, value in {**found, "github-event": None}.items():
        assert await connection.fetchval("SELECT hookd.header($1, $2)", json.dumps(pairs), name) == value


async def test_attempts_have_a_key_that_never_repeats(connection: Connection) -> None:
    """An attempt is known by its event and its claim: attempts are counted anew after a replay, claims are not."""
    event_id = await an_event(connection)
    await an_attempt(connection, event_id, claim=1, attempt=1)
    await an_attempt(connection, event_id, claim=2, attempt=1)
    with pytest.raises(asyncpg.UniqueViolationError):
        await an_attempt(connection, event_id, claim=2, attempt=2)


# What reads the table how: the server's own count of it. An index scan counts once for each partition looked at.
SCANS = """
SELECT relname, coalesce(seq_scan, 0) AS seq, coalesce(idx_scan, 0) AS idx
  FROM pg_stat_user_tables WHERE schemaname = 'hookd' AND relname LIKE 'events_2%'
"""


async def scans(connection: Connection) -> dict[str, tuple[int, int]]:
    """{partition: (sequential scans, index scans)} so far, when no processor is connected any more."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity"
            " WHERE application_name LIKE 'hookd %' AND datname = current_database())"
        ):
            pass
    await connection.execute("SELECT pg_stat_clear_snapshot(), pg_stat_force_next_flush()")
    return {name: (seq, idx) for name, seq, idx in await connection.fetch(SCANS)}


async def claim_renew_settle(store: Store, renewer: Renewer, rows: int) -> int:
    claimed = await store.queue.claim(rows, 1 << 20, None, time.monotonic)
    assert len(await renewer.renew(claimed)) == len(claimed)
    return len(await store.results.settle([Settlement(each, PROCESSED, True, "demo") for each in claimed]))


async def test_every_statement_is_an_index_probe(connection: Connection, database: Database) -> None:
    """Claim, renew and settle never scan a table: also at midnight, when the day that begins was analysed empty."""
    store, renewer = Store(database, "me", lease_seconds=60), Renewer(database, lease_seconds=60)
    await events(connection, 40)
    await connection.execute("ANALYZE hookd.events")
    # A prepared statement's plan is settled by its sixth use: with tomorrow known to be empty.
    for _ in range(8):
        assert await claim_renew_settle(store, renewer, 5) == 5
    before = await _scans_of_reader(connection)
    tomorrow = [an_id(await at(connection, "1 day")) for _ in range(2000)]
    await connection.execute(
        "INSERT INTO hookd.events (id, source, method, target, headers, payload)"
        " SELECT unnest($1::uuid[]), 'demo', 'POST', '/demo', '[]', ''",
        tomorrow,
    )
    for _ in range(3):
        assert await claim_renew_settle(store, renewer, 500) == 500
    await store.close()
    await renewer.close()
    assert {name: seq for name, (seq, _) in (await scans(connection)).items()} == before


async def _scans_of_reader(connection: Connection) -> dict[str, int]:
    await connection.execute("SELECT pg_stat_clear_snapshot(), pg_stat_force_next_flush()")
    return {name: seq for name, seq, _ in await connection.fetch(SCANS)}


async def test_a_settle_looks_only_where_its_rows_are(connection: Connection, database: Database) -> None:
    """Renewing and settling rows of one day leaves the partitions of all other days alone."""
    await events(connection, 20, received="3 days ago")
    store, renewer = Store(database, "me", lease_seconds=60), Renewer(database, lease_seconds=60)
    claimed = await store.queue.claim(20, 1 << 20, None, time.monotonic)
    await store.close()
    before = await scans(connection)
    for _ in range(7):
        assert len(await renewer.renew(claimed)) == 20
    settlements = [Settlement(each, PROCESSED, True, "demo") for each in claimed]
    for start in range(0, 20, 2):
        assert len(await store.results.settle(settlements[start : start + 2])) == 2
    await store.close()
    await renewer.close()
    after = await scans(connection)
    touched = {name for name, counted in after.items() if counted != before[name]}
    assert touched == {f"events_{await at(connection, '3 days ago'):%Y%m%d}"}
