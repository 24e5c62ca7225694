"""The queue: what is due is claimed by one short statement; when the next row is due; who hints that one may be."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

from chassis.database import FAILURES, Connection, Database, Unavailable
from processor.claiming.watermark import Since, least_id
from processor.holding.claimed import BODY_INLINE_BYTES_MAX, Claimed
from processor.links import STATEMENT_SECONDS, Links
from processor.outcome import DIED

CHANNEL = "hookd"
WAITED = itemgetter("waited_seconds")
ALL = (None, UUID(int=0))
HEALTH_SECONDS, HEALTH_TIMEOUT_SECONDS = 5.0, 2.0

# ruff: noqa: S608 - what is formatted into SQL here are constants of ours
# (Seconds come as floats, exact to the microsecond: a timestamp takes asyncpg a tenth of all a claim costs.)
CLAIM = f"""
WITH due AS MATERIALIZED (
  SELECT id, due_at, octet_length(payload) AS bytes, (held_by IS NOT NULL OR reason = '{DIED}') IS TRUE AS died
    FROM hookd.events
   WHERE status = 'new' AND due_at <= LEAST(now(), $5::timestamptz) -- a null $5 counts for nothing
     AND due_at >= coalesce($6::timestamptz, '-infinity') AND id >= $7
   ORDER BY due_at
   LIMIT $1
     FOR UPDATE SKIP LOCKED),
fit AS MATERIALIZED (
  SELECT id, due_at, died, bytes, n
    FROM (SELECT id, due_at, died, bytes, row_number() OVER w AS n,
                 sum(CASE WHEN bytes <= {BODY_INLINE_BYTES_MAX} THEN bytes ELSE 0 END) OVER w AS upto
            FROM due WINDOW w AS (ORDER BY due_at, id ROWS UNBOUNDED PRECEDING)) s
   WHERE n = 1 OR upto <= $2)
UPDATE hookd.events e
   SET due_at = now() + make_interval(secs => $3), attempts = e.attempts + 1, claims = e.claims + 1, held_by = $4,
       reason = CASE WHEN fit.died THEN '{DIED}' ELSE e.reason END
  FROM fit
 WHERE e.id = fit.id AND e.id = ANY(ARRAY(SELECT id FROM fit))
   AND e.id >= $7
   AND e.id >= (SELECT id FROM fit ORDER BY id LIMIT 1) -- an array leaves out no day, bounds do
   AND e.id <= (SELECT id FROM fit ORDER BY id DESC LIMIT 1)
RETURNING (SELECT revision FROM hookd.registry WHERE one) AS revision, e.id, e.claims, e.attempts, fit.died, e.reason,
          fit.bytes, e.source, e.event_type, e.delivery_id, e.verdict, e.replayed,
          date_part('epoch', e.received_at) AS received_epoch, date_part('epoch', now() - e.received_at) AS age_seconds,
          date_part('epoch', now() - fit.due_at) AS waited_seconds, e.method, e.target, e.headers,
          CASE WHEN fit.n = 1 THEN fit.due_at END AS oldest_due_at,
          CASE WHEN fit.bytes <= {BODY_INLINE_BYTES_MAX} THEN e.payload END AS payload
"""

NEXT_DUE = """
SELECT now() AS now,
       (SELECT due_at
          FROM hookd.events
         WHERE status = 'new' AND due_at >= coalesce($1::timestamptz, '-infinity') AND id >= $3
           AND due_at < coalesce(now() + make_interval(secs => $2), 'infinity')
         ORDER BY due_at
         LIMIT 1) AS due_at
"""


class NextDue(NamedTuple):
    """When the next row is due, by the database's clock, which says `now`; None: nothing waits, or not for so long."""

    now: datetime
    due_at: datetime | None

    @property
    def seconds(self) -> float | None:
        """Until then; negative when it is overdue."""
        return None if self.due_at is None else (self.due_at - self.now).total_seconds()

    @property
    def oldest(self) -> datetime:
        """Nothing is due before."""
        return self.now if self.due_at is None else min(self.due_at, self.now)

    @property
    def least_id(self) -> UUID:
        """What nothing has that is received from now on."""
        return least_id(self.now)


class Queue:
    """Over two connections for claims, and the one for what may wait. `holder`: whose the claimed rows are."""

    def __init__(self, links: Links, holder: str, lease_seconds: float) -> None:
        self._run = links.run
        self._claiming = links.claiming
        self._side = links.side
        self._holder = holder
        self._lease_seconds = lease_seconds

    async def claim(
        self,
        rows_max: int,
        bytes_max: int,
        due_until: datetime | None,
        clock: Callable[[], float],
        lane: int = 0,
        since: Since | None = None,
    ) -> list[Claimed]:
        """Hold what is due, oldest first; of bodies that come along `bytes_max` at most, but always one row.

        `since`: pass by what was due, or received, before.
        """
        due_since, least = since or ALL
        lease_until = clock() + self._lease_seconds
        arguments = (rows_max, bytes_max, self._lease_seconds, self._holder, due_until, due_since, least)
        records = await self._run(self._claiming[lane], lambda connection: connection.fetch(CLAIM, *arguments))
        records.sort(key=WAITED, reverse=True)
        return [Claimed(record, lease_until) for record in records]

    async def next_due(self, since: Since | None = None, within_seconds: float | None = None) -> NextDue:
        """When the next row is due, if it is within that time; `since`: pass by what was due, or received, before.

        (A held snapshot keeps the leases of what was settled since among what is due later.)
        """
        due_since, least = since or ALL
        record = await self._run(
            self._claiming[0], lambda connection: connection.fetchrow(NEXT_DUE, due_since, within_seconds, least)
        )
        assert record is not None
        return NextDue(record["now"], record["due_at"])

    async def seconds_until_due(self) -> float | None:
        """Until the next row is due, negative when one is overdue; None when nothing waits."""
        return (await self.next_due()).seconds

    async def now(self) -> datetime:
        """The database's clock."""
        value: datetime = await self._run(self._side, lambda connection: connection.fetchval("SELECT now()"))
        return value

    async def only_drain(self) -> bool:
        """Whether no other `--once` drains; it is so until this process ends or its connection does."""
        mine: bool = await self._run(
            self._claiming[0],
            lambda connection: connection.fetchval("SELECT pg_try_advisory_lock(hashtext('hookd.once'))"),
            timeout=STATEMENT_SECONDS,
        )
        return mine


def least_of(claimed: Sequence[Claimed]) -> UUID:
    """The id that was received first."""
    return min(each.id for each in claimed)


def oldest_due(claimed: Sequence[Claimed]) -> datetime:
    """Since when the first of them had been due. They come as `claim` gave them: those due for the longest first."""
    due_at: datetime = next(filter(None, (each.row["oldest_due_at"] for each in claimed)))
    return due_at


async def listen(database: Database, heard: Callable[[], None]) -> None:
    """Call `heard` for each hint, and once after each new connection, for hints may have been missed. Never returns."""
    while True:
        try:
            connection = await database.connect("processor listen")
        except Unavailable:
            await asyncio.sleep(1.0)
            continue
        try:
            await _hear(connection, heard)
        except FAILURES:
            pass
        finally:
            connection.terminate()


async def _hear(connection: Connection, heard: Callable[[], None]) -> None:
    cut = asyncio.Event()
    connection.add_termination_listener(lambda _: cut.set())
    await connection.add_listener(CHANNEL, lambda *_: heard())
    heard()
    while True:  # asyncpg does not notice a half-open connection
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(cut.wait(), HEALTH_SECONDS)
        await connection.fetchval("SELECT 1", timeout=HEALTH_TIMEOUT_SECONDS)
