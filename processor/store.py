"""The processor's side of the table: claim, renew, settle; each one short statement, sent twice without harm."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from chassis.database import (
    DATA_ERRORS,
    FAILURES,
    Connection,
    Database,
    DatabaseError,
    Link,
    TimedOut,
    Unavailable,
    check_revision,
)
from chassis.logs import get_logger
from processor.handling.dispatch import UNDECIDED, Choice, Undecided
from processor.handling.event import Event
from processor.outcome import DIED, Outcome
from processor.waiter import Waiter

T = TypeVar("T")

REVISION_NEEDED = "0002"
CHANNEL = "hookd"
STATEMENT_SECONDS = 10.0
WAITED = itemgetter("waited_seconds")
LANES = (0, 1)  # while one batch is being committed the next is sent; claims and settles alike
HEALTH_SECONDS, HEALTH_TIMEOUT_SECONDS = 5.0, 2.0
BODY_INLINE_BYTES_MAX = 64 * 1024  # a larger body is fetched when its handler starts

# Every statement here is an index probe, whatever the statistics say: made while a day was empty, a plan would else
# turn midnight into a scan of the whole day for each row. So what is looked up is always given as `id = ANY(…)`, which
# an index scan never leaves out (the condition of a nested loop it may: then it reads the index from one end to the
# other and is called an index scan all the same), and joined by hash.
LIMITS = {"statement_timeout": "30s", "lock_timeout": "10s"}
PLANS = {
    **{f"enable_{each}": "off" for each in ("seqscan", "bitmapscan", "nestloop", "mergejoin", "sort")},
    "jit": "off",
    **LIMITS,
}
# A claim looks at every day there is: planned anew each time, a hundred of them would cost it a third of its time.
CLAIM_PLANS = {**PLANS, "plan_cache_mode": "force_generic_plan"}

log = get_logger()

# ruff: noqa: S608 - what is formatted into SQL here are constants of ours
# (Seconds come as floats, exact to the microsecond: a timestamp takes asyncpg a tenth of all a claim costs.)
CLAIM = f"""
WITH due AS MATERIALIZED (
  SELECT id, due_at, octet_length(payload) AS bytes, (held_by IS NOT NULL OR reason = '{DIED}') IS TRUE AS died
    FROM hookd.events
   WHERE status = 'new' AND due_at <= LEAST(now(), $5::timestamptz) -- a null $5 counts for nothing
     AND due_at >= coalesce($6::timestamptz, '-infinity')
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
   AND e.id >= (SELECT id FROM fit ORDER BY id LIMIT 1) -- an array leaves out no day, bounds do
   AND e.id <= (SELECT id FROM fit ORDER BY id DESC LIMIT 1)
RETURNING (SELECT revision FROM hookd.registry WHERE one) AS revision, e.id, e.claims, e.attempts, fit.died, e.reason,
          fit.bytes, e.source, e.event_type, e.delivery_id, e.verdict, e.replayed,
          date_part('epoch', e.received_at) AS received_epoch, date_part('epoch', now() - e.received_at) AS age_seconds,
          date_part('epoch', now() - fit.due_at) AS waited_seconds, e.method, e.target, e.headers,
          CASE WHEN fit.n = 1 THEN fit.due_at END AS oldest_due_at,
          CASE WHEN fit.bytes <= {BODY_INLINE_BYTES_MAX} THEN e.payload END AS payload
"""

# SKIP LOCKED: a settle that is on its way in another order would be a deadlock.
RENEW = """
WITH mine AS MATERIALIZED (
  SELECT e.id
    FROM unnest($1::uuid[], $2::int[]) AS h(id, claims)
    JOIN hookd.events e ON e.id = h.id AND e.claims = h.claims
   WHERE e.id = ANY($1) AND e.status = 'new' AND e.held_by IS NOT NULL
     FOR UPDATE OF e SKIP LOCKED)
UPDATE hookd.events e
   SET due_at = now() + make_interval(secs => $3)
  FROM mine
 WHERE e.id = mine.id AND e.id = ANY($1)
RETURNING e.id
"""

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

FORGET = """
WITH old AS (SELECT source, key FROM hookd.deliveries WHERE expires_at < now() ORDER BY expires_at LIMIT $1),
gone AS (DELETE FROM hookd.deliveries d USING old WHERE d.source = old.source AND d.key = old.key RETURNING 1)
SELECT count(*)::int FROM gone
"""

NEXT_DUE = """
SELECT now() AS now,
       (SELECT due_at
          FROM hookd.events
         WHERE status = 'new' AND due_at >= coalesce($1::timestamptz, '-infinity')
           AND due_at < coalesce(now() + make_interval(secs => $2), 'infinity')
         ORDER BY due_at
         LIMIT 1) AS due_at
"""


class Found(NamedTuple):
    """What the processor found out about an event that its row does not say yet."""

    event_type: str | None = None
    delivery_id: str | None = None
    verdict: str | None = None


NOTHING_FOUND = Found()


@dataclass(slots=True, eq=False)
class Claimed:
    """A row this process holds. `lease_until` is in the monotonic clock; `unsifted`: to be judged before its run.

    `event`: made of it once its body is there. `choice`: its handler, once it is known; None: it has none. `waiter`:
    who waits for its handler's answer.
    """

    row: Any
    lease_until: float
    id: UUID = field(init=False)
    missed_renewals: int = 0
    lost: bool = False
    unsifted: bool = False
    found: Found = NOTHING_FOUND
    event: Event | None = None
    choice: Choice | Undecided | None = UNDECIDED
    waiter: Waiter | None = None

    def __post_init__(self) -> None:
        self.id = self.row["id"]

    @property
    def is_large(self) -> bool:
        """Whether its body is more than is looked into, or waits for a handler, beside many others."""
        size: int = self.row["bytes"]
        return size > BODY_INLINE_BYTES_MAX

    def learn(self, found: Found) -> None:
        """Know the names that were found as if the row had said them; the settle writes what was found."""
        self.found = found
        event_type, delivery_id, _ = found
        if event_type is not None or delivery_id is not None:
            row, self.event, self.choice = self.row, None, UNDECIDED
            names = {"event_type": event_type or row["event_type"], "delivery_id": delivery_id or row["delivery_id"]}
            self.row = {**row, **names}


class Contender(NamedTuple):
    """An event that asks to be its delivery's owner. `insists`: it was replayed."""

    source: str
    key: str
    event_id: UUID
    window_seconds: float
    insists: bool


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


class Settlement(NamedTuple):
    """What the settle is to write for a claimed row; `label`: the source's name in the counters."""

    claimed: Claimed
    outcome: Outcome
    noted: bool
    label: str


class Store:
    """Five connections: two claim, two settle, one is for everything that may wait. `name` is theirs."""

    def __init__(self, database: Database, holder: str, *, lease_seconds: float, name: str = "processor") -> None:
        self._holder = holder
        self._lease_seconds = lease_seconds
        self._claiming, self._settling = (
            tuple(Link(database, f"{name} {verb} {lane}", settings=plans, greet=greet) for lane in LANES)
            for verb, plans in (("claim", CLAIM_PLANS), ("settle", PLANS))
        )
        self._side = Link(database, f"{name} side", settings=CLAIM_PLANS, greet=greet)
        self._links = (*self._claiming, *self._settling, self._side)

    async def check(self) -> None:
        """Raise DatabaseError for a database that cannot be used as it is, Unavailable for one that is away."""
        links = (self._claiming[0], *self._settling, self._side)
        await asyncio.gather(*(self._run(link, _nothing) for link in links))

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

    async def claim(
        self,
        rows_max: int,
        bytes_max: int,
        due_until: datetime | None,
        clock: Callable[[], float],
        lane: int = 0,
        since: datetime | None = None,
    ) -> list[Claimed]:
        """Hold what is due, oldest first; of bodies that come along `bytes_max` at most, but always one row.

        `since`: pass by what was due before.
        """
        lease_until = clock() + self._lease_seconds
        arguments = (rows_max, bytes_max, self._lease_seconds, self._holder, due_until, since)
        records = await self._run(self._claiming[lane], lambda connection: connection.fetch(CLAIM, *arguments))
        records.sort(key=WAITED, reverse=True)
        return [Claimed(record, lease_until) for record in records]

    async def next_due(self, since: datetime | None = None, within_seconds: float | None = None) -> NextDue:
        """When the next row is due, if it is within that time; `since`: pass by what was due before.

        (A held snapshot keeps the leases of what was settled since among what is due later.)
        """
        record = await self._run(
            self._claiming[0], lambda connection: connection.fetchrow(NEXT_DUE, since, within_seconds)
        )
        assert record is not None
        return NextDue(record["now"], record["due_at"])

    async def seconds_until_due(self) -> float | None:
        """Until the next row is due, negative when one is overdue; None when nothing waits."""
        return (await self.next_due()).seconds

    async def body(self, event_id: UUID) -> bytes:
        """The body of a row whose body did not come with the claim."""
        value: bytes = await self._run(
            self._side,
            lambda connection: connection.fetchval("SELECT payload FROM hookd.events WHERE id = $1", event_id),
            timeout=3 * STATEMENT_SECONDS,
        )
        return value

    async def sources(self) -> tuple[int, list[Any]]:
        """The registry's revision, and the sources as they are at it."""
        records = await self._run(self._side, lambda connection: connection.fetch(SOURCES))
        return records[0]["revision"], [record for record in records if record["name"] is not None]

    async def decide(self, contenders: Sequence[Contender], lane: int | None = None) -> dict[UUID, UUID]:
        """Who owns the delivery of each of these events, decided and committed."""
        insisting = [each.event_id for each in contenders if each.insists]
        sources, keys, ids, windows, _ = map(list, zip(*contenders, strict=True))
        link = self._side if lane is None else self._claiming[lane]
        records = await self._run(
            link, lambda connection: connection.fetch(DECIDE, sources, keys, ids, windows, insisting)
        )
        return {record["id"]: record["owner"] for record in records}

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

    # Maintenance: each call is one short transaction under a try-lock, so that of many processors one does it.

    async def days(self) -> list[date]:
        """The UTC days that have a partition. (One that somebody made by hand has no day.)"""
        return await self._column("SELECT day FROM hookd.days() WHERE day IS NOT NULL")

    async def today(self) -> date:
        """The current UTC day by the database's clock."""
        (day,) = await self._column("SELECT (now() AT TIME ZONE 'UTC')::date")
        assert isinstance(day, date)
        return day

    async def add_day(self, day: date) -> bool | None:
        """True: made; False: it was there; None: somebody else is at it, or holds a lock."""
        done: bool | None = await self._under_lock("SELECT hookd.add_day($1)", day)
        return done

    async def drop_day(self, day: date) -> str | None:
        """`dropped`, `kept` (an event is still new), `absent`; None: somebody holds a lock."""
        done: str | None = await self._under_lock("SELECT hookd.drop_day($1)", day)
        return done

    async def forget_deliveries(self, rows_max: int) -> int | None:
        """Delete expired delivery keys, `rows_max` at most; how many there were."""
        done: int | None = await self._under_lock(
            FORGET,
            rows_max,
        )
        return done

    async def forget_refused(self, older_than: timedelta, rows_max: int) -> int | None:
        """Delete what was refused at the edge that long ago, `rows_max` at most; how many there were."""
        done: int | None = await self._under_lock("SELECT hookd.forget_refused($1, $2)", older_than, rows_max)
        return done

    async def step_succeeded(self, step: str, detail: str) -> None:
        """Note the time of a maintenance step's success."""
        await self._column(
            "INSERT INTO hookd.maintenance AS m (step, succeeded_at, detail) VALUES ($1, now(), $2) "
            "ON CONFLICT (step) DO UPDATE SET succeeded_at = now(), detail = excluded.detail RETURNING 1",
            step,
            detail,
        )

    async def seconds_since_maintenance(self) -> float | None:
        """Since its least recent step succeeded; None: never."""
        (value,) = await self._column(
            "SELECT extract(epoch FROM now() - min(succeeded_at))::float8 FROM hookd.maintenance"
        )
        return value  # type: ignore[no-any-return]

    async def counted_sources(self) -> list[str]:
        """The names the counters know."""
        return await self._column("SELECT DISTINCT source FROM hookd.counts ORDER BY source LIMIT 1000")

    async def _column(self, sql: str, *arguments: object) -> list[Any]:
        records = await self._run(self._side, lambda connection: connection.fetch(sql, *arguments))
        return [record[0] for record in records]

    async def _under_lock(self, sql: str, *arguments: object) -> Any:
        async def work(connection: Connection) -> Any:
            async with connection.transaction():
                if not await connection.fetchval("SELECT pg_try_advisory_xact_lock(hashtext('hookd.maintenance'))"):
                    return None
                return await connection.fetchval(sql, *arguments)

        try:
            return await self._run(self._side, _busy_is_none(work))
        except asyncpg.LockNotAvailableError:
            return None

    async def _run(
        self, link: Link, work: Callable[[Connection], Awaitable[T]], timeout: float = STATEMENT_SECONDS
    ) -> T:
        try:
            return await link.run(work, timeout=timeout)
        except TimedOut:
            for each in self._links:  # half-open, it seems; or else each would find out by waiting as long
                each.drop()
            raise

    async def close(self) -> None:
        for link in self._links:
            await link.close()


class Renewer:
    """The connection of the thread that renews leases; it belongs to that thread's event loop."""

    def __init__(self, database: Database, *, lease_seconds: float, name: str = "processor") -> None:
        self._lease_seconds = lease_seconds
        self._link = Link(database, f"{name} renew", settings=PLANS)

    async def renew(self, held: Sequence[Claimed]) -> set[UUID]:
        """Put the leases of these rows forward; returns the ids whose lease holds. Raises Unavailable."""
        ids, claims = [each.row["id"] for each in held], [each.row["claims"] for each in held]
        records = await self._link.run(
            lambda connection: connection.fetch(RENEW, ids, claims, self._lease_seconds), timeout=STATEMENT_SECONDS
        )
        return {record["id"] for record in records}

    async def close(self) -> None:
        await self._link.close()


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


async def greet(connection: Connection) -> None:
    await check_revision(connection, REVISION_NEEDED)


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
    kept_out = await connection.fetch(SETTLE, ids, numbered, named, *map(list, columns))
    return set(ids).difference(record["id"] for record in kept_out)


def oldest_due(claimed: Sequence[Claimed]) -> datetime:
    """Since when the first of them had been due. They come as `claim` gave them: those due for the longest first."""
    due_at: datetime = next(filter(None, (each.row["oldest_due_at"] for each in claimed)))
    return due_at


def _busy_is_none(work: Callable[[Connection], Any]) -> Callable[[Connection], Any]:
    async def guarded(connection: Connection) -> Any:
        with contextlib.suppress(asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            return await work(connection)
        return None

    return guarded


async def _nothing(_: Connection) -> None:
    return None


__all__ = [
    "Claimed", "Contender", "DatabaseError", "Found", "NextDue", "Renewer", "Settlement", "Store", "Unavailable",
    "listen", "oldest_due",
]  # fmt: skip
