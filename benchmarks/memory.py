"""What the two processes hold in memory when much is asked of them."""

import asyncio

from benchmarks.bench import Bench
from benchmarks.drain import HANDLERS, unsettled, until_settled
from benchmarks.http import Sender
from benchmarks.receiver import OURS, serving
from benchmarks.report import Figure, Section, Target
from chassis.sockets import raise_open_files_limit
from rig import machine, seed
from rig.postgres import connected, environment
from rig.processes import HOOKD, running

IDLE_SECONDS = 3
AT_ONCE = 50
METHOD = (
    "Resident memory from /proc. Receiver: VmRSS with {connections:,} connections open, each of which sent a POST and"
    " was idle for {idle} s. Processor: VmHWM, the most it ever held, after draining {backlog:,} events of 1 KiB."
)


async def measure(bench: Bench) -> Section:
    scale = bench.scale
    method = METHOD.format(connections=scale.connections, backlog=scale.backlog, idle=IDLE_SECONDS)
    section = Section("Memory", method)
    idle = [await receiver_mib(bench) for _ in range(scale.rounds)]
    bench.say(f"memory: receiver {max(idle):.1f} MiB")
    peak = await processor_mib(bench, section)
    bench.say(f"memory: processor {peak:.1f} MiB")
    section.figures += [
        Figure(f"receiver, {scale.connections:,} idle connections", "MiB", idle, Target("≤", 90)),
        Figure(f"processor's peak, backlog of {scale.backlog:,}", "MiB", [peak], Target("≤", 80)),
    ]
    return section


async def receiver_mib(bench: Bench) -> float:
    raise_open_files_limit()
    async with serving(bench, OURS) as (child, port, _):
        senders: list[Sender] = []
        try:
            while len(senders) < bench.scale.connections:
                more = await asyncio.gather(*(_posted(port) for _ in range(AT_ONCE)))
                senders += more
            await asyncio.sleep(IDLE_SECONDS)
            return machine.resident_mib(child.pid)
        finally:
            for sender in senders:
                sender.close()


async def _posted(port: int) -> Sender:
    sender = await Sender.connect(port)
    await sender.post()
    return sender


async def processor_mib(bench: Bench, section: Section) -> float:
    events = bench.scale.backlog
    handlers = bench.file("handlers.py", HANDLERS)
    async with bench.postgres.fresh() as url:
        await seed.backlog(url, events)
        command = (*HOOKD, "processor", "--app", handlers)
        async with (
            connected(url) as connection,
            running(bench.folder, *command, environment=environment(url)) as child,
        ):
            await until_settled(connection, events, child)
            peak = machine.peak_mib(child.pid)
        section.wrong += await unsettled(url, "hookd processor", events)
    return peak
