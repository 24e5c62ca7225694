"""What grows with the table, and what must not: with ten million rows of history, 90 days, a held snapshot."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from benchmarks.bench import Bench
from benchmarks.report import Figure, Section
from chassis.database import Connection, Database
from hookd.store import Store as Looking
from processor.claiming.store import least_of, oldest_due
from processor.claiming.watermark import Since, Watermark
from processor.holding.claimed import Claimed
from processor.outcome import PROCESSED
from processor.settling.store import Settlement
from processor.store import Store
from rig import history, seed
from rig.postgres import connected

MILLION = 1_000_000
CLAIM_ROWS, BYTES = 1000, 64 * 1024 * 1024
COPIES, COPY_ROWS = 100, 50
LOOKS = 20
SNAPSHOT_SECONDS = 300
METHOD = (
    "The same work in a database with ever more behind it: {copies} COPYs of {copy_rows} rows, each committed;"
    " {drained:,} events of 1 KiB claimed (1,000 at a time) and settled through the processor's own store, over one"
    " connection each; a claim that finds nothing; the status page's queries. As a processor's do, the first claim of"
    " each second looks at all there is, in every day, and the others from what that one saw on. History is settled"
    " rows with bodies of 2 bytes."
)


@dataclass(frozen=True)
class State:
    """What is there before the work begins."""

    name: str
    rows: int = 0
    days: int = 1
    sources: int = 20
    snapshot_seconds: float = 0.0


@dataclass(frozen=True)
class Run:
    """Milliseconds of each, but for the rate."""

    copies: Sequence[float]
    claims: Sequence[float]
    empty: Sequence[float]
    empty_of_all: Sequence[float]
    looks: Sequence[float]
    drained: float  # events/s


def states(bench: Bench) -> tuple[State, ...]:
    full = bench.scale.rounds >= 5
    many, snapshot = (10 * MILLION, SNAPSHOT_SECONDS) if full else (100_000, 5)
    return (
        State("empty"),
        State("90 days, empty", days=90),
        State(f"{many // 10:,} rows in 30 days", rows=many // 10, days=30),
        State(f"{many:,} rows in 90 days", rows=many, days=90),
        State("1,000 source names", rows=many // 100, days=30, sources=1000),
        State(f"a snapshot held open for {snapshot} s", snapshot_seconds=snapshot),
    )


async def measure(bench: Bench) -> Section:
    drained = bench.scale.events
    section = Section("Growth", METHOD.format(copies=COPIES, copy_rows=COPY_ROWS, drained=drained))
    for state in states(bench):
        run = await one_run(bench, state, drained)
        bench.say(f"growth: {state.name}: {run.drained:,.0f}/s, a claim {statistics.median(run.claims):.1f} ms")
        section.figures += [
            Figure(f"{state.name}: events/s claimed and settled", "/s", [run.drained]),
            Figure(f"{state.name}: COPY of {COPY_ROWS}", "ms", [statistics.median(run.copies)]),
            Figure(f"{state.name}: claim of {CLAIM_ROWS:,}", "ms", [statistics.median(run.claims)]),
            Figure(f"{state.name}: claim that finds nothing", "ms", [statistics.median(run.empty)]),
            Figure(f"{state.name}: the first of a second", "ms", [statistics.median(run.empty_of_all)]),
            Figure(f"{state.name}: status page", "ms", [statistics.median(run.looks)]),
        ]
    return section


async def one_run(bench: Bench, state: State, drained: int) -> Run:
    async with bench.postgres.fresh() as url, connected(url) as connection:
        await history.past(connection, state.rows, state.days, state.sources)
        store = Store(Database(url), "growth", lease_seconds=60)
        looking = Looking(Database(url), "growth")
        try:
            empty_of_all = [await timed(claim(store)) for _ in range(LOOKS)]
            since = await from_now_on(store)
            empty = [await timed(claim(store, since)) for _ in range(LOOKS)]
            looks = [await timed(looking.standing()) for _ in range(LOOKS)]
            async with snapshot(url, state.snapshot_seconds):
                copies = await copied(connection)
                await seed.backlog(url, drained)
                claims, rate = await drain(store, state.snapshot_seconds)
        finally:
            await store.close()
            await looking.close()
    return Run(copies, claims, empty, empty_of_all, looks, rate)


async def from_now_on(store: Store) -> Since | None:
    """Where claims look from that follow one which found nothing."""
    watermark = Watermark()
    watermark.begin()
    due = await store.queue.next_due()
    watermark.saw(due.oldest, due.least_id)
    return watermark.begin()


async def copied(connection: Connection) -> list[float]:
    """Milliseconds of each COPY, its commit included."""
    taken = []
    for _ in range(COPIES):
        rows = list(seed.rows(datetime.now(UTC), 0, COPY_ROWS))
        copy = connection.copy_records_to_table("events", schema_name="hookd", columns=seed.COLUMNS, records=rows)
        taken.append(await timed(copy))
    return taken


async def drain(store: Store, pace_seconds: float) -> tuple[list[float], float]:
    """Claim and settle all that is due; milliseconds of each claim, and events a second of work.

    `pace_seconds`: so long it shall last at least, with pauses that do not count.
    """
    claims: list[float] = []
    busy, count, began = 0.0, 0, time.monotonic()
    watermark = Watermark()
    while True:
        start = time.monotonic()
        since = watermark.begin()
        claimed = await claim(store, since)
        claims.append((time.monotonic() - start) * 1000)
        if not claimed:
            assert await claim(store) == [], "passed by"
            return claims[:-1], count / busy
        if since is None:
            watermark.saw(oldest_due(claimed), least_of(claimed))
        await store.results.settle([Settlement(each, PROCESSED, False, "growth") for each in claimed])
        busy += time.monotonic() - start
        count += len(claimed)
        if time.monotonic() - began < pace_seconds:
            await asyncio.sleep(pace_seconds / 50)


async def claim(store: Store, since: Since | None = None) -> list[Claimed]:
    return await store.queue.claim(CLAIM_ROWS, BYTES, None, time.monotonic, since=since)


async def timed(work: object) -> float:
    began = time.monotonic()
    await work  # type: ignore[misc]
    return (time.monotonic() - began) * 1000


@asynccontextmanager
async def snapshot(url: str, seconds: float) -> AsyncIterator[None]:
    """Somebody's long report: it reads, and keeps its snapshot until the block ends."""
    if not seconds:
        yield
        return
    async with connected(url) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.fetchval("SELECT count(*) FROM hookd.counts")
        yield
