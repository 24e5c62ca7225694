"""SQL alone: what PostgreSQL makes of claims and settles when no Python stands between them.

Plainer statements than the processor's own, so that PostgreSQL has less to do than it has for hookd: no bounds in
bytes, no retries, no counters, no attempts. What makes a queue of it is the same: a lease on the indexed `due_at`, the
holder, the attempt counted at the claim, the row sent to whoever claims, the settle fenced by the claim.
"""

import asyncio
import time
from operator import itemgetter

from chassis.database import Connection
from rig.postgres import connected

ROWS = 500
METHOD = f"plainer statements that do the same to a row, claim {ROWS} and settle {ROWS} by turns, over two connections"
CLAIM = """
WITH due AS MATERIALIZED (
  SELECT id
    FROM hookd.events
   WHERE status = 'new' AND due_at <= now()
   ORDER BY due_at
   LIMIT $1
     FOR UPDATE SKIP LOCKED)
UPDATE hookd.events e
   SET due_at = now() + interval '60 s', attempts = e.attempts + 1, claims = e.claims + 1, held_by = $2
  FROM due
 WHERE e.id = due.id
RETURNING e.id, e.claims, e.attempts, e.source, e.received_at, e.method, e.target, e.headers, e.payload
"""
SETTLE = """
UPDATE hookd.events e
   SET status = 'processed', held_by = NULL, finished_at = now()
  FROM unnest($1::uuid[], $2::int[]) AS r(id, claims)
 WHERE e.id = r.id AND e.claims = r.claims AND e.id = ANY($1) AND e.status = 'new' AND e.held_by IS NOT NULL
"""
ids_of, claims_of = itemgetter("id"), itemgetter("claims")


async def drain(url: str) -> float:
    """Claim and settle until nothing is due; the seconds it took."""
    async with connected(url) as one, connected(url) as another:
        began = time.monotonic()
        await asyncio.gather(_lane(one, "one"), _lane(another, "another"))
        return time.monotonic() - began


async def _lane(connection: Connection, name: str) -> None:
    claim, settle = await connection.prepare(CLAIM), await connection.prepare(SETTLE)
    while claimed := await claim.fetch(ROWS, name):
        await settle.fetch(list(map(ids_of, claimed)), list(map(claims_of, claimed)))
