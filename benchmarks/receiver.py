"""Durable requests a second, and the CPU each costs, beside a server that stores nothing and one INSERT a request."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import wrk
from benchmarks.bench import Bench
from benchmarks.http import first_answer
from benchmarks.report import Figure, Section, Target
from benchmarks.rivals import servers
from benchmarks.rivals.inbox import TABLE
from benchmarks.rivals.packages import libpq
from rig import machine, sample
from rig.postgres import connected, environment
from rig.processes import Child, free_port, running

CONNECTIONS = 64
SERVERS = {server.name: server for server in (servers.NOTHING, servers.INSERT, servers.OURS)}
NOTHING, INSERT, OURS = SERVERS
TABLES = {server.name: server.table for server in SERVERS.values() if server.table}
SETTLE_SECONDS = 0.5  # what was in flight when wrk left is committed by then
MICROSECONDS = 1_000_000
METHOD = (
    f"wrk, one thread, {CONNECTIONS} connections, 1 KiB of JSON, one worker. Each server runs once a round, beside the"
    " same PostgreSQL, in a fresh database; a ratio compares two runs of one round. CPU is user and system time of the"
    " receiver and of all of PostgreSQL's processes, divided by the requests answered with 2xx."
)


@dataclass(frozen=True)
class Run:
    """One server under load."""

    load: wrk.Load
    app_us: float
    postgres_us: float
    acknowledged: int
    stored: int

    @property
    def cpu_us(self) -> float:
        return self.app_us + self.postgres_us


async def measure(bench: Bench) -> Section:
    section = Section("Receiver", METHOD)
    if not wrk.is_there():
        section.notes.append(wrk.MISSING)
        section.wrong.append("nothing was measured")
        return section
    runs: dict[str, list[Run]] = {name: [] for name in (NOTHING, INSERT, OURS)}
    for name in bench.rounds(list(runs)):
        run = await one_run(bench, name)
        runs[name].append(run)
        bench.say(f"receiver: {name}: {run.load.rate:,.0f}/s, {run.app_us:.1f} + {run.postgres_us:.1f} µs")
        section.wrong += missing(name, run)
    section.figures += figures(runs)
    section.notes.append(notes(runs))
    ids, absent = await check_ids(bench)
    section.notes.append(f"every one of {ids:,} ids answered by a further run is in the table with the bytes sent")
    section.wrong += [f"{absent} of {ids} answered ids are not in the table, byte for byte"] if absent else []
    return section


async def one_run(bench: Bench, name: str) -> Run:
    async with serving(bench, name) as (child, port, url):
        warm = await wrk.post(bench.folder, port, connections=CONNECTIONS, seconds=bench.scale.warm_seconds)
        await bench.postgres.execute("CHECKPOINT")
        app, postgres = machine.cpu_seconds(child.pid), machine.cpu_seconds(bench.postgres.pid)
        load = await wrk.post(bench.folder, port, connections=CONNECTIONS, seconds=bench.scale.seconds)
        await asyncio.sleep(SETTLE_SECONDS)
        app, postgres = machine.cpu_seconds(child.pid) - app, machine.cpu_seconds(bench.postgres.pid) - postgres
        each = MICROSECONDS / load.acknowledged
        return Run(
            load,
            app * each,
            postgres * each if name in TABLES else 0.0,
            1 + warm.acknowledged + load.acknowledged,
            await count(url, TABLES[name]) if name in TABLES else 0,
        )


@asynccontextmanager
async def serving(bench: Bench, name: str) -> AsyncIterator[tuple[Child, int, str]]:
    async with started(bench, SERVERS[name], workers=1) as (child, port, url):
        yield child, port, url


@asynccontextmanager
async def started(bench: Bench, server: servers.Server, workers: int) -> AsyncIterator[tuple[Child, int, str]]:
    """A receiver that has stored its first request; its port, and its database's URL."""
    port = free_port()
    async with bench.postgres.fresh() as url:
        if server.table == servers.INBOX:
            async with connected(url) as connection:
                await connection.execute(TABLE)
        command, given = server.command(port, workers), environment(url) | libpq(url)
        async with running(bench.folder, *command, environment=given) as child:
            await first_answer(port, child)
            yield child, port, url


async def count(url: str, table: str) -> int:
    async with connected(url) as connection:
        value: int = await connection.fetchval(f"SELECT count(*)::int FROM {table}")
        return value


def missing(name: str, run: Run) -> list[str]:
    """What speaks against the run. Of the requests that wrk left in flight, twice, some are stored and not counted."""
    wrong = []
    if run.load.refused or run.load.broken:
        wrong.append(f"{name}: {run.load.refused} answers were refusals, {run.load.broken} never came")
    if name in TABLES and not run.acknowledged <= run.stored <= run.acknowledged + 2 * CONNECTIONS:
        wrong.append(f"{name}: {run.acknowledged} answers of 2xx, {run.stored} rows")
    return wrong


def figures(runs: dict[str, list[Run]]) -> list[Figure]:
    def ratio(of: Callable[[Run], float], rival: str) -> list[float]:
        return [of(ours) / of(theirs) for ours, theirs in zip(runs[OURS], runs[rival], strict=True)]

    return [
        Figure("durable requests/s ÷ answers without storing", "×", ratio(_rate, NOTHING), Target("≥", 0.65)),
        Figure("durable requests/s ÷ one INSERT a request", "×", ratio(_rate, INSERT), Target("≥", 3.3)),
        Figure("CPU a stored request ÷ answers without storing", "×", ratio(_cpu, NOTHING), Target("≤", 1.9)),
        *(Figure(f"{name}: requests/s", "/s", [_rate(run) for run in each]) for name, each in runs.items()),
        *(Figure(f"{name}: CPU a request", "µs", [_cpu(run) for run in each]) for name, each in runs.items()),
        *(Figure(f"{name}: p50", "ms", [run.load.p50_ms for run in each]) for name, each in runs.items()),
        *(Figure(f"{name}: p99", "ms", [run.load.p99_ms for run in each]) for name, each in runs.items()),
        Figure("hookd: CPU a request, the receiver's part", "µs", [run.app_us for run in runs[OURS]]),
        Figure("hookd: CPU a request, PostgreSQL's part", "µs", [run.postgres_us for run in runs[OURS]]),
    ]


def notes(runs: dict[str, list[Run]]) -> str:
    acknowledged, stored = (sum(getattr(run, what) for run in runs[OURS]) for what in ("acknowledged", "stored"))
    return (
        f"hookd answered {acknowledged:,} requests with 2xx and stored {stored:,} rows; the difference was in flight"
        " when wrk left"
    )


async def check_ids(bench: Bench) -> tuple[int, int]:
    """How many ids a run under load was answered, and how many of them are not in the table byte for byte."""
    ids = bench.folder / "ids"
    async with serving(bench, OURS) as (_, port, url):
        await wrk.post(bench.folder, port, connections=CONNECTIONS, seconds=bench.scale.warm_seconds or 1, ids=ids)
        answered = read_ids(ids)
        async with connected(url) as connection:
            found = await connection.fetchval(
                "SELECT count(*)::int FROM hookd.events WHERE id = ANY($1) AND payload = $2", answered, sample.BODY
            )
    return len(answered), len(answered) - found


def read_ids(file: Path) -> list[uuid.UUID]:
    return [uuid.UUID(line) for line in file.read_text().split()]


def _rate(run: Run) -> float:
    return run.load.rate


def _cpu(run: Run) -> float:
    return run.cpu_us
