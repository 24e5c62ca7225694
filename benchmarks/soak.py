"""Half an hour at half of what the machine can: what is level at the end, stays level."""

import asyncio
import statistics
import time
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.latency import HANDLERS, percentile
from benchmarks.report import Figure, Section, Target
from chassis.database import Database
from processor.store import Store
from rig import machine
from rig.hookd import hookd
from rig.load import Load
from rig.postgres import connected

SECONDS_FULL, SECONDS_QUICK = 1800, 30
SAMPLES = 60
SENDERS = 4
PAUSE_SECONDS = 0.004
LOOKS = 100
LEVEL = 1.25  # of the median of the second quarter: what the last quarter's may be at most
METHOD = (
    "{senders} senders with a pause of {pause:g} ms between an answer and the next POST (about half of what one worker"
    " takes on two cores beside its processor) for {minutes:g} minutes, receiver and processor with everything switched"
    " on. Level: the median of the last quarter is at most {level} times that of the second quarter. The table itself"
    " grows by what is stored, so its size, and the dead rows that autovacuum leaves until they are a share of it, are"
    " looked at by the event."
)
STATE = """
SELECT sum(pg_table_size(c.oid)) AS table_bytes, sum(pg_indexes_size(c.oid)) AS index_bytes,
       sum(pg_stat_get_dead_tuples(c.oid)) AS dead
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'hookd.events'::regclass
"""


@dataclass(frozen=True)
class Sample:
    answered: int
    receiver_mib: float
    processor_mib: float
    claim_ms: float
    table_kib: float  # an event
    index_kib: float
    dead_share: float
    waiting: int


async def measure(bench: Bench) -> Section:
    seconds = SECONDS_FULL if bench.scale.rounds >= 5 else SECONDS_QUICK
    method = METHOD.format(senders=SENDERS, pause=PAUSE_SECONDS * 1000, minutes=seconds / 60, level=LEVEL)
    section = Section("Soak", method)
    app = bench.file("soaked.py", HANDLERS)
    async with bench.postgres.fresh() as url:
        started = {"BENCH_STARTED": "/dev/null"}
        async with (
            hookd("ingest", "--port", "0", cwd=bench.folder, database_url=url) as receiver,
            hookd("processor", "--app", str(app), cwd=bench.folder, environment=started, database_url=url) as processor,
        ):
            address = (await receiver.logged("ingest.listening"))["url"]
            await processor.logged("processor.started")
            load = Load(address, senders=SENDERS, pause_seconds=PAUSE_SECONDS)
            async with load.running():
                samples = [
                    await sample(bench, url, load, receiver.process.pid, processor.process.pid, seconds / SAMPLES)
                    for _ in range(SAMPLES)
                ]
            async with connected(url) as connection:
                section.wrong += await load.violations(connection)
    _report(section, samples, load)
    return section


async def sample(bench: Bench, url: str, load: Load, receiver: int, processor: int, seconds: float) -> Sample:
    await asyncio.sleep(seconds)
    store = Store(Database(url), "soak", lease_seconds=60)
    claims = []
    await store.check()
    for _ in range(LOOKS):  # of none: nothing is taken from the processor, the same index is read
        began = time.monotonic()
        await store.queue.seconds_until_due()
        claims.append((time.monotonic() - began) * 1000)
    await store.close()
    async with connected(url) as connection:
        state = await connection.fetchrow(STATE)
        waiting = await connection.fetchval("SELECT count(*) FROM hookd.events WHERE status = 'new'")
    assert state is not None
    events = max(len(load.answered), 1)
    bench.say(f"soak: {events:,} answered, {waiting} waiting")
    return Sample(
        len(load.answered),
        machine.resident_mib(receiver),
        machine.resident_mib(processor),
        percentile(claims, 99),
        float(state["table_bytes"]) / machine.KIB / events,
        float(state["index_bytes"]) / machine.KIB / events,
        1000 * float(state["dead"]) / events,
        waiting,
    )


def _report(section: Section, samples: list[Sample], load: Load) -> None:
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    names = {
        "receiver's memory": ("receiver_mib", "MiB"),
        "processor's memory": ("processor_mib", "MiB"),
        "looking for what is due, p99": ("claim_ms", "ms"),
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
    section.notes.append(f"{len(load.answered):,} POSTs answered with 2xx, all in the table byte for byte")
