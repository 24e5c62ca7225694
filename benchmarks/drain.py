"""Draining a backlog with a handler that does nothing, beside the same claims and settles without any Python."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import sql
from benchmarks.bench import Bench
from benchmarks.report import Figure, Section, Target
from chassis.database import Connection
from rig import machine, seed
from rig.postgres import COUNT_SETTLED, connected, environment
from rig.processes import HOOKD, Child, output_of, running

HANDLERS = """\
import hookd


@hookd.on("*")
async def nothing(event: hookd.Event) -> None:
    pass
"""
LOOK_SECONDS = 0.01
STALL_SECONDS_MAX = 60
SQL_ALONE, OURS = "SQL alone", "hookd processor"
PROCESSED = "SELECT count(*)::int FROM hookd.events WHERE status = 'processed' AND claims = 1"
MICROSECONDS = 1_000_000
METHOD = (
    "{events:,} stored events of 1 KiB, due one after the other. hookd: from the start of one process (`hookd processor"
    " --once`, the handler an empty `async def`) to the last settled row, interpreter and imports included."
    " SQL alone: " + sql.METHOD + ", from the first claim to the last settle."
)


@dataclass(frozen=True)
class Run:
    rate: float
    python_us: float
    postgres_us: float


async def measure(bench: Bench) -> Section:
    section = Section("Drain", METHOD.format(events=bench.scale.events))
    await warm(bench)
    runs: dict[str, list[Run]] = {SQL_ALONE: [], OURS: []}
    for name in bench.rounds(list(runs)):
        run = await one_run(bench, name, section)
        runs[name].append(run)
        bench.say(f"drain: {name}: {run.rate:,.0f}/s, {run.python_us:.1f} + {run.postgres_us:.1f} µs")
    ratios = [ours.rate / alone.rate for ours, alone in zip(runs[OURS], runs[SQL_ALONE], strict=True)]
    section.figures += [
        Figure("events/s, start-up included ÷ SQL alone", "×", ratios, Target("≥", 0.7)),
        *(Figure(f"{name}: events/s", "/s", [run.rate for run in each]) for name, each in runs.items()),
        *(
            Figure(f"{name}: CPU an event, client's part", "µs", [run.python_us for run in each])
            for name, each in runs.items()
        ),
        *(
            Figure(f"{name}: CPU an event, PostgreSQL's part", "µs", [run.postgres_us for run in each])
            for name, each in runs.items()
        ),
    ]
    return section


async def warm(bench: Bench) -> None:
    """Start the processor once, so that its byte code is there and its files are in memory."""
    async with bench.postgres.fresh() as url:
        await output_of(bench.folder, *command_of(bench), environment=environment(url))


def command_of(bench: Bench, handlers: str = HANDLERS) -> tuple[str | Path, ...]:
    return *HOOKD, "processor", "--app", bench.file("handlers.py", handlers), "--once", "--for", "10m"


async def one_run(bench: Bench, name: str, section: Section) -> Run:
    events = bench.scale.events
    async with bench.postgres.fresh() as url:
        await seed.backlog(url, events)
        await bench.postgres.execute("CHECKPOINT")
        postgres = machine.cpu_seconds(bench.postgres.pid)
        seconds, python = await (drained_by_sql(url) if name == SQL_ALONE else drained_by_hookd(bench, url, events))
        postgres = machine.cpu_seconds(bench.postgres.pid) - postgres
        section.wrong += await unsettled(url, name, events)
    each = MICROSECONDS / events
    return Run(events / seconds, python * each, postgres * each)


async def drained_by_sql(url: str) -> tuple[float, float]:
    cpu = time.process_time()
    seconds = await sql.drain(url)
    return seconds, time.process_time() - cpu


async def drained_by_hookd(
    bench: Bench, url: str, events: int, handlers: str = HANDLERS, **settings: str
) -> tuple[float, float]:
    """Seconds to the last settled row, and CPU seconds of the process until then."""
    async with connected(url) as connection:
        began = time.monotonic()
        async with running(
            bench.folder, *command_of(bench, handlers), environment=environment(url) | settings
        ) as child:
            await until_settled(connection, events, child)
            seconds, cpu = time.monotonic() - began, machine.cpu_seconds(child.pid)
            await child.ended(STALL_SECONDS_MAX)
    return seconds, cpu


async def until_settled(connection: Connection, events: int, child: Child) -> None:
    """Return once the counters, which every settle keeps, say so."""
    settled, since = 0, time.monotonic()
    while settled < events:
        await asyncio.sleep(LOOK_SECONDS)
        now_settled = await connection.fetchval(COUNT_SETTLED)
        if now_settled != settled:
            settled, since = now_settled, time.monotonic()
        elif time.monotonic() - since > STALL_SECONDS_MAX:
            raise TimeoutError(f"settled {settled} of {events}, then nothing: {child.last_words()}")


async def unsettled(url: str, name: str, events: int) -> list[str]:
    """What speaks against the run: every row is processed, once."""
    async with connected(url) as connection:
        processed = await connection.fetchval(PROCESSED)
    return [f"{name}: {processed} of {events} events were claimed once and processed"] if processed != events else []
