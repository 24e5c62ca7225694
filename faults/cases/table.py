"""The table as the processor's cases fill it, wait for it and read it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from uuid_utils import uuid7

from chassis.database import Connection
from faults.scene import Scene
from rig import sample, seed
from rig.hookd import Hookd
from rig.postgres import connected
from rig.server import on

SHOP = "shop"
PATIENCE_SECONDS = 60.0
ROWS = "SELECT id::text, source, status, reason, attempts, claims, held_by FROM hookd.events"
UNSETTLED = "SELECT EXISTS (SELECT FROM hookd.events WHERE status = 'new')"
HELD_BY = "SELECT id::text FROM hookd.events WHERE status = 'new' AND held_by LIKE '% ' || $1"
HURRY = "UPDATE hookd.events SET due_at = now() WHERE status = 'new' AND held_by IS NULL AND due_at > now()"
MISCOUNTED = """
SELECT count(*)
  FROM (SELECT (received_at AT TIME ZONE 'UTC')::date AS day, source, status, count(*) AS events
          FROM hookd.events WHERE status <> 'new' GROUP BY 1, 2, 3) AS r
  FULL JOIN (SELECT * FROM hookd.counts WHERE events <> 0) AS c USING (day, source, status)
 WHERE r.events IS DISTINCT FROM c.events
"""


async def stored(scene: Scene, count: int, *sources: str) -> list[str]:
    """The ids of so many new rows, due in this order; of several sources, by turns."""
    now, sources = datetime.now(UTC), sources or (SHOP,)
    records = []
    for number in range(count):
        at, source = now + timedelta(microseconds=number), sources[number % len(sources)]
        records.append((uuid7(), source, at, at, "POST", f"/{source}", sample.HEADERS, None, sample.BODY))
    async with connected(scene.url) as connection:
        await connection.copy_records_to_table("events", schema_name="hookd", columns=seed.COLUMNS, records=records)
    return [str(record[0]) for record in records]


async def until_settled(scene: Scene, *processors: Hookd, seconds_max: float = PATIENCE_SECONDS) -> None:
    """Return once no row is new. Fails as soon as one of those that should be at work has ended."""
    async with connected(scene.url) as connection, asyncio.timeout(seconds_max):
        while await connection.fetchval(UNSETTLED):
            for each in processors:
                assert each.process.returncode is None, f"the processor ended with {each.process.returncode}"
            await asyncio.sleep(0.1)


@asynccontextmanager
async def hurried(scene: Scene) -> AsyncIterator[None]:
    """No back-off lasts; leases are left alone."""

    async def hurry() -> None:
        async with connected(scene.url) as connection:
            while True:
                await connection.execute(HURRY)
                await asyncio.sleep(0.2)

    hurrying = asyncio.create_task(hurry())
    try:
        yield
    finally:
        hurrying.cancel()
        await asyncio.wait([hurrying])


async def rows(scene: Scene) -> dict[str, Any]:
    async with connected(scene.url) as connection:
        return {row["id"]: row for row in await connection.fetch(ROWS)}


async def held_by(connection: Connection, pid: int) -> list[str]:
    """The ids of what that process holds."""
    return [row["id"] for row in await connection.fetch(HELD_BY, str(pid))]


def total_of(found: dict[str, Any], source: str, status: str) -> int:
    return sum(row["source"] == source and row["status"] == status for row in found.values())


async def require_counted(scene: Scene) -> None:
    """The counters say what the table says."""
    assert await on(scene.server, MISCOUNTED) == 0, "hookd.counts differ from the rows"


async def require_handed_back(scene: Scene) -> None:
    """What was not run to its end waits for anybody; no attempt of it counts, but of what was over its time."""
    left = [row for row in (await rows(scene)).values() if row["status"] == "new"]
    assert not any(row["held_by"] for row in left), "a row is still held by a processor that has left"
    unfinished = [row for row in left if not (row["reason"] or "").startswith("timed out")]
    assert not any(row["attempts"] for row in unfinished), "an attempt was counted that was handed back"


async def require_attempts(scene: Scene) -> None:
    """Where nothing was handed back, each claim is an attempt, and no run is without one."""
    starts = scene.starts()
    for each, row in (await rows(scene)).items():
        assert row["attempts"] == row["claims"], f"{row['claims']} claims and {row['attempts']} attempts"
        assert starts[each] <= row["attempts"], f"{starts[each]} runs in {row['attempts']} attempts"
