"""Of what is held: its lease put forward, and a body that did not come with the claim."""

from collections.abc import Sequence
from uuid import UUID

from chassis.database import Database, Link
from processor.holding.claimed import Claimed
from processor.links import PLANS, STATEMENT_SECONDS, Links

# SKIP LOCKED: a settle that is on its way in another order would be a deadlock.
RENEW = """
WITH mine AS MATERIALIZED (
  SELECT e.id
    FROM unnest($1::uuid[], $2::int[]) AS h(id, claims)
    JOIN hookd.events e ON e.id = h.id AND e.claims = h.claims
   WHERE e.id = ANY($1) AND e.id BETWEEN $4 AND $5 AND e.status = 'new' AND e.held_by IS NOT NULL
     FOR UPDATE OF e SKIP LOCKED)
UPDATE hookd.events e
   SET due_at = now() + make_interval(secs => $3)
  FROM mine
 WHERE e.id = mine.id AND e.id = ANY($1) AND e.id BETWEEN $4 AND $5 -- an array leaves out no day, bounds do
RETURNING e.id
"""


class Renewer:
    """The connection of the thread that renews leases; it belongs to that thread's event loop."""

    def __init__(self, database: Database, *, lease_seconds: float, name: str = "processor") -> None:
        self._lease_seconds = lease_seconds
        self._link = Link(database, f"{name} renew", settings=PLANS)

    async def renew(self, held: Sequence[Claimed]) -> set[UUID]:
        """Put the leases of these rows forward; returns the ids whose lease holds. Raises Unavailable."""
        ids, claims = [each.row["id"] for each in held], [each.row["claims"] for each in held]
        arguments = (ids, claims, self._lease_seconds, min(ids), max(ids))
        records = await self._link.run(
            lambda connection: connection.fetch(RENEW, *arguments), timeout=STATEMENT_SECONDS
        )
        return {record["id"] for record in records}

    async def close(self) -> None:
        await self._link.close()


class Bodies:
    """Those that are too large to come with a claim."""

    def __init__(self, links: Links) -> None:
        self._run = links.run
        self._side = links.side

    async def fetch(self, event_id: UUID) -> bytes:
        value: bytes = await self._run(
            self._side,
            lambda connection: connection.fetchval("SELECT payload FROM hookd.events WHERE id = $1", event_id),
            timeout=3 * STATEMENT_SECONDS,
        )
        return value
