"""A table that handlers write through their events' own transactions, and its comparison with the events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from chassis.database import FAILURES
from faults.scene import Scene
from rig.postgres import connected

MAKE = "CREATE TABLE public.ledger (event_id uuid NOT NULL, attempt int NOT NULL)"  # no key: who writes twice may
COMPARE = """
SELECT count(*) FILTER (WHERE e.status = 'processed' AND l.lines IS NULL) AS "processed, and not in the ledger",
       count(*) FILTER (WHERE e.status IS DISTINCT FROM 'processed') AS "in the ledger, and not processed",
       count(*) FILTER (WHERE l.lines > 1) AS "in the ledger more than once"
  FROM (SELECT id, status FROM hookd.events WHERE status = 'processed' OR id IN (SELECT event_id FROM ledger)) AS e
  FULL JOIN (SELECT event_id AS id, count(*) AS lines FROM ledger GROUP BY 1) AS l USING (id)
"""
LOOK_SECONDS = 0.05


async def make_ledger(scene: Scene) -> None:
    async with connected(scene.url) as connection:
        await connection.execute(MAKE)


async def require_balanced(scene: Scene) -> None:
    """At this moment each processed event has one line in the ledger, and no other event has any."""
    async with connected(scene.url) as connection:
        found = await connection.fetchrow(COMPARE)
    assert found is not None
    wrong = [f"{count} {what}" for what, count in found.items() if count]
    assert not wrong, ", ".join(wrong)


@asynccontextmanager
async def balanced(scene: Scene) -> AsyncIterator[None]:
    """So it is at every moment of the block, whenever PostgreSQL can be asked."""

    async def watch() -> None:
        while True:
            with suppress(*FAILURES):
                await require_balanced(scene)
            await asyncio.sleep(LOOK_SECONDS)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        yield
        watching.cancel()
