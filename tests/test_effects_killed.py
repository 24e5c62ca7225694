"""Processes that die in the middle of handlers, and the suspects that they leave: their effects too are there once."""

import asyncio
import os
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

import hookd as api
from chassis.database import Connection, Database
from processor.effects.store import ENDED_ITSELF
from tests.born import hookd
from tests.factories import an_event, counts, events, row_of
from tests.ledger import HANDLERS_PIDS, PATIENCE_SECONDS, WITHIN_ONE, over_a_ledger, shut, write, written
from tests.processing import Watch, an_app, processing


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await over_a_ledger(connection)


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
    server_url: str,
) -> None:
    """It is handed back, and still known for a suspect."""
    app = an_app(tmp_path, SUSPECTS)
    async with processing(database, write, app=app) as parts:
        await parts.store.check()
        await shut(server_url, connection, True)
        event_id = await an_event(connection, source="good", **DIED_TWICE)
        await watch.until("id = $1 AND held_by IS NULL AND claims >= 3 AND attempts = 2", event_id)
        await shut(server_url, connection, False)
        assert (await watch.settled())[event_id] == ("processed", None)
    assert await written(connection) == [event_id]
