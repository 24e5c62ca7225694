"""Maintenance: days made ahead, old days dropped, expired keys deleted, in small steps of which none stops anything."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
from structlog.testing import capture_logs

from chassis.database import Connection, Database
from processor.store import Store
from processor.upkeep.maintenance import KEYS_A_STEP, REFUSED_A_STEP, Maintenance
from tests.factories import an_event, an_id, at, counts

pytestmark = pytest.mark.all_days

KEYS = """
INSERT INTO hookd.deliveries (source, key, event_id, expires_at)
SELECT $1, n::text, gen_random_uuid(), now() + $2::interval FROM generate_series(1, $3) AS n
"""


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    store = Store(database, "a processor", lease_seconds=60)
    yield store
    await store.close()


@pytest.fixture
def maintenance(store: Store) -> Maintenance:
    return Maintenance(store.upkeep, retention_days=30)


async def day(connection: Connection, when: str) -> str:
    return (await at(connection, when)).date().isoformat()


async def drop(connection: Connection, when: str) -> None:
    name = (await at(connection, when)).strftime("%Y%m%d")
    await connection.execute(f"DROP TABLE hookd.events_{name}, hookd.attempts_{name}")


async def details(connection: Connection) -> dict[str, str]:
    return dict(await connection.fetch("SELECT step, detail FROM hookd.maintenance"))  # type: ignore[arg-type]


async def test_days_are_made_ahead(store: Store, maintenance: Maintenance, connection: Connection) -> None:
    """Today and the fourteen days that follow are made, whichever of them are missing; made again, nothing is done."""
    for missing in ("0 days", "3 days", "14 days"):
        await drop(connection, missing)
    assert await maintenance.make_days() == "3 made"
    assert await maintenance.make_days() == "0 made"
    first = await store.upkeep.today()
    assert await store.upkeep.days() == [first + timedelta(days=n) for n in range(15)]


async def test_retention(maintenance: Maintenance, connection: Connection) -> None:
    """Days older than the retention are dropped, to the day; a day with a new event stays, and the note says so."""
    for age in (29, 30, 31, 32, 50):
        await an_event(connection, status="processed", received=f"{age} days ago")
    await an_event(connection, received="32 days ago", due="infinity")
    dropped = f"{await day(connection, '50 days ago')}, {await day(connection, '31 days ago')}"
    assert await maintenance.drop_days() == f"dropped {dropped}; kept {await day(connection, '32 days ago')}"
    left = await connection.fetch("SELECT (received_at AT TIME ZONE 'UTC')::date FROM hookd.events ORDER BY 1")
    ages = [await day(connection, f"{age} days ago") for age in (32, 32, 30, 29)]
    assert [kept.isoformat() for (kept,) in left] == ages
    await connection.execute("UPDATE hookd.events SET status = 'failed', finished_at = now() WHERE status = 'new'")
    assert await maintenance.drop_days() == f"dropped {await day(connection, '32 days ago')}"
    assert await maintenance.drop_days() == "nothing to drop"


async def test_expired_keys_are_forgotten(maintenance: Maintenance, connection: Connection) -> None:
    """Delivery keys are forgotten in small batches when their window has ended, and not before."""
    await connection.execute(KEYS, "github", timedelta(seconds=-1), 2 * KEYS_A_STEP + 1)
    await connection.execute(KEYS, "stripe", timedelta(hours=1), 3)
    assert await maintenance.forget_keys() == "2001 forgotten"
    assert await connection.fetchval("SELECT count(*) FROM hookd.deliveries WHERE source = 'stripe'") == 3
    assert await connection.fetchval("SELECT count(*) FROM hookd.deliveries") == 3


async def test_a_batch_of_keys_is_bounded(store: Store, connection: Connection) -> None:
    """One step deletes no more keys than it may, the longest expired first."""
    await connection.execute(KEYS, "new", timedelta(seconds=-1), 5)
    await connection.execute(KEYS, "old", timedelta(hours=-1), 5)
    assert await store.upkeep.forget_deliveries(5) == 5
    assert await connection.fetch("SELECT 1 FROM hookd.deliveries WHERE source = 'old'") == []


async def test_the_last_success_is_noted(store: Store, maintenance: Maintenance, connection: Connection) -> None:
    """Each step notes when it last succeeded and what it did; the least recent of them is watched."""
    assert await store.upkeep.seconds_since_maintenance() is None
    await maintenance.run()
    assert await details(connection) == {
        "days": "0 made",
        "retention": "nothing to drop",
        "keys": "0 forgotten",
        "refused": "0 forgotten",
    }
    assert await store.upkeep.seconds_since_maintenance() == pytest.approx(0, abs=5)
    await connection.execute(
        "UPDATE hookd.maintenance SET succeeded_at = now() - interval '1 hour' WHERE step = 'days'"
    )
    assert await store.upkeep.seconds_since_maintenance() == pytest.approx(3600, abs=5)


async def test_a_reader_is_waited_for_with_patience(
    maintenance: Maintenance, connection: Connection, database_url: str
) -> None:
    """A day that somebody reads is tried again and again, and dropped when they are done."""
    await an_event(connection, status="processed", received="40 days ago")
    reader: Connection = await asyncpg.connect(database_url)
    async with reader.transaction():
        await reader.fetch("SELECT FROM hookd.events")
        dropping = asyncio.create_task(maintenance.drop_days())
        await _until_tried(connection)
        assert not dropping.done()
    assert await dropping == f"dropped {await day(connection, '40 days ago')}"
    await reader.close()


async def test_a_reader_that_stays(store: Store, connection: Connection, database_url: str) -> None:
    """A day that stays blocked is reported, its success not noted; the other steps are done all the same."""
    await an_event(connection, status="processed", received="40 days ago")
    reader: Connection = await asyncpg.connect(database_url)
    with capture_logs() as logs:
        async with reader.transaction():
            await reader.fetch("SELECT FROM hookd.events")
            await Maintenance(store.upkeep, retention_days=30, pause_seconds=0.01).run()
    await reader.close()
    blocked = await day(connection, "40 days ago")
    assert logs == [{"event": "maintenance.blocked", "log_level": "warning", "step": "retention", "days": blocked}]
    assert set(await details(connection)) == {"days", "keys", "refused"}


async def test_two_processors_at_once(database: Database, connection: Connection) -> None:
    """Of processors that maintain at the same time each step is done by one; none fails, and all is done."""
    for age in range(40, 44):
        await an_event(connection, status="processed", received=f"{age} days ago")
    for missing in range(5):
        await drop(connection, f"{missing} days")
    await connection.execute(KEYS, "github", timedelta(seconds=-1), 3000)
    stores = [Store(database, f"processor {n}", lease_seconds=60) for n in range(3)]
    with capture_logs() as logs:
        each = [Maintenance(store.upkeep, retention_days=30, pause_seconds=0.02) for store in stores]
        await asyncio.gather(*(maintenance.run() for maintenance in each))
    assert [line for line in logs if line["event"] == "maintenance.failed"] == []
    days = await stores[0].upkeep.days()
    assert len(days) == 15
    assert await connection.fetchval("SELECT count(*) FROM hookd.deliveries") == 0
    for store in stores:
        await store.close()


async def test_a_step_waits_for_nobody(store: Store, connection: Connection) -> None:
    """While another processor is at a step it is left to that one, and nothing is done beside it."""
    await an_event(connection, status="processed", received="40 days ago")
    await connection.execute(KEYS, "github", timedelta(seconds=-1), 3)
    upkeep, old = store.upkeep, (await at(connection, "40 days ago")).date()
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('hookd.maintenance'))")
        assert [
            await upkeep.add_day(await upkeep.today()),
            await upkeep.drop_day(old),
            await upkeep.forget_deliveries(10),
            await upkeep.forget_refused(timedelta(hours=1), 10),
        ] == [None] * 4
    assert await upkeep.forget_deliveries(10) == 3
    assert await upkeep.drop_day(old) == "dropped"


async def test_a_partition_made_by_hand_is_left_alone(maintenance: Maintenance, connection: Connection) -> None:
    """A partition that is no day of hookd's is none of its business."""
    await connection.execute(
        "CREATE TABLE hookd.events_by_hand PARTITION OF hookd.events"
        " FOR VALUES FROM ('ffff0000-0000-0000-0000-000000000000') TO (MAXVALUE)"
    )
    await maintenance.run()
    assert set(await details(connection)) == {"days", "retention", "keys", "refused"}
    assert await connection.fetchval("SELECT to_regclass('hookd.events_by_hand')") is not None


async def test_a_step_that_fails_stops_nothing(maintenance: Maintenance, connection: Connection) -> None:
    """A step that cannot be done is reported, whatever the database says of it; the others are done."""
    await an_event(connection, status="processed", received="40 days ago")
    await drop(connection, "3 days")
    await connection.execute(
        """
        CREATE TABLE hookd.events_by_hand PARTITION OF hookd.events
            FOR VALUES FROM (hookd.uuid_at(date_trunc('day', now() + interval '3 days') + interval '1 h'))
                         TO (hookd.uuid_at(date_trunc('day', now() + interval '3 days') + interval '2 h'));
        CREATE OR REPLACE FUNCTION hookd.drop_day(day date) RETURNS text LANGUAGE sql AS 'SELECT (1 / 0)::text';
        """
    )
    with capture_logs() as logs:
        await maintenance.run()
    assert [(line["event"], line["step"]) for line in logs] == [
        ("maintenance.failed", "days"),
        ("maintenance.failed", "retention"),
    ]
    assert "would overlap partition" in logs[0]["reason"]
    assert "division by zero" in logs[1]["reason"]
    assert set(await details(connection)) == {"keys", "refused"}


async def test_it_runs_whenever_it_is_rung(maintenance: Maintenance, connection: Connection) -> None:
    """Maintenance runs when the bell rings, and again when it rings again."""
    running = asyncio.create_task(maintenance.keep_up())
    for _ in range(2):
        maintenance.ring()
        async with asyncio.timeout(20):
            while len(await details(connection)) < 3:  # noqa: ASYNC110 - the table tells nobody
                await asyncio.sleep(0.01)
        await connection.execute("DELETE FROM hookd.maintenance")
    running.cancel()
    await asyncio.wait([running])


async def _until_tried(connection: Connection) -> None:
    """Return once somebody waits for a lock on the table, and then gives it up."""
    for is_waiting in (True, False):
        async with asyncio.timeout(20):
            while is_waiting is not await connection.fetchval(  # noqa: ASYNC110 - nor do locks
                "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'hookd.events'::regclass)"
            ):
                await asyncio.sleep(0.005)


REFUSE = """
SELECT hookd.keep_refused($1, 'github', 'push', 'a', now(), 'POST', '/github', '[]', NULL, $2, 'header: none', 10000)
"""


async def refuse(connection: Connection, *, hours_ago: float, payload: bytes = b"{}") -> UUID:
    """An event that was refused at the edge so long ago."""
    event_id = an_id(await at(connection, "now"))
    assert await connection.fetchval(REFUSE, event_id, payload)
    age = timedelta(hours=hours_ago)
    await connection.execute(
        "UPDATE hookd.refused SET refused_at = now() - $2::interval WHERE event_id = $1", event_id, age
    )
    return event_id


async def test_refusals_are_forgotten(store: Store, connection: Connection) -> None:
    """What was refused at the edge is deleted after so many hours, in batches, with its counts; not what was verified
    since."""
    await connection.execute("INSERT INTO hookd.sources (name, mode) VALUES ('github', 'edge')")
    for _ in range(REFUSED_A_STEP + 1):
        await refuse(connection, hours_ago=2.1)
    young = await refuse(connection, hours_ago=1.9)
    promoted = await refuse(connection, hours_ago=3)
    await connection.execute("UPDATE hookd.events SET verdict = 'verified' WHERE id = $1", promoted)
    maintenance = Maintenance(store.upkeep, retention_days=30, refused_hours=2)
    assert await maintenance.forget_refused() == f"{REFUSED_A_STEP + 2} forgotten"
    left = await connection.fetch("SELECT id FROM hookd.events ORDER BY id")
    assert {event_id for (event_id,) in left} == {young, promoted}
    assert await counts(connection) == {("github", "failed"): 2}
    assert await maintenance.forget_refused() == "0 forgotten"
