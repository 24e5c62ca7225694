"""The processor beside the queues people would use instead: a backlog, a steady flow, and the wait of one event."""

import asyncio
import itertools
import statistics
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from benchmarks.bench import Bench
from benchmarks.drain import MICROSECONDS, STALL_SECONDS_MAX
from benchmarks.latency import MILLISECONDS, percentile
from benchmarks.receivers import does_not_run, how_long, left_out, shorter, versions
from benchmarks.report import Figure, Section, Target
from benchmarks.rivals.packages import libpq
from benchmarks.rivals.queues import OURS, RIVALS, Insert, Queue
from benchmarks.steady import NANOSECONDS, moments
from rig import machine
from rig.postgres import connected, environment
from rig.processes import BenchmarkError, Child, output_of, running

SEED_ROWS = 10_000
FLOW_ROWS, BACKLOG_MAX = 500, 5000
RATES = (10, 200, 2000)
LOOK_SECONDS = 0.01
METHOD = (
    "A handler that does nothing but note its time; one process; events of 1 KiB. Drain: {events:,} stored events, from"
    " the start of the process to its last settled row, interpreter and imports included, and again from the first"
    " handler's start. Flow: events are stored 500"
    " at a time while they are handled, about {backlog:,} of them waiting; how many were handled each second."
    " Latency: events come at random moments, what is due is stored at once in one commit, by the product's own SQL and"
    " with its own wake-up; from the moment an event was due to be stored to its handler's first line. One PostgreSQL,"
    " fsync and synchronous_commit on; a fresh database for each visit; order rotated. hookd, Procrastinate and pg-boss"
    " keep a settled event's row, PgQueuer a line in its log, graphile-worker nothing."
)


@dataclass
class Notes:
    """What the handlers wrote: which event started when."""

    file: Path
    starts: dict[str, int] = field(default_factory=dict)
    twice: Counter[str] = field(default_factory=Counter)
    _read: int = 0

    def look(self) -> int:
        """How many events were started so far."""
        with self.file.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode().splitlines():
            event_id, at = line.split()
            if event_id in self.starts:
                self.twice[event_id] += 1
            self.starts[event_id] = int(at)
        return len(self.starts)

    @property
    def first(self) -> int:
        """When the first handler started."""
        return min(self.starts.values())

    async def until(self, count: int, child: Child) -> None:
        """Return once so many have started. Raises TimeoutError when none does for long."""
        seen, since = self.look(), time.monotonic()
        while seen < count:
            await asyncio.sleep(LOOK_SECONDS)
            child.require_alive()
            if (now_seen := self.look()) > seen:
                seen, since = now_seen, time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS_MAX:
                raise TimeoutError(f"{seen} of {count} were handled, then nothing: {child.last_words()}")


@dataclass(frozen=True)
class Run:
    """One visit. `waits`: milliseconds of each event, by the rate they came at; none where it fell behind."""

    drained: float
    drained_warm: float
    app_us: float
    postgres_us: float
    flow: float
    waits: dict[int, list[float]]


QUANTITIES: tuple[tuple[str, str, Callable[[Run], float]], ...] = (
    ("drain, events/s", "/s", lambda run: run.drained),
    ("drain from the first handler on, events/s", "/s", lambda run: run.drained_warm),
    ("drain, CPU an event, the program's part", "µs", lambda run: run.app_us),
    ("drain, CPU an event, PostgreSQL's part", "µs", lambda run: run.postgres_us),
    ("flow, events/s", "/s", lambda run: run.flow),
)
Runs: TypeAlias = dict[str, list[Run]]


async def measure(bench: Bench) -> Section:
    events = bench.scale.queued
    section = Section("Processors", METHOD.format(events=events, backlog=BACKLOG_MAX))
    there = [each for each in (OURS, *RIVALS) if not each.packages.missing()]
    section.notes += left_out(RIVALS)
    runs: Runs = {each.name: [] for each in there}
    bench = Bench(bench.postgres, shorter(bench.scale))
    section.notes.append(how_long(bench.scale))
    for each in bench.rounds(there):
        if each.name in runs:
            await visit(bench, each, events // each.part, runs, section)
    there = [each for each in there if each.name in runs]
    section.figures += [*ratios(there, runs), *figures(runs)]
    section.notes += [
        f"{each.name} drains {events // each.part:,} events only, for it would take minutes for all"
        for each in there
        if each.part > 1
    ]
    section.notes += too_slow(runs)
    section.notes += [f"{each.name}: {each.settings}{versions(each.packages)}" for each in there]
    return section


async def visit(bench: Bench, queue: Queue, events: int, runs: Runs, section: Section) -> None:
    """A rival that does not run is left out from then on, and so is what it did before."""
    try:
        run = await one_run(bench, queue, events, section)
    except (BenchmarkError, TimeoutError) as error:
        if queue is OURS:
            raise
        del runs[queue.name]
        section.notes.append(does_not_run(queue, error))
        return
    runs[queue.name].append(run)
    bench.say(
        f"processors: {queue.name}: drain {run.drained:,.0f}/s, flow {run.flow:,.0f}/s, p50 "
        + ", ".join(f"{percentile(waits, 50):.1f} ms at {rate:,}/s" for rate, waits in run.waits.items())
    )


async def one_run(bench: Bench, queue: Queue, events: int, section: Section) -> Run:
    async with installed(bench, queue) as (url, notes, given), queue.inserting(url) as insert:
        await seeded(bench, url, insert, events)
        postgres, began = machine.cpu_seconds(bench.postgres.pid), time.monotonic()
        async with running(bench.folder, *queue.work, environment=given) as child:
            await notes.until(events, child)
            await until_empty(url, queue)
            seconds, warm_seconds = time.monotonic() - began, (time.time_ns() - notes.first) / NANOSECONDS
            app, postgres = machine.cpu_seconds(child.pid), machine.cpu_seconds(bench.postgres.pid) - postgres
            waits = {}
            for rate in RATES[:-1]:
                waits[rate] = await waits_at(bench, rate, insert, notes, child)
            flow = await flow_of(bench, queue, insert, notes, child)
            if flow > RATES[-1]:
                waits[RATES[-1]] = await waits_at(bench, RATES[-1], insert, notes, child)
            await until_empty(url, queue)
        if notes.twice:
            section.wrong.append(f"{queue.name}: {len(notes.twice)} events were handled more than once")
    each = MICROSECONDS / events
    return Run(events / seconds, events / warm_seconds, app * each, postgres * each, flow, waits)


@asynccontextmanager
async def installed(bench: Bench, queue: Queue) -> AsyncIterator[tuple[str, Notes, dict[str, str]]]:
    """A database with its tables, an empty file for its handlers' notes, and what the programs are told of both."""
    file = bench.file("notes", "")
    async with bench.postgres.fresh() as url:
        given = environment(url) | libpq(url) | {"BENCH_NOTES": str(file)}
        if queue.install:
            await output_of(bench.folder, *queue.install, environment=given)
        yield url, Notes(file), given


async def seeded(bench: Bench, url: str, insert: Insert, events: int) -> None:
    """A backlog, analysed, as autovacuum would have done while it grew."""
    for first in range(0, events, SEED_ROWS):
        await insert(min(SEED_ROWS, events - first))
    async with connected(url) as connection:
        await connection.execute("ANALYZE")
    await bench.postgres.execute("CHECKPOINT")


async def until_empty(url: str, queue: Queue) -> None:
    """Return once every event is settled in the table."""
    async with connected(url) as connection, asyncio.timeout(STALL_SECONDS_MAX):
        while not await connection.fetchval(queue.is_empty):
            await asyncio.sleep(LOOK_SECONDS)


async def waits_at(bench: Bench, rate: int, insert: Insert, notes: Notes, child: Child) -> list[float]:
    """Milliseconds from the moment each event was due to be stored until its handler started."""
    due_of = await stored_at(rate, bench.scale.seconds, insert)
    await notes.until(len(notes.starts.keys() | due_of.keys()), child)
    return [(notes.starts[event_id] - due) / MILLISECONDS for event_id, due in due_of.items()]


async def stored_at(rate: int, seconds: float, insert: Insert) -> dict[str, int]:
    """Store events at random moments, whether or not the last one was handled; when each of them was due."""
    began = time.time_ns()
    waiting = deque(began + int(moment * NANOSECONDS) for moment in moments(rate, seconds))
    due_of: dict[str, int] = {}
    while waiting:
        if (wait := waiting[0] - time.time_ns()) > 0:
            await asyncio.sleep(wait / NANOSECONDS)
            continue
        now = time.time_ns()
        due = [waiting.popleft() for _ in list(itertools.takewhile(now.__ge__, waiting))]
        due_of |= zip(await insert(len(due)), due, strict=True)
    return due_of


async def flow_of(bench: Bench, queue: Queue, insert: Insert, notes: Notes, child: Child) -> float:
    """Events handled a second while others are stored, after a moment to get going; all are handled at the end."""
    first = notes.look()
    stored = first
    began = time.monotonic()
    warm = began + bench.scale.seconds / 4
    end = warm + bench.scale.seconds
    mark: tuple[float, int] | None = None
    while (now := time.monotonic()) < end:
        handled = notes.look()
        if mark is None and now >= warm:
            mark = now, handled
        if stored - handled < BACKLOG_MAX // queue.part:
            stored += len(await insert(FLOW_ROWS))
        else:
            await asyncio.sleep(LOOK_SECONDS / 2)
    assert mark is not None
    rate = (notes.look() - mark[1]) / (time.monotonic() - mark[0])
    await notes.until(stored, child)
    return rate


def ratios(there: Sequence[Queue], runs: Runs) -> Iterator[Figure]:
    """hookd's drain by that of the others, round by round; the aim is set by the best that fetches in batches."""
    batched = [each.name for each in there if each.is_batched and each is not OURS]
    best = max(batched, key=lambda name: statistics.median(run.drained for run in runs[name]), default="")
    for name in (each.name for each in there if each is not OURS):
        pairs = list(zip(runs[OURS.name], runs[name], strict=True))
        cold = [ours.drained / theirs.drained for ours, theirs in pairs]
        warm = [ours.drained_warm / theirs.drained_warm for ours, theirs in pairs]
        yield Figure(f"drain: hookd ÷ {name}", "×", cold, Target("≥", 1.8) if name == best else None)
        yield Figure(f"drain from the first handler on: hookd ÷ {name}", "×", warm)


def figures(runs: Runs) -> Iterator[Figure]:
    for what, unit, of in QUANTITIES:
        for name, each in runs.items():
            yield Figure(f"throughput: {name}: {what}", unit, [of(run) for run in each])
    for rate in RATES:
        for percent in (50, 95, 99):
            for name, each in runs.items():
                waits = [run.waits[rate] for run in each if rate in run.waits]
                if waits and len(waits[0]) * (100 - percent) >= 100:  # at least one event waited longer
                    values = [percentile(of_one, percent) for of_one in waits]
                    yield Figure(f"stored → handler started, {rate:,}/s: {name}: p{percent}", "ms", values)


def too_slow(runs: Runs) -> Iterator[str]:
    """Why a latency is missing."""
    for name, each in runs.items():
        missing = sum(RATES[-1] not in run.waits for run in each)
        if missing:
            yield f"{name} did not keep up with {RATES[-1]:,} events/s in {missing} of {len(each)} rounds: no latency"
