"""The receiver beside what people would write instead: one table of all, then one thing changed at a time."""

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from benchmarks import wrk
from benchmarks.bench import Bench, Scale
from benchmarks.receiver import MICROSECONDS, SETTLE_SECONDS, count, started
from benchmarks.report import Figure, Section, Target
from benchmarks.rivals.packages import Packages
from benchmarks.rivals.queues import Queue
from benchmarks.rivals.servers import INSERT, NOTHING, OURS, RIVALS, Server
from rig import machine, server
from rig.interpose import COMPILER, Disk
from rig.postgres import Postgres
from rig.processes import BenchmarkError

GITHUB = Path(__file__).parents[1] / "tests" / "data" / "github"
FSYNC_SECONDS = 0.002
METHOD = (
    "wrk, one thread. Each program makes one row and one commit a request from a pool of ten connections (hookd commits"
    " together what arrives together) and answers after the commit. First all of them: 64 connections, 1 KiB of JSON,"
    " one worker process. Then one thing at a time is changed for hookd, the server that stores nothing, one INSERT a"
    " request (aiohttp, asyncpg) and the fastest of the others. One PostgreSQL for all; the slow disk is its fsync,"
    " made 2 ms longer. Each start has a fresh database, the order rotates. CPU is user and system time for each"
    " request answered with 2xx; memory the VmRSS of all of a program's processes, added up, after its run."
)


@dataclass(frozen=True)
class Case:
    """A load, and what it meets."""

    name: str
    connections: int = 64
    workers: int = 1
    bodies: Sequence[Path] = ()
    fsync_seconds: float = 0


@dataclass(frozen=True)
class Run:
    load: wrk.Load
    app_us: float
    postgres_us: float
    memory_mib: float


ALL = Case("64 connections")
SLOW = Case("2 ms an fsync", fsync_seconds=FSYNC_SECONDS)
CHANGES = (
    Case("1 connection", connections=1),
    Case("256 connections", connections=256),
    *([SLOW] if COMPILER else []),
    Case("GitHub's payloads", bodies=sorted(GITHUB.glob("*.json"))),
    Case("2 workers", workers=2),
)
TARGETS = {(SLOW.name, INSERT.name): Target("≥", 5)}
QUANTITIES: tuple[tuple[str, str, Callable[[Run], float]], ...] = (
    ("requests/s", "/s", lambda run: run.load.rate),
    ("p50", "ms", lambda run: run.load.p50_ms),
    ("p99", "ms", lambda run: run.load.p99_ms),
    ("p99.9", "ms", lambda run: run.load.p999_ms),
    ("CPU a request, the program's part", "µs", lambda run: run.app_us),
    ("CPU a request, PostgreSQL's part", "µs", lambda run: run.postgres_us),
    ("memory", "MiB", lambda run: run.memory_mib),
)
Runs: TypeAlias = dict[str, dict[str, list[Run]]]  # by case and server


async def measure(bench: Bench) -> Section:
    section = Section("Receivers", METHOD, notes=left_out(RIVALS))
    if not wrk.is_there():
        section.notes.append(wrk.MISSING)
        section.wrong.append("nothing was measured")
        return section
    there = [each for each in (OURS, NOTHING, INSERT, *RIVALS) if not each.packages.missing()]
    runs: Runs = {}
    async with with_slow_disk(bench, section) as (own, disk):
        await visits(own, disk, there, [ALL], runs, section)
        await visits(own, disk, [OURS, NOTHING, INSERT, *best_of(there, runs)], CHANGES, runs, section)
    if not COMPILER:
        section.notes.append("the slow disk is left out: it needs a C compiler")
    section.figures += [*ratios(runs), *figures(runs)]
    section.notes += [f"{each.name}: {each.settings}{versions(each.packages)}" for each in there]
    return section


def left_out(rivals: Iterable[Server | Queue]) -> list[str]:
    """Which of them, and why."""
    return [
        f"{each.name} is left out: {', '.join(missing)} not installed (`make bench` installs it)"
        for each in rivals
        if (missing := each.packages.missing())
    ]


def shorter(scale: Scale) -> Scale:
    """Half the time under load, and two rounds fewer: for what has many runs in a round."""
    return replace(scale, rounds=max(1, scale.rounds - 2), seconds=scale.seconds / 2)


def how_long(scale: Scale) -> str:
    return f"rounds: {scale.rounds}, of {scale.seconds:g} s under each load"


def versions(packages: Packages) -> str:
    return f" ({found})" if (found := packages.versions()) else ""


@asynccontextmanager
async def with_slow_disk(bench: Bench, section: Section) -> AsyncIterator[tuple[Bench, Disk | None]]:
    """The same for a server whose fsync can be made slower while it runs."""
    folder = bench.folder / "receivers"
    folder.mkdir()
    data = await asyncio.to_thread(server.template, bench.folder / "template")
    one = server.Server(folder, data)
    try:
        await one.start()
        postgres = Postgres(one.url, folder)
        section.notes.append(how_long(shorter(bench.scale)))
        section.notes.append(f"its own PostgreSQL: {await postgres.prepare(bench.scale.wal_segments)}")
        yield Bench(postgres, shorter(bench.scale)), one.disk
    finally:
        one.end()


async def visits(
    bench: Bench, disk: Disk | None, servers: Sequence[Server], cases: Sequence[Case], runs: Runs, section: Section
) -> None:
    """Each server once a round. A rival that does not run is left out from then on, and so is what it did before."""
    failed: set[str] = set()
    for each in bench.rounds(servers):
        if each.name in failed:
            continue
        try:
            await visit(bench, disk, each, cases, runs, section)
        except (BenchmarkError, TimeoutError) as error:
            if each not in RIVALS:
                raise
            failed.add(each.name)
            section.notes.append(does_not_run(each, error))
    for of_case in runs.values():
        for name in failed:
            of_case.pop(name, None)


async def visit(
    bench: Bench, disk: Disk | None, each: Server, cases: Sequence[Case], runs: Runs, section: Section
) -> None:
    """Started once for all cases of as many workers."""
    for workers in sorted({case.workers for case in cases}):
        async with started(bench, each, workers) as (child, port, url):
            await wrk.post(bench.folder, port, connections=ALL.connections, seconds=bench.scale.warm_seconds)
            await asyncio.sleep(SETTLE_SECONDS)
            for case in (case for case in cases if case.workers == workers):
                with slowed(disk, case.fsync_seconds) if disk and case.fsync_seconds else nullcontext():
                    run = await one_run(bench, each, case, child.pid, port, url, section)
                runs.setdefault(case.name, {}).setdefault(each.name, []).append(run)


def does_not_run(rival: Server | Queue, error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return f"{rival.name} is left out, it does not run here: {words[-300:]}"


@contextmanager
def slowed(disk: Disk, seconds: float) -> Iterator[None]:
    disk.slow(seconds)
    try:
        yield
    finally:
        disk.slow(0)


async def one_run(bench: Bench, each: Server, case: Case, pid: int, port: int, url: str, section: Section) -> Run:
    await bench.postgres.execute("CHECKPOINT")
    before = await count(url, each.table) if each.table else 0
    app, postgres = machine.cpu_seconds(pid), machine.cpu_seconds(bench.postgres.pid)
    load = await wrk.post(
        bench.folder, port, connections=case.connections, seconds=bench.scale.seconds, bodies=case.bodies
    )
    await asyncio.sleep(SETTLE_SECONDS)
    app, postgres = machine.cpu_seconds(pid) - app, machine.cpu_seconds(bench.postgres.pid) - postgres
    stored = await count(url, each.table) - before if each.table else load.acknowledged
    section.wrong += lost(f"{each.name}, {case.name}", load, stored, case.connections)
    us = MICROSECONDS / max(load.acknowledged, 1)
    run = Run(load, app * us, postgres * us if each.table else 0.0, machine.resident_mib(pid))
    bench.say(
        f"receivers: {each.name}, {case.name}: {load.rate:,.0f}/s, p99 {load.p99_ms:.1f} ms,"
        f" {run.app_us:.0f} + {run.postgres_us:.0f} µs, {run.memory_mib:.0f} MiB"
    )
    return run


def lost(name: str, load: wrk.Load, stored: int, connections: int) -> list[str]:
    """What speaks against the run. What wrk left in flight, one request a connection, may be stored and not counted."""
    wrong = []
    if load.refused or load.broken:
        wrong.append(f"{name}: {load.refused} answers were refusals, {load.broken} never came")
    if not load.acknowledged <= stored <= load.acknowledged + connections:
        wrong.append(f"{name}: {load.acknowledged} answers of 2xx, {stored} rows")
    return wrong


def best_of(there: Sequence[Server], runs: Runs) -> list[Server]:
    """The fastest of the others with one worker process, if there is any."""
    others = [each for each in there if each in RIVALS and each.has_workers and each.name in runs[ALL.name]]
    return sorted(others, key=lambda each: -statistics.median(rates(runs[ALL.name][each.name])))[:1]


def rates(each: Sequence[Run]) -> list[float]:
    return [run.load.rate for run in each]


def ratios(runs: Runs) -> Iterator[Figure]:
    """hookd's rate by that of the others, round by round."""
    for case, of_case in runs.items():
        for name in (name for name in of_case if name != OURS.name):
            values = [
                ours / theirs for ours, theirs in zip(rates(of_case[OURS.name]), rates(of_case[name]), strict=True)
            ]
            yield Figure(f"{case}: hookd ÷ {name}", "×", values, TARGETS.get((case, name)))


def figures(runs: Runs) -> Iterator[Figure]:
    for case, of_case in runs.items():
        for what, unit, of in QUANTITIES:
            for name, each in of_case.items():
                values = [of(run) for run in each]
                if any(values):  # a server that stores nothing costs PostgreSQL nothing
                    yield Figure(f"{case}: {name}: {what}", unit, values)
