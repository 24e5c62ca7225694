"""What people ask of the table, and the replay. What is watched probes an index or is bounded."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from chassis.database import Connection, Database, Link, Unavailable, check_revision

T = TypeVar("T")

REVISION_NEEDED = "0002"
CHANNEL = "hookd"
LOOKED_AT_MAX = 100_000  # rows counted one by one; beyond it a number is shown with a plus
READ_SECONDS, REPLAY_SECONDS = 30.0, 600.0
PATIENCE_SECONDS = 5.0  # beyond the server's own limit, which says more than ours
IDS_A_PAGE, IDS_A_BATCH = 100_000, 500
FAILURES_SHOWN, FAILING_SOURCES_MAX = 5, 100

# The statistics of a day that was analysed while all of it was new make a table scan look cheap. And a plan that knows
# `status = 'failed'` uses the index on failures.
PLANNER = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    "lock_timeout": "10s",
}

STATE = """CASE WHEN status <> 'new' THEN status
     WHEN held_by IS NOT NULL THEN 'running'
     WHEN due_at = 'infinity' THEN 'parked'
     WHEN attempts > 0 THEN 'retrying'
     ELSE 'waiting' END"""

UNSETTLED = f"""
WITH looked AS MATERIALIZED (
  (SELECT source, status, held_by, due_at, attempts, received_at
     FROM hookd.events WHERE status = 'new' AND due_at < 'infinity' LIMIT $1)
  UNION ALL
  (SELECT source, status, held_by, due_at, attempts, received_at
     FROM hookd.events WHERE status = 'new' AND due_at = 'infinity' LIMIT $1))
SELECT source, {STATE} AS state, count(*) AS events,
       extract(epoch FROM now() - min(received_at))::float8 AS age_seconds,
       count(*) FILTER (WHERE held_by IS NOT NULL AND due_at < now()) AS lease_ended
  FROM looked
 GROUP BY 1, 2
"""  # noqa: S608 - our own words

SETTLED = """
SELECT source, status AS state, sum(events)::bigint AS events FROM hookd.counts GROUP BY 1, 2 HAVING sum(events) <> 0
"""

RECEIVED = """
SELECT count(*)
  FROM (SELECT FROM hookd.events WHERE id >= hookd.uuid_at(now() - interval '1 minute') LIMIT $1) AS looked
"""

# One probe of the index on failures for each source that has any, then one for its last few: a hundred sources at most.
FAILURES = """
WITH RECURSIVE failing AS (
  (SELECT source FROM hookd.events WHERE status = 'failed' ORDER BY source LIMIT 1)
  UNION ALL
  SELECT (SELECT e.source FROM hookd.events e WHERE e.status = 'failed' AND e.source > f.source ORDER BY 1 LIMIT 1)
    FROM failing f
   WHERE f.source IS NOT NULL)
SELECT last.*
  FROM (SELECT source FROM failing WHERE source IS NOT NULL LIMIT $1) AS f,
       LATERAL (SELECT id, source, event_type, received_at, finished_at, reason
                  FROM hookd.events e
                 WHERE e.status = 'failed' AND e.source = f.source
                 ORDER BY e.id DESC
                 LIMIT $2) AS last
 ORDER BY last.id DESC
 LIMIT $2
"""

MAINTENANCE = """
SELECT step, succeeded_at, extract(epoch FROM now() - succeeded_at)::float8 AS age_seconds, detail
  FROM hookd.maintenance
 ORDER BY step
"""

DAYS_AHEAD = "SELECT count(*) FROM hookd.days() WHERE day > (now() AT TIME ZONE 'UTC')::date"

COLUMNS = f"""id, status, {STATE} AS state, source, event_type, delivery_id, received_at, finished_at, due_at, held_by,
       attempts, claims, reason, verdict, method, target, host(remote) AS remote, now() AS now"""

ATTEMPTS = """
SELECT claim, attempt, ended_at, error, traceback FROM hookd.attempts WHERE event_id = $1 ORDER BY claim
"""

# Only what is settled, and was before the command began: a row that fails again meanwhile is left alone, and a row
# that another replay took is no longer settled. What was refused is judged again as if it came now; all else takes its
# delivery from the copy that owns it. The counters are locked in the settle's own order. A source that
# counts as 'other' in some process has no row of its own there, or one that holds too few.
RESET = """
WITH mine AS MATERIALIZED (
  SELECT id, status AS was
    FROM hookd.events
   WHERE id = ANY($1) AND status <> 'new' AND finished_at < $2
   ORDER BY id
     FOR UPDATE),
reset AS (
  UPDATE hookd.events e
     SET status = 'new', attempts = 0, held_by = NULL, due_at = now(), finished_at = NULL, reason = NULL,
         verdict = CASE e.verdict WHEN 'verified' THEN e.verdict END,
         replayed = e.verdict IS NULL OR e.verdict = 'verified'
    FROM mine m
   WHERE e.id = m.id AND e.id = ANY($1)
  RETURNING e.id, m.was, e.source, (e.received_at AT TIME ZONE 'UTC')::date AS day),
less AS (
  SELECT r.day, r.source, r.was, r.events, LEAST(r.events, GREATEST(coalesce(c.events, 0), 0)) AS own
    FROM (SELECT day, source, was, count(*) AS events FROM reset GROUP BY 1, 2, 3) AS r
    LEFT JOIN hookd.counts c ON c.day = r.day AND c.source = r.source AND c.status = r.was),
counted AS (
  INSERT INTO hookd.counts AS c (day, source, status, events)
  SELECT day, label, was, -sum(events)
    FROM (SELECT day, source AS label, was, own AS events FROM less
          UNION ALL
          SELECT day, 'other', was, events - own FROM less) AS each
   GROUP BY 1, 2, 3
  HAVING sum(events) > 0
   ORDER BY 1, 2, 3
  ON CONFLICT (day, source, status) DO UPDATE SET events = c.events + excluded.events)
SELECT id FROM reset
"""

STATES = {
    "new": "status = 'new'",
    "waiting": "status = 'new' AND held_by IS NULL AND due_at < 'infinity' AND attempts = 0",
    "retrying": "status = 'new' AND held_by IS NULL AND due_at < 'infinity' AND attempts > 0",
    "running": "status = 'new' AND held_by IS NOT NULL",
    "parked": "status = 'new' AND held_by IS NULL AND due_at = 'infinity'",
    "processed": "status = 'processed'",
    "failed": "status = 'failed'",
}


class TooSlow(Unavailable):
    """PostgreSQL gave the statement up."""


@dataclass(frozen=True)
class Wanted:
    """Which events; None: any. From the least id on, only the days that need it are read, and locked."""

    state: str | None = None
    source: str | None = None
    event_type: str | None = None
    reason: str | None = None
    least: UUID | None = None
    ids: tuple[UUID, ...] | None = None
    settled_before: datetime | None = None

    def where(self, *more: str, first: int = 1) -> tuple[str, list[object]]:
        """The condition, its parameters counted from `first`, and their values."""
        given = [
            ("id = ANY({})", self.ids),
            ("source = {}", self.source),
            ("event_type = {}", self.event_type),
            ("position({} in reason) > 0", self.reason),
            ("id >= {}", self.least),
            ("finished_at < {}", self.settled_before),
        ]
        present = [(condition, value) for condition, value in given if value is not None]
        conditions = [condition.format(f"${n}") for n, (condition, _) in enumerate(present, start=first)]
        conditions += [STATES[self.state]] if self.state else []
        return " AND ".join((*conditions, *more)) or "true", [value for _, value in present]


@dataclass(frozen=True)
class Standing:
    """How it stands, read in one snapshot."""

    at: datetime
    settled: Sequence[Any]
    unsettled: Sequence[Any]
    received_last_minute: int
    failures: Sequence[Any]
    maintenance: Sequence[Any]
    days_ahead: int


class Store:
    """One connection, shown as `hookd <name>` in pg_stat_activity."""

    def __init__(self, database: Database, name: str, seconds: float = READ_SECONDS) -> None:
        limits = {"statement_timeout": f"{seconds:.0f}s"}
        self._seconds = seconds
        self._link = Link(database, name, settings=PLANNER | limits, greet=greet)

    async def standing(self) -> Standing:
        """Counts, what waits, the last failures. Looks at a bounded number of rows, however many there are."""

        async def read(connection: Connection) -> Standing:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return Standing(
                    at=await connection.fetchval("SELECT now()"),
                    settled=await connection.fetch(SETTLED),
                    unsettled=await connection.fetch(UNSETTLED, LOOKED_AT_MAX + 1),
                    received_last_minute=await connection.fetchval(RECEIVED, LOOKED_AT_MAX + 1),
                    failures=await connection.fetch(FAILURES, FAILING_SOURCES_MAX, FAILURES_SHOWN),
                    maintenance=await connection.fetch(MAINTENANCE),
                    days_ahead=await connection.fetchval(DAYS_AHEAD),
                )

        return await self._run(read)

    async def least_id(self, since: timedelta | datetime | None) -> UUID | None:
        """The least id of an event received since then, by the database's clock."""
        if since is None:
            return None
        moment = "now() - $1::interval" if isinstance(since, timedelta) else "$1::timestamptz"
        records = await self._fetch(f"SELECT hookd.uuid_at(GREATEST({moment}, 'epoch')) AS id", since)
        least: UUID = records[0]["id"]
        return least

    async def events(self, wanted: Wanted, limit: int) -> list[Any]:
        """The newest first, without headers and bodies."""
        where, values = wanted.where(first=2)
        sql = f"SELECT {COLUMNS} FROM hookd.events WHERE {where} ORDER BY id DESC LIMIT $1"  # noqa: S608 - our own words
        return await self._fetch(sql, limit, *values)

    async def ids_between(self, low: UUID, high: UUID, limit: int) -> list[UUID]:
        """The first events whose id is `low`, `high` or in between."""
        sql = "SELECT id FROM hookd.events WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT $3"
        return [record["id"] for record in await self._fetch(sql, low, high, limit)]

    async def event(self, event_id: UUID, body_bytes_max: int) -> Any:
        """One event with its headers and the body's first bytes; None when there is no such event."""
        sql = f"""SELECT {COLUMNS}, headers, octet_length(payload) AS bytes, substring(payload FROM 1 FOR $2) AS body
                    FROM hookd.events WHERE id = $1"""  # noqa: S608 - our own words
        records = await self._fetch(sql, event_id, body_bytes_max)
        return records[0] if records else None

    async def attempts(self, event_id: UUID) -> list[Any]:
        return await self._fetch(ATTEMPTS, event_id)

    async def now(self) -> datetime:
        """The database's clock."""
        records = await self._fetch("SELECT now()")
        now: datetime = records[0]["now"]
        return now

    async def count(self, wanted: Wanted) -> int:
        where, values = wanted.where()
        sql = f"SELECT count(*)::int AS events FROM hookd.events WHERE {where}"  # noqa: S608 - our own words
        records = await self._fetch(sql, *values)
        count: int = records[0]["events"]
        return count

    async def batches(self, wanted: Wanted) -> AsyncIterator[list[UUID]]:
        """The ids, oldest first, a few hundred at a time."""
        where, values = wanted.where("id > $1", first=3)
        sql = f"SELECT id FROM hookd.events WHERE {where} ORDER BY id LIMIT $2"  # noqa: S608 - our own words
        after = UUID(int=0)
        while True:
            records = await self._fetch(sql, after, IDS_A_PAGE, *values)
            for n in range(0, len(records), IDS_A_BATCH):
                yield [record["id"] for record in records[n : n + IDS_A_BATCH]]
            if len(records) < IDS_A_PAGE:
                return
            after = records[-1]["id"]

    async def reset(self, ids: Sequence[UUID], settled_before: datetime) -> set[UUID]:
        """Set those of them that were settled before then back to new; returns which."""
        records = await self._fetch(RESET, list(ids), settled_before)
        return {record["id"] for record in records}

    async def hint(self) -> None:
        """Tell the processors that there is something to do; where that is refused they find it, a little later."""
        with suppress(asyncpg.ProgramLimitExceededError):  # the server's queue is full
            await self._fetch(f"NOTIFY {CHANNEL}")

    async def close(self) -> None:
        await self._link.close()

    async def _fetch(self, sql: str, *values: object) -> list[Any]:
        seconds = self._seconds + PATIENCE_SECONDS
        return await self._run(lambda connection: connection.fetch(sql, *values, timeout=seconds))

    async def _run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async def limited(connection: Connection) -> T:
            try:
                return await work(connection)
            except asyncpg.QueryCanceledError:
                raise TooSlow(f"PostgreSQL did not answer within {self._seconds:.0f} s") from None

        return await self._link.run(limited, timeout=self._seconds + PATIENCE_SECONDS)


async def greet(connection: Connection) -> None:
    await check_revision(connection, REVISION_NEEDED)
