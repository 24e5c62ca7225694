"""Where the receiver's and the processor's own time goes, by library and kernel: samples of their stacks."""

import asyncio
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from benchmarks import drain, receiver, wrk
from benchmarks.bench import Bench
from benchmarks.report import Figure, Section
from rig import machine, seed
from rig.postgres import connected, environment
from rig.processes import BenchmarkError, Child, running

TITLE = "Where the time goes"
METHOD = (
    "py-spy looks at the stack of the one process, native frames included, {rate} times a second: the receiver under"
    " wrk with 64 connections (1 KiB of JSON), and `hookd processor --once` over a backlog, start-up included. A sample"
    " counts for the innermost frame that has an owner; waiting does not count. The process has a core of its own."
    " The shares are those of the CPU time"
    " that an event costs without the profiler; PostgreSQL's processes stand beside them."
)
RATE = 250
# The first part of a file's name that fits says whose a frame is.
OWNERS = (
    ("/aiohttp/", "aiohttp"),
    ("/llhttp/", "aiohttp"),
    ("/multidict/", "aiohttp"),
    ("/propcache/", "aiohttp"),
    ("/yarl/", "aiohttp"),
    ("/asyncpg/", "asyncpg"),
    ("/uvloop/", "event loop"),
    ("/libuv", "event loop"),
    ("/asyncio/", "event loop"),
    ("_asynciomodule", "event loop"),
    ("uuid_utils", "hookd"),
    ("orjson", "hookd"),
    ("frozen importlib", "imports"),
    ("/ingest/", "hookd"),
    ("/processor/", "hookd"),
    ("/protocol/", "hookd"),
    ("/chassis/", "hookd"),
    ("/hookd/", "hookd"),
    ("handlers.py", "the handler"),
)
SYSTEM = "/libc.so"
WRITES = ("write (", "writev (", "send (", "sendmsg (")
READS = ("read (", "readv (", "recv (", "recvmsg (")
WAITS = ("epoll_pwait", "epoll_wait", "pthread_cond", "sem_wait", "sem_clockwait", "select (", "poll (", "futex")
TO_POSTGRESQL, TO_SENDERS = "kernel, to and from PostgreSQL", "kernel: to and from senders"
ELSE = "the interpreter and the rest"
MICROSECONDS = 1_000_000


async def measure(bench: Bench) -> Section:
    section = Section(TITLE, METHOD.format(rate=RATE))
    if shutil.which(spy()) is None or not wrk.is_there():
        section.wrong.append("nothing was measured: py-spy (make bench installs it) and wrk are needed")
        return section
    with apart(bench.postgres.pid) as core:
        section.figures += await of_receiver(bench, core)
        section.figures += await of_processor(bench, core)
    return section


@contextmanager
def apart(postgres: int) -> Iterator[int]:
    """A core for the process that is looked at, and for it alone; all others share the rest.

    Else it would be looked at most often where it is put off: where it wakes somebody up.
    """
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        raise BenchmarkError("a profile needs two processors: one for the process that is looked at alone")
    core = min(cores)
    try:
        for pid in (os.getpid(), *machine.tree(postgres)):
            keep_on(pid, cores - {core})
        yield core
    finally:
        for pid in (os.getpid(), *machine.tree(postgres)):
            keep_on(pid, cores)


def keep_on(pid: int, cores: set[int]) -> None:
    with suppress(FileNotFoundError, ProcessLookupError):  # it may have ended meanwhile
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


def spy() -> str:
    return str(Path(sys.executable).with_name("py-spy"))


async def of_receiver(bench: Bench, core: int) -> list[Figure]:
    run = await receiver.one_run(bench, receiver.OURS)
    async with receiver.serving(bench, receiver.OURS) as (child, port, _):
        await wrk.post(bench.folder, port, connections=receiver.CONNECTIONS, seconds=bench.scale.warm_seconds)
        keep_on(child.pid, {core})
        load = wrk.post(bench.folder, port, connections=receiver.CONNECTIONS, seconds=bench.scale.seconds + 1)
        stacks, _ = await asyncio.gather(sampled(bench, child.pid, bench.scale.seconds), load)
    bench.say(f"profile: receiver: {sum(stacks.values())} samples")
    return figures("receiver", stacks, run.app_us, run.postgres_us)


async def of_processor(bench: Bench, core: int) -> list[Figure]:
    section, events = Section("", ""), bench.scale.backlog
    plain = await drain.one_run(replace(bench, scale=replace(bench.scale, events=events)), drain.OURS, section)
    async with bench.postgres.fresh() as url:
        await seed.backlog(url, events)
        out = bench.folder / "processor.stacks"
        command = (spy(), *options(out), "--", "taskset", "-c", str(core), *drain.command_of(bench))
        async with connected(url), running(bench.folder, *command, environment=environment(url)) as child:
            await child.ended(drain.STALL_SECONDS_MAX + events / 1000)
    if section.wrong:
        raise BenchmarkError("; ".join(section.wrong))
    stacks = read(out, child)
    bench.say(f"profile: processor: {sum(stacks.values())} samples")
    return figures("processor", stacks, plain.python_us, plain.postgres_us)


async def sampled(bench: Bench, pid: int, seconds: float) -> Counter[str]:
    """How often each stack was seen."""
    out = bench.folder / f"{pid}.stacks"
    command = (spy(), *options(out), "--duration", str(max(1, round(seconds))), "--pid", str(pid))
    async with running(bench.folder, *command) as child:
        await child.ended(seconds + drain.STALL_SECONDS_MAX)
    return read(out, child)


def options(out: Path) -> tuple[str | Path, ...]:
    return "record", "--native", "--full-filenames", "--format", "raw", "--rate", str(RATE), "--output", out


def read(out: Path, child: Child) -> Counter[str]:
    if not out.exists():
        raise BenchmarkError(f"py-spy may not look at another process here; as root it may: {child.last_words()}")
    lines = (line.rpartition(" ") for line in out.read_text(errors="replace").splitlines())
    return Counter({stack: int(count) for stack, _, count in lines if not is_waiting(stack)})


def is_waiting(stack: str) -> bool:
    return stack.rpartition(";")[2].startswith(WAITS)


def figures(process: str, stacks: Counter[str], own_us: float, postgres_us: float) -> list[Figure]:
    """Microseconds of CPU an event, the greatest part first."""
    parts: Counter[str] = Counter()
    for stack, count in stacks.items():
        parts[owner(stack)] += count
    each = own_us / max(1, parts.total())
    own = [Figure(f"{name}: {process}", "µs", [count * each]) for name, count in parts.most_common()]
    return [
        Figure(f"all of it: {process}", "µs", [own_us]),
        *own,
        Figure(f"beside it, PostgreSQL's processes: {process}", "µs", [postgres_us]),
    ]


def owner(stack: str) -> str:
    """Whose time a stack is: the kernel's where the innermost frame is a system call that moves bytes."""
    frames = stack.split(";")
    if SYSTEM in frames[-1] and frames[-1].startswith((*WRITES, *READS)):
        return TO_POSTGRESQL if "/asyncpg/" in stack else TO_SENDERS
    return next(owners(frames), ELSE)


def owners(frames: list[str]) -> Iterator[str]:
    for frame in reversed(frames):
        yield from (name for part, name in OWNERS if part in frame)
