"""At an ordinary load: how long a sender waits for its answer, and how soon the handler starts."""

import asyncio
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.drain import until_settled
from benchmarks.http import first_answer
from benchmarks.report import Figure, Section, Target
from rig import machine
from rig.postgres import connected, environment
from rig.processes import HOOKD, PYTHON, Child, free_port, output_of, running

RATE = 200
FSYNCS = 400
SECONDS_FACTOR = 3  # of the other figures' time under load: a p99 wants some thousand samples
HANDLERS = """\
import os
import time

import hookd

started = os.open(os.environ["BENCH_STARTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@hookd.on("*")
async def note(event: hookd.Event) -> None:
    now = time.time_ns()
    os.write(started, f"{event.id} {now}\\n".encode())
"""
PROCESSED = "SELECT count(*)::int FROM hookd.events WHERE id = ANY($1) AND status = 'processed' AND claims = 1"
MILLISECONDS = 1_000_000  # in nanoseconds
METHOD = (
    f"{RATE} POSTs a second at random moments (open loop: the next one does not wait for the last answer), one receiver"
    " and one processor. Time runs from the moment a POST was due to be sent until it was answered, and until the"
    " handler's first line, by one machine's clock."
)


@dataclass(frozen=True)
class Run:
    """Milliseconds of each POST."""

    answered: Sequence[float]
    started: Sequence[float]
    disk: Sequence[float]


async def measure(bench: Bench) -> Section:
    section = Section(f"Latency at {RATE} a second", METHOD)
    runs = [await one_run(bench, section) for _ in range(bench.scale.rounds)]
    of_all = {
        "POST → answered": ([run.answered for run in runs], Target("≤", 4)),
        "POST → handler started": ([run.started for run in runs], Target("≤", 20)),
        f"the disk alone, an fdatasync of 8 KiB {RATE} times a second:": ([run.disk for run in runs], None),
    }
    for name, (values, target) in of_all.items():
        for percent in (50, 95, 99):
            each = [percentile(samples, percent) for samples in values]
            section.figures.append(Figure(f"{name} p{percent}", "ms", each, target if percent == 95 else None))
    section.notes.append(
        f"{sum(len(run.answered) for run in runs):,} POSTs, each answered with 2xx, handled once and processed"
    )
    return section


async def one_run(bench: Bench, section: Section) -> Run:
    disk = await asyncio.to_thread(machine.fsyncs, bench.folder, FSYNCS, 1 / RATE)
    started = bench.folder / "started"
    started.unlink(missing_ok=True)
    async with both(bench, started) as (port, url, processor, first):
        warm = await sent(bench, port, bench.scale.warm_seconds)
        seconds = bench.scale.seconds * SECONDS_FACTOR
        bench.say(f"latency: {RATE} a second for {seconds:g} s")
        posts = await sent(bench, port, seconds)
        ids = [first, *warm, *posts]
        async with connected(url) as connection:
            await until_settled(connection, len(ids), processor)
            processed = await connection.fetchval(PROCESSED, ids)
    starts = [line.split() for line in started.read_text().splitlines()]
    if processed != len(ids) or Counter(event_id for event_id, _ in starts) != Counter(ids):
        section.wrong.append(f"{len(ids)} answered, {len(starts)} handlers started, {processed} processed")
    began = {event_id: int(at) for event_id, at in starts}
    run = Run(
        [(answered - due) / MILLISECONDS for due, answered in posts.values()],
        [(began[event_id] - due) / MILLISECONDS for event_id, (due, _) in posts.items() if event_id in began],
        disk,
    )
    bench.say(
        f"latency: p95 answered {percentile(run.answered, 95):.1f} ms, started {percentile(run.started, 95):.1f} ms"
    )
    return run


@asynccontextmanager
async def both(bench: Bench, started: Path) -> AsyncIterator[tuple[int, str, Child, str]]:
    """A receiver and a processor that run: the one's port, their database's URL, the other, and the first id."""
    handlers, port = bench.file("noting.py", HANDLERS), free_port()
    async with bench.postgres.fresh() as url:
        given = environment(url) | {"BENCH_STARTED": str(started)}
        receiver, processor = (*HOOKD, "ingest", "--port", str(port)), (*HOOKD, "processor", "--app", handlers)
        async with (
            running(bench.folder, *receiver, environment=given) as listening,
            running(bench.folder, *processor, environment=given) as child,
        ):
            yield port, url, child, await first_answer(port, listening)


async def sent(bench: Bench, port: int, seconds: float) -> dict[str, tuple[int, int]]:
    """What the open-loop sender says: of each id when its POST was due, and when it was answered."""
    if not seconds:
        return {}
    command = (*PYTHON, "benchmarks.steady", str(port), str(RATE), str(seconds))
    lines = (line.split() for line in (await output_of(bench.folder, *command)).splitlines())
    return {event_id: (int(due), int(answered)) for event_id, due, answered in lines}


def percentile(samples: Sequence[float], percent: int) -> float:
    return statistics.quantiles(samples, n=100)[percent - 1]
