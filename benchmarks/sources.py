"""Requests a second with fifty sources registered, beside none: what knowing them costs the receiver."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from benchmarks import wrk
from benchmarks.bench import Bench
from benchmarks.http import first_answer
from benchmarks.receiver import CONNECTIONS, MICROSECONDS, SETTLE_SECONDS
from benchmarks.report import Figure, Section, Target
from benchmarks.rivals.servers import OURS
from rig import machine, sample
from rig.postgres import connected, environment
from rig.processes import Child, free_port, running

SOURCES = 50
NONE, ALL = "none registered", f"{SOURCES} registered"
REGISTER = """
INSERT INTO hookd.sources (name, provider, mode)
SELECT name, 'hmac', 'deferred'
  FROM unnest(array_prepend($1, array(SELECT 'source-' || number FROM generate_series(2, $2) AS number))) AS name
"""
TIMES = 3  # as many rounds: one pair of runs differs by a fifth where nothing differs at all
METHOD = (
    f"wrk, one thread, {CONNECTIONS} connections, 1 KiB of JSON. Two receivers of one worker each, both running all the"
    " time on one PostgreSQL with a database each, are loaded in turn; a ratio compares two runs of one round. The"
    " requests go to one of the registered sources, which the processor is to judge."
)


@dataclass(frozen=True)
class Run:
    rate: float
    cpu_us: float  # the receiver's own, a request


async def measure(bench: Bench) -> Section:
    section = Section("Sources", METHOD)
    if not wrk.is_there():
        section.notes.append(wrk.MISSING)
        section.wrong.append("nothing was measured")
        return section
    runs: dict[str, list[Run]] = {NONE: [], ALL: []}
    async with AsyncExitStack() as leaving:
        there = {
            NONE: await leaving.enter_async_context(serving(bench, 0)),
            ALL: await leaving.enter_async_context(serving(bench, SOURCES)),
        }
        for child, port in there.values():
            await one_run(bench, child, port, bench.scale.warm_seconds, section)
        rounds = replace(bench.scale, rounds=bench.scale.rounds * (TIMES if bench.scale.rounds >= 5 else 1))
        for name in replace(bench, scale=rounds).rounds(list(runs)):
            run = await one_run(bench, *there[name], bench.scale.seconds, section)
            runs[name].append(run)
            bench.say(f"sources: {name}: {run.rate:,.0f}/s, {run.cpu_us:.1f} µs")
    section.figures += figures(runs)
    return section


@asynccontextmanager
async def serving(bench: Bench, count: int) -> AsyncIterator[tuple[Child, int]]:
    """A receiver that has stored its first request, its database with so many sources."""
    port = free_port()
    async with bench.postgres.fresh() as url:
        if count:
            async with connected(url) as connection:
                await connection.execute(REGISTER, sample.SOURCE, count)
        async with running(bench.folder, *OURS.command(port, 1), environment=environment(url)) as child:
            await first_answer(port, child)
            yield child, port


async def one_run(bench: Bench, child: Child, port: int, seconds: float, section: Section) -> Run:
    cpu = machine.cpu_seconds(child.pid)
    load = await wrk.post(bench.folder, port, connections=CONNECTIONS, seconds=seconds)
    await asyncio.sleep(SETTLE_SECONDS)
    if load.refused or load.broken:
        section.wrong.append(f"{load.refused} answers were refusals, {load.broken} never came")
    return Run(load.rate, (machine.cpu_seconds(child.pid) - cpu) * MICROSECONDS / max(load.acknowledged, 1))


def figures(runs: dict[str, list[Run]]) -> list[Figure]:
    pairs = list(zip(runs[ALL], runs[NONE], strict=True))
    return [
        Figure(f"requests/s, {ALL} ÷ {NONE}", "×", [ours.rate / none.rate for ours, none in pairs], Target("≥", 0.95)),
        Figure(f"receiver's CPU a request, {ALL} ÷ {NONE}", "×", [ours.cpu_us / none.cpu_us for ours, none in pairs]),
        *(Figure(f"{name}: requests/s", "/s", [run.rate for run in each]) for name, each in runs.items()),
        *(
            Figure(f"{name}: receiver's CPU a request", "µs", [run.cpu_us for run in each])
            for name, each in runs.items()
        ),
    ]
