"""What to ship as storage options of a day's partition: fillfactor and autovacuum, chosen by measurement."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from benchmarks import sql
from benchmarks.bench import Bench
from benchmarks.report import Figure, Section
from chassis.database import Connection
from rig import machine, seed
from rig.postgres import connected

EVENTS_FACTOR = 4  # of what a drain is measured with: 200,000
BACKLOG = 10_000
FEED_ROWS = 500
FEED_SECONDS = 0.002
NAP = "5s"
MICROSECONDS = 1_000_000
METHOD = (
    "{events:,} events of 1 KiB are stored and drained at the same time (SQL alone, see Drain), with about"
    " {backlog:,} of them waiting: a steady state. autovacuum_naptime is {nap} instead of 60 s, so that as many rows"
    " change between two visits of autovacuum as in a minute of an ordinary load. Size: the day's table,"
    " indexes and TOAST table."
)
TODAY = "SELECT 'hookd.events_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')"
SHIPPED = "SELECT coalesce(array_to_string(reloptions, ', '), '') FROM pg_class WHERE oid = $1::regclass"
STATE = """
SELECT pg_total_relation_size(c.oid) AS total,
       (SELECT pg_relation_size(indexrelid) FROM pg_index WHERE indrelid = c.oid
                                                           AND pg_get_expr(indpred, indrelid) LIKE '%new%') AS due,
       s.n_dead_tup AS dead, s.autovacuum_count AS vacuums
  FROM pg_class c
  JOIN pg_stat_user_tables s ON s.relid = c.oid
 WHERE c.oid = $1::regclass
"""
AUTOVACUUM = (
    "autovacuum_vacuum_scale_factor, autovacuum_vacuum_cost_delay, autovacuum_vacuum_insert_scale_factor,"
    " autovacuum_vacuum_threshold, autovacuum_enabled"
)
# The name of each variant, and what it changes in a partition as it is shipped.
VARIANTS = {
    "as shipped": "",
    "fillfactor 90": "SET (fillfactor = 90)",
    "fillfactor 70": "SET (fillfactor = 70)",
    "PostgreSQL's own autovacuum": f"RESET ({AUTOVACUUM})",
    "bodies in the TOAST table": "SET (toast_tuple_target = 512)",
    "no autovacuum at all": "SET (autovacuum_enabled = off)",
}


@dataclass(frozen=True)
class Run:
    rate: float
    cpu_us: float
    size_kib: float
    due_mib: float
    dead: int
    vacuums: int


@dataclass
class Flow:
    """Rows on their way through the table."""

    events: int
    stored: int = 0
    settled: int = 0
    lanes: list[str] = field(default_factory=lambda: ["one", "another"])

    async def run(self, url: str) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.feed(url))
            for name in self.lanes:
                group.create_task(self.drain(url, name))

    async def feed(self, url: str) -> None:
        async with connected(url) as connection:
            while self.stored < self.events:
                if self.stored - self.settled > BACKLOG:
                    await asyncio.sleep(FEED_SECONDS)
                    continue
                records = seed.rows(datetime.now(UTC), 0, min(FEED_ROWS, self.events - self.stored))
                self.stored += len(rows := list(records))
                await connection.copy_records_to_table(
                    "events", schema_name="hookd", columns=seed.COLUMNS, records=rows
                )

    async def drain(self, url: str, name: str) -> None:
        async with connected(url) as connection:
            claim, settle = await connection.prepare(sql.CLAIM), await connection.prepare(sql.SETTLE)
            while self.settled < self.events:
                claimed = await claim.fetch(sql.ROWS, name)
                if not claimed:
                    await asyncio.sleep(FEED_SECONDS)
                    continue
                await settle.fetch(list(map(sql.ids_of, claimed)), list(map(sql.claims_of, claimed)))
                self.settled += len(claimed)


async def measure(bench: Bench) -> Section:
    events = bench.scale.events * EVENTS_FACTOR
    section = Section("Storage options of a day", METHOD.format(events=events, backlog=BACKLOG, nap=NAP))
    runs: dict[str, list[Run]] = {name: [] for name in VARIANTS}
    async with napping(bench):
        for name in bench.rounds(list(runs)):
            run = await one_run(bench, name, events, section)
            runs[name].append(run)
            bench.say(
                f"schema: {name}: {run.rate:,.0f}/s, {run.cpu_us:.1f} µs, {run.dead:,} dead, {run.vacuums} vacuums"
            )
    for name, each in runs.items():
        section.figures += [
            Figure(f"{name}: events/s", "/s", [run.rate for run in each]),
            Figure(f"{name}: PostgreSQL's CPU an event", "µs", [run.cpu_us for run in each]),
            Figure(f"{name}: size of an event", "KiB", [run.size_kib for run in each]),
            Figure(f"{name}: index of what is due", "MiB", [run.due_mib for run in each]),
            Figure(f"{name}: dead rows at the end", "", [run.dead for run in each]),
        ]
    return section


async def one_run(bench: Bench, name: str, events: int, section: Section) -> Run:
    async with bench.postgres.fresh() as url:
        async with connected(url) as connection:
            table = await connection.fetchval(TODAY)
            section.notes = [f"as shipped: {await connection.fetchval(SHIPPED, table) or 'nothing'}"]
            if VARIANTS[name]:
                await connection.execute(f"ALTER TABLE {table} {VARIANTS[name]}")
        began, cpu = time.monotonic(), machine.cpu_seconds(bench.postgres.pid)
        flow = Flow(events)
        await flow.run(url)
        seconds, cpu = time.monotonic() - began, machine.cpu_seconds(bench.postgres.pid) - cpu
        async with connected(url) as connection:
            state = await state_of(connection, table)
    size = state["total"] / machine.KIB / events
    return Run(
        events / seconds, cpu / events * MICROSECONDS, size, state["due"] / machine.MIB, state["dead"], state["vacuums"]
    )


async def state_of(connection: Connection, table: str) -> dict[str, int]:
    await connection.execute("SELECT pg_stat_force_next_flush()")
    await asyncio.sleep(1.0)  # a backend that ends tells its statistics at once, one that lives within a second
    record = await connection.fetchrow(STATE, table)
    assert record is not None
    return dict(record)


@asynccontextmanager
async def napping(bench: Bench) -> AsyncIterator[None]:
    """Autovacuum comes oftener, until the block ends."""
    try:
        await bench.postgres.execute(f"ALTER SYSTEM SET autovacuum_naptime = '{NAP}'")
        await bench.postgres.execute("SELECT pg_reload_conf()")
        yield
    finally:
        await bench.postgres.execute("ALTER SYSTEM RESET autovacuum_naptime")
        await bench.postgres.execute("SELECT pg_reload_conf()")
