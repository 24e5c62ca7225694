"""What the sieve asks of the table: sources as they are registered, and whose each delivery is."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from processor.links import Links

SOURCES = """
SELECT r.revision, s.* FROM hookd.registry r LEFT JOIN hookd.processor_sources s ON true WHERE r.one
"""

# Whose a delivery is: the first one's; that of the same event again; of a copy, once its owner failed or the window is
# over; of one that was replayed ($5), whoever had it. All that decide lock the keys in the same order.
DECIDE = """
WITH asked AS (
  SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::float8[]) AS a(source, key, event_id, seconds)),
one AS (
  SELECT DISTINCT ON (source, key) source, key, event_id, seconds
    FROM asked
   ORDER BY source, key, event_id = ANY($5::uuid[]) DESC, event_id),
won AS (
  INSERT INTO hookd.deliveries AS d (source, key, event_id, expires_at)
  SELECT source, key, event_id, now() + make_interval(secs => seconds) FROM one ORDER BY source, key
  ON CONFLICT (source, key) DO UPDATE
     SET (event_id, expires_at) = (
         SELECT excluded.event_id, excluded.expires_at
          WHERE d.expires_at < now()
             OR excluded.event_id = ANY($5)
             OR EXISTS (SELECT FROM hookd.events e WHERE e.id = d.event_id AND e.status = 'failed')
         UNION ALL
         SELECT d.event_id, d.expires_at
         LIMIT 1)
  RETURNING d.source, d.key, d.event_id)
SELECT a.event_id AS id, w.event_id AS owner FROM asked a JOIN won w USING (source, key)
"""


class Contender(NamedTuple):
    """An event that asks to be its delivery's owner. `insists`: it was replayed."""

    source: str
    key: str
    event_id: UUID
    window_seconds: float
    insists: bool


class Sources:
    """What is registered."""

    def __init__(self, links: Links) -> None:
        self._run = links.run
        self._side = links.side

    async def read(self) -> tuple[int, list[Any]]:
        """The registry's revision, and the sources as they are at it."""
        records = await self._run(self._side, lambda connection: connection.fetch(SOURCES))
        return records[0]["revision"], [record for record in records if record["name"] is not None]


class Deliveries:
    """Who owns which."""

    def __init__(self, links: Links) -> None:
        self._run = links.run
        self._claiming = links.claiming
        self._side = links.side

    async def decide(self, contenders: Sequence[Contender], lane: int | None = None) -> dict[UUID, UUID]:
        """Who owns the delivery of each of these events, decided and committed."""
        insisting = [each.event_id for each in contenders if each.insists]
        sources, keys, ids, windows, _ = map(list, zip(*contenders, strict=True))
        link = self._side if lane is None else self._claiming[lane]
        records = await self._run(
            link, lambda connection: connection.fetch(DECIDE, sources, keys, ids, windows, insisting)
        )
        return {record["id"]: record["owner"] for record in records}
