"""Half an hour at half of what the machine can: what is level at the end, stays level."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks import wrk
from benchmarks.bench import Bench
from benchmarks.drain import HANDLERS, until_settled
from benchmarks.growth import from_now_on, timed
from benchmarks.http import first_answer
from benchmarks.latency import percentile
from benchmarks.report import Figure, Section, Target
from chassis.database import Connection, Database
from processor.claiming.watermark import ALL_SECONDS
from processor.store import Store
from rig import machine, sample
from rig.postgres import COUNT_SETTLED, connected, environment
from rig.processes import HOOKD, PYTHON, Child, free_port, output_of, running

SECONDS_FULL, SECONDS_QUICK = 1800, 60
CAPACITY_SECONDS_FULL, CAPACITY_SECONDS_QUICK = 30, 5
CONNECTIONS = 64
HALF = 0.5
SAMPLES_FULL, SAMPLES_QUICK = 60, 8
LOOKS = 100
LOOKING_SECONDS = 3.0  # so long before a part of the load ends, so that it goes on meanwhile
LEVEL = 1.25  # of the median of the second quarter: what the last quarter's may be at most
METHOD = (
    "{rate:,.0f} POSTs of 1 KiB a second for {minutes:g} minutes, at random moments (open loop), receiver and"
    " processor with everything switched on. That is half of the {capacity:,.0f} a second that both take together on"
    " this machine, beside what sends them: wrk for {seconds:g} s over {connections} connections, from its first POST"
    " until the last event was settled. What is due is looked for as a processor does, from its watermark on, and over"
    " all there is, as it does once a second; {looks} times each, every half minute. Level: the median of the last"
    " quarter is at most {level} times that of the second quarter. The table itself grows by what is stored, so its"
    " size, and the dead rows that autovacuum leaves until they are a share of it, are looked at by the event."
)
STATE = """
SELECT sum(pg_table_size(c.oid)) AS table_bytes, sum(pg_indexes_size(c.oid)) AS index_bytes,
       sum(pg_stat_get_dead_tuples(c.oid)) AS dead
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'hookd.events'::regclass
"""
WAITING = "SELECT count(*) FROM hookd.events WHERE status = 'new'"
COMPARE = """
SELECT count(*) - count(DISTINCT a.id) AS "answered with the id of another",
       count(*) FILTER (WHERE e.id IS NULL) AS "answered and not in the table",
       count(*) FILTER (WHERE e.payload <> $1) AS "in the table with other bytes than were sent",
       count(*) FILTER (WHERE e.status <> 'processed' OR e.claims <> 1) AS "not processed, or claimed twice",
       (SELECT count(*) FROM hookd.events) - count(*) AS "in the table and not answered"
  FROM answered a LEFT JOIN hookd.events e USING (id)
"""


@dataclass(frozen=True)
class Work:
    """A receiver and a processor that run, and the file for the ids that were answered."""

    url: str
    port: int
    receiver: Child
    processor: Child
    answered: Path


class Sample(NamedTuple):
    receiver_mib: float
    processor_mib: float
    look_ms: float
    look_at_all_ms: float
    table_kib: float  # an event
    index_kib: float
    dead_share: float
    waiting: int


async def measure(bench: Bench) -> Section:
    if not wrk.is_there():
        return Section("Soak", wrk.MISSING, wrong=["nothing was measured"])
    is_full = bench.scale.rounds >= 5
    seconds, samples = (SECONDS_FULL, SAMPLES_FULL) if is_full else (SECONDS_QUICK, SAMPLES_QUICK)
    trying = CAPACITY_SECONDS_FULL if is_full else CAPACITY_SECONDS_QUICK
    async with at_work(bench) as work:
        can = await capacity(bench, work, trying)
    method = METHOD.format(
        rate=can * HALF,
        minutes=seconds / 60,
        capacity=can,
        seconds=trying,
        connections=CONNECTIONS,
        looks=LOOKS,
        level=LEVEL,
    )
    section = Section("Soak", method)
    async with at_work(bench) as work:
        soaked = [await part(bench, work, can * HALF, seconds / samples) for _ in range(samples)]
        section.wrong += await violations(work)
        section.notes.append(f"{count(work):,} POSTs answered with 2xx, all in the table byte for byte, processed once")
    report(section, soaked)
    return section


@asynccontextmanager
async def at_work(bench: Bench) -> AsyncIterator[Work]:
    handlers, port, answered = bench.file("soaked.py", HANDLERS), free_port(), bench.file("answered", "")
    async with bench.postgres.fresh() as url:
        given = environment(url)
        async with (
            running(bench.folder, *HOOKD, "ingest", "--port", str(port), environment=given) as receiver,
            running(bench.folder, *HOOKD, "processor", "--app", handlers, environment=given) as processor,
        ):
            answered.write_text(f"{await first_answer(port, receiver)}\n")
            yield Work(url, port, receiver, processor, answered)


async def capacity(bench: Bench, work: Work, seconds: float) -> float:
    """Events a second, received and settled."""
    began = time.monotonic()
    load = await wrk.post(bench.folder, work.port, connections=CONNECTIONS, seconds=seconds)
    async with connected(work.url) as connection:
        await until_settled(connection, load.acknowledged, work.processor)
    rate = load.acknowledged / (time.monotonic() - began)
    bench.say(f"soak: {load.rate:,.0f} a second received, {rate:,.0f} with their settles")
    return rate


async def part(bench: Bench, work: Work, rate: float, seconds: float) -> Sample:
    """Send for so long; what it looks like before that ends."""
    async with asyncio.TaskGroup() as both:
        both.create_task(send(bench, work, rate, seconds))
        await asyncio.sleep(max(seconds - LOOKING_SECONDS, 0))
        return await look(bench, work)


async def send(bench: Bench, work: Work, rate: float, seconds: float) -> None:
    command = (*PYTHON, "benchmarks.steady", str(work.port), str(rate), str(seconds))
    lines = (await output_of(bench.folder, *command)).splitlines()
    with work.answered.open("a") as file:
        file.writelines(f"{line.split()[0]}\n" for line in lines)


def count(work: Work) -> int:
    with work.answered.open() as file:
        return sum(1 for _ in file)


async def look(bench: Bench, work: Work) -> Sample:
    store = Store(Database(work.url), "soak", lease_seconds=60)
    await store.check()
    since = await from_now_on(store)
    # Looks and no claims: nothing is taken from the processor, the same index is read.
    looks = [await timed(store.queue.next_due(since, ALL_SECONDS)) for _ in range(LOOKS)]
    looks_at_all = [await timed(store.queue.next_due()) for _ in range(LOOKS)]
    await store.close()
    async with connected(work.url) as connection:
        state = await connection.fetchrow(STATE)
        waiting = await connection.fetchval(WAITING)
        events = await connection.fetchval(COUNT_SETTLED) + waiting
    assert state is not None
    bench.say(f"soak: {events:,} received, {waiting} waiting")
    return Sample(
        machine.resident_mib(work.receiver.pid),
        machine.resident_mib(work.processor.pid),
        percentile(looks, 99),
        statistics.median(looks_at_all),
        float(state["table_bytes"]) / machine.KIB / events,
        float(state["index_bytes"]) / machine.KIB / events,
        1000 * float(state["dead"]) / events,
        waiting,
    )


async def violations(work: Work) -> list[str]:
    """What speaks against the run: each answer is a row with the bytes that were sent, claimed once; none is more."""
    async with connected(work.url) as connection:
        await until_settled(connection, count(work), work.processor)
        return await compared(connection, work.answered)


async def compared(connection: Connection, answered: Path) -> list[str]:
    await connection.execute("CREATE TEMP TABLE answered (id uuid)")
    await connection.copy_to_table("answered", source=answered)
    found = await connection.fetchrow(COMPARE, sample.BODY, timeout=1800)
    assert found is not None
    return [f"{number:,} {what}" for what, number in found.items() if number]


def report(section: Section, samples: list[Sample]) -> None:
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    names = {
        "receiver's memory": ("receiver_mib", "MiB"),
        "processor's memory": ("processor_mib", "MiB"),
        "looking for what is due, p99": ("look_ms", "ms"),
        "looking at all there is, median": ("look_at_all_ms", "ms"),
        "table, an event": ("table_kib", "KiB"),
        "indexes, an event": ("index_kib", "KiB"),
        "dead rows beside a thousand": ("dead_share", ""),
        "events waiting": ("waiting", ""),
    }
    for name, (field, unit) in names.items():
        before, after = ([getattr(each, field) for each in part] for part in (early, late))
        bound = round(max(statistics.median(before), 0.0 if unit else 1.0) * LEVEL, 2)
        section.figures.append(Figure(f"{name}, second quarter", unit, before))
        section.figures.append(Figure(f"{name}, last quarter", unit, after, Target("≤", bound)))
