"""A processor may settle what was received, and make and drop days; it owns nothing, and adds and forges no event."""

import asyncio
import os
import pwd
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

import hookd as api
from chassis.database import Connection, Database, DatabaseError, Unavailable
from processor.store import Store
from tests.born import hookd
from tests.factories import an_attempt, an_event, at, counts, events, row_of
from tests.processing import Gate, Watch, an_app, processing
from tests.registering import a_delivery, a_source

pytestmark = pytest.mark.all_days

PATIENCE_SECONDS = 20.0


async def let_in(connection: Connection, role: str) -> None:
    """This user of the machine may log in as that role."""
    data = Path(await connection.fetchval("SHOW data_directory"))
    with (data / "pg_hba.conf").open("a") as rules, (data / "pg_ident.conf").open("a") as names:
        rules.write(f"local all {role} peer map=hookd\n")
        names.write(f'hookd "{pwd.getpwuid(os.geteuid()).pw_name}" {role}\n')
    await connection.execute("SELECT pg_reload_conf()")


async def a_login(connection: Connection, database_url: str, group: str) -> AsyncIterator[str]:
    """The URL of a role that is in that group alone, as a careful administrator makes one."""
    role = f"test_{uuid4().hex}"
    await connection.execute(f"CREATE ROLE {role} LOGIN {f'IN ROLE {group}' if group else ''}")
    await let_in(connection, role)
    url = urlsplit(database_url)._replace(netloc=f"{role}@").geturl()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await _is_let_in(url):
            pass
    yield url
    await connection.execute(f"DROP ROLE {role}")


async def _is_let_in(url: str) -> bool:
    try:
        await (await asyncpg.connect(url)).close()
    except asyncpg.InvalidAuthorizationSpecificationError:
        return False
    return True


@pytest.fixture
async def processor_url(connection: Connection, database_url: str) -> AsyncIterator[str]:
    async for url in a_login(connection, database_url, "hookd_processor"):
        yield url


@pytest.fixture
async def reader_url(connection: Connection, database_url: str) -> AsyncIterator[str]:
    async for url in a_login(connection, database_url, "hookd_reader"):
        yield url


@pytest.fixture
async def nobody_url(connection: Connection, database_url: str) -> AsyncIterator[str]:
    async for url in a_login(connection, database_url, ""):
        yield url


async def test_the_role_is_all_a_processor_needs(processor_url: str, connection: Connection, tmp_path: Path) -> None:
    """With its role alone `hookd processor` handles, retries and fails events, makes days, drops days, forgets keys."""
    await events(connection, 3, source="good")
    retried = await an_event(connection, source="retry")
    failed = await an_event(connection, source="reject")
    old = await an_event(connection, status="failed", received="40 days ago")
    await an_attempt(connection, old)
    await connection.execute("INSERT INTO hookd.deliveries VALUES ('github', 'a', gen_random_uuid(), now())")
    last = (await at(connection, "14 days")).date()
    await connection.execute(f"DROP TABLE hookd.events_{last:%Y%m%d}, hookd.attempts_{last:%Y%m%d}")
    app = an_app(
        tmp_path,
        '@hookd.on("good")\nasync def good(event): pass\n'
        '@hookd.on("retry")\ndef retry(event): raise hookd.Retry("again", after=60)\n'
        '@hookd.on("reject")\ndef reject(event): raise hookd.Reject("never")\n',
    )
    async with hookd("processor", "--app", app, "--once", database_url=processor_url) as once:
        assert await once.ended() == 0
    assert await counts(connection) == {("good", "processed"): 3, ("reject", "failed"): 1}
    assert (await row_of(connection, retried))["reason"] == "again"
    assert await connection.fetchval("SELECT count(*) FROM hookd.attempts") == 2
    assert (await row_of(connection, failed))["finished_at"] is not None
    assert await connection.fetchval("SELECT max(day) FROM hookd.days()") == last
    assert await connection.fetchval("SELECT count(*) FROM hookd.events WHERE id = $1", old) == 0
    assert await connection.fetchval("SELECT count(*) FROM hookd.deliveries") == 0
    assert await connection.fetchval("SELECT count(*) FROM hookd.maintenance") == 4
    assert [line for line in once.lines if line.get("level") == "error" and line["event"] != "event.failed"] == []


async def test_it_listens_and_renews(processor_url: str, connection: Connection) -> None:
    """With its role alone leases are renewed, and large bodies are fetched."""
    watch = await Watch.over(connection)
    event_id = await an_event(connection, payload=b"x" * 100_000)
    gate = Gate()
    async with processing(Database(processor_url), gate.pass_through, lease_seconds=1.0):
        await gate.entered()
        claimed = await row_of(connection, event_id)
        await watch.until("due_at > $1", claimed["due_at"] + timedelta(seconds=0.2))
        gate.open()
        assert await watch.settled() == {event_id: ("processed", None)}


async def test_it_judges_and_decides(processor_url: str, connection: Connection) -> None:
    """With its role alone secrets are read, verdicts and names written, duplicates decided, and refusals forgotten."""
    watch = await Watch.over(connection)
    await a_source(connection, "stripe")
    await a_source(connection, "edge", "github", "edge")
    good, copy = await a_delivery(connection, "stripe"), await a_delivery(connection, "stripe")
    forged = await a_delivery(connection, "stripe", fault="bad-signature")
    async with processing(Database(processor_url), Gate(is_open=True).pass_through) as parts:
        settled = await watch.settled()
        assert await parts.maintenance.forget_refused() == "0 forgotten"
    assert (settled[good], settled[copy]) == (("processed", None), ("processed", f"duplicate of {good}"))
    assert settled[forged][0] == "failed"
    assert (await row_of(connection, good))["verdict"] == "verified"


async def test_its_handlers_write_what_they_may(processor_url: str, connection: Connection) -> None:
    """With its role alone a handler's transaction settles its event, and writes where the role was given the right."""
    await connection.execute(
        "CREATE TABLE public.ledger (note text); CREATE TABLE public.secrets (note text);"
        "GRANT INSERT ON public.ledger TO hookd_processor"
    )
    watch = await Watch.over(connection)

    async def write(event: api.Event, conn: asyncpg.Connection) -> None:
        await conn.execute(f"INSERT INTO {event.source} VALUES ('mine')")

    may, may_not = await an_event(connection, source="ledger"), await an_event(connection, source="secrets")
    async with processing(Database(processor_url), write, attempts_max=1):
        settled = await watch.settled()
    assert settled[may] == ("processed", None)
    assert "permission denied for table secrets" in (settled[may_not][1] or "")
    assert await connection.fetchval("SELECT count(*) FROM public.ledger") == 1


async def test_it_owns_nothing(processor_url: str, connection: Connection) -> None:
    """What it made, days say, belongs to the schema's owner: it owns nothing at all."""
    store = Store(Database(processor_url), "me", lease_seconds=60)
    day = (await at(connection, "20 days")).date()
    assert await store.upkeep.add_day(day) is True
    await store.close()
    role = urlsplit(processor_url).username
    owned = await connection.fetch("SELECT relname FROM pg_class WHERE relowner = $1::text::regrole", role)
    assert owned == []


FORBIDDEN = [
    "INSERT INTO hookd.events (id, source, method, target, headers, payload) VALUES"
    " (gen_random_uuid(), 'demo', 'POST', '/demo', '[]', '')",
    "UPDATE hookd.events SET payload = ''",
    "UPDATE hookd.events SET headers = '[]'",
    "UPDATE hookd.events SET source = 'other'",
    "UPDATE hookd.events SET received_at = now()",
    "UPDATE hookd.events SET id = gen_random_uuid()",
    "UPDATE hookd.secrets SET sealed = ''",
    "INSERT INTO hookd.secrets (source, sealed) VALUES ('demo', '')",
    "UPDATE hookd.registry SET revision = 0",
    "DELETE FROM hookd.refused",
    "DELETE FROM hookd.events",
    "TRUNCATE hookd.events",
    "UPDATE hookd.attempts SET error = ''",
    "DELETE FROM hookd.attempts",
    "INSERT INTO hookd.sources VALUES ('demo')",
    "UPDATE hookd.schema_version SET version_num = '0000'",
    "SELECT hookd.make_roles()",
    "CREATE TABLE hookd.mine ()",
    "ALTER TABLE hookd.events DISABLE TRIGGER ALL",
    "DROP TABLE hookd.events",
    "CREATE SCHEMA mine",
    "SET ROLE hookd_receiver",
]


async def test_the_role_may_do_nothing_else(processor_url: str, connection: Connection) -> None:
    """It can neither add an event nor change what was received, nor delete one, nor alter the schema."""
    await an_event(connection)
    mine: Connection = await asyncpg.connect(processor_url)
    for statement in FORBIDDEN:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await mine.execute(statement)
    await mine.close()


TABLES = ("events", "attempts", "deliveries", "counts", "sources", "maintenance", "schema_version")
CHANGES = [
    *FORBIDDEN,
    "UPDATE hookd.events SET status = 'new'",
    "UPDATE hookd.counts SET events = 0",
    "DELETE FROM hookd.deliveries",
    "INSERT INTO hookd.maintenance VALUES ('days', now())",
    "SELECT hookd.add_day(current_date)",
    "SELECT hookd.drop_day(current_date - 1)",
]


async def test_a_reader_only_reads(reader_url: str, connection: Connection) -> None:
    """The reader's role reads every table, days and headers included, and changes nothing."""
    await an_event(connection, received="now", headers=[["X-A", "b"]])
    mine: Connection = await asyncpg.connect(reader_url)
    for table in TABLES:
        await mine.fetch(f"SELECT * FROM hookd.{table}")
    assert await mine.fetchval("SELECT hookd.header(headers, 'x-a') FROM hookd.events") == "b"
    assert len(await mine.fetch("SELECT * FROM hookd.days()")) == 15
    assert (
        await mine.fetchval("SELECT count(*) FROM hookd.events WHERE id >= hookd.uuid_at(now() - interval '1 d')") == 1
    )
    for statement in CHANGES:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await mine.execute(statement)
    await mine.close()


async def test_a_processor_without_rights(nobody_url: str, reader_url: str) -> None:
    """A role that was given no rights is refused with a sentence; one that may only read claims nothing."""
    store = Store(Database(nobody_url), "me", lease_seconds=60)
    with pytest.raises(DatabaseError, match="this role was given no rights in schema hookd"):
        await store.check()
    store = Store(Database(reader_url), "me", lease_seconds=60)
    with pytest.raises(Unavailable, match="permission denied"):
        await store.queue.claim(1, 1, None, time.monotonic)
    await store.close()
