"""What became of events, written batch by batch; fenced, so that what is sent twice or late changes nothing."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from chassis.database import DATA_ERRORS, Connection
from chassis.logs import get_logger
from processor.holding.claimed import NOTHING_FOUND, Claimed
from processor.links import Links
from processor.outcome import Outcome

log = get_logger()

# The fence: id, claims, held_by, status. A settle that is sent twice, after a replay or too late finds no row. It locks
# no row beforehand: by the fence no two processes settle the same one, and claims and renewals skip what is locked.
SETTLE = """
WITH settled AS (
  UPDATE hookd.events e
     SET status = r.status,
         held_by = NULL,
         reason = CASE r.status WHEN 'new' THEN coalesce(r.reason, e.reason) ELSE r.reason END,
         attempts = e.attempts - r.refund,
         due_at = CASE r.status WHEN 'new' THEN now() + make_interval(secs => r.delay) ELSE e.due_at END,
         finished_at = CASE r.status WHEN 'new' THEN NULL ELSE now() END,
         verdict = coalesce(r.verdict, e.verdict),
         event_type = coalesce(r.event_type, e.event_type),
         delivery_id = coalesce(s.delivery_id, e.delivery_id)
    FROM unnest($1::uuid[], $2::int[], $3::text[]) AS s(id, number, delivery_id) -- $3 may be shorter: then it is null
    JOIN unnest($4::int[], $5::bool[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::float8[],
                $12::int[], $13::text[])
         WITH ORDINALITY
         AS r(claims, noted, label, event_type, verdict, status, reason, delay, refund, traceback, number)
         USING (number)
   WHERE e.id = s.id AND e.id = ANY($1) AND e.claims = r.claims AND e.status = 'new' AND e.held_by IS NOT NULL
     AND e.id BETWEEN $14 AND $15 -- an array leaves out no day, bounds do
  RETURNING e.id, e.claims, e.attempts AS attempt, e.status, e.received_at, r.reason, r.traceback, r.noted, r.label),
noted AS (
  INSERT INTO hookd.attempts (event_id, claim, attempt, error, traceback)
  SELECT id, claims, attempt, reason, traceback FROM settled WHERE noted),
counted AS (
  INSERT INTO hookd.counts AS c (day, source, status, events)
  SELECT (received_at AT TIME ZONE 'UTC')::date AS day, label, status, count(*)
    FROM settled
   WHERE status <> 'new'
   GROUP BY 1, 2, 3
   ORDER BY 1, 2, 3
  ON CONFLICT (day, source, status) DO UPDATE SET events = c.events + excluded.events)
SELECT id FROM unnest($1) AS s(id) EXCEPT SELECT id FROM settled
"""


class Settlement(NamedTuple):
    """What the settle is to write for a claimed row; `label`: the source's name in the counters."""

    claimed: Claimed
    outcome: Outcome
    noted: bool
    label: str


class Results:
    """Over two connections: while one batch is being committed the next is sent."""

    def __init__(self, links: Links) -> None:
        self._run = links.run
        self._settling = links.settling
        self._side = links.side

    async def settle(self, settlements: Sequence[Settlement], lane: int = 0) -> set[UUID]:
        """Write the outcomes; returns the ids that the fence let through. Raises Unavailable."""
        try:
            return await self._run(self._settling[lane], lambda connection: _settle(connection, settlements))
        except DATA_ERRORS as error:
            if len(settlements) == 1:
                return await self._settle_unrecordable(settlements[0], error, lane)
            middle = len(settlements) // 2
            return await self.settle(settlements[:middle], lane) | await self.settle(settlements[middle:], lane)

    async def _settle_unrecordable(self, settlement: Settlement, error: Exception, lane: int) -> set[UUID]:
        log.error("event.unrecordable", id=str(settlement.claimed.id), reason=str(error))
        outcome = Outcome("failed", f"could not be recorded: {type(error).__name__}")
        settlement.claimed.found = NOTHING_FOUND
        plain = Settlement(settlement.claimed, outcome, False, settlement.label)
        return await self._run(self._settling[lane], lambda connection: _settle(connection, [plain]))

    async def counted_sources(self) -> list[str]:
        """The names the counters know."""
        sql = "SELECT DISTINCT source FROM hookd.counts ORDER BY source LIMIT 1000"
        records = await self._run(self._side, lambda connection: connection.fetch(sql))
        return [record["source"] for record in records]


async def _settle(connection: Connection, settlements: Sequence[Settlement]) -> set[UUID]:
    # Most rows of a batch end alike: what became of them is sent once, and each row names it by its number.
    numbers: dict[tuple[int, bool, str, str | None, str | None, Outcome], int] = {}
    ids, numbered, deliveries = [], [], []
    for claimed, outcome, noted, label in settlements:
        event_type, delivery_id, verdict = claimed.found
        ids.append(claimed.id)
        deliveries.append(delivery_id)
        ended = (claimed.row["claims"], noted, label, event_type, verdict, outcome)
        numbered.append(numbers.setdefault(ended, len(numbers) + 1))
    columns = zip(*((*rest, *outcome[:-1]) for *rest, outcome in numbers), strict=True)
    named = deliveries if any(deliveries) else []
    kept_out = await connection.fetch(SETTLE, ids, numbered, named, *map(list, columns), min(ids), max(ids))
    return set(ids).difference(record["id"] for record in kept_out)
