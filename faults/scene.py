"""The stage of one case: a PostgreSQL of its own, hookd's processes, a load, and the invariant at the end."""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chassis.database import Connection
from faults import invariant
from rig import machine
from rig.hookd import Hookd, hookd
from rig.load import Load
from rig.postgres import connected
from rig.server import Server

# Each start of a handler is a line in a file: written before anything else, and it outlives a kill.
APP = """\
import os
import hookd

HERE = os.path.dirname(os.path.abspath(__file__))
HANDLED = os.open(os.path.join(HERE, "handled"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@hookd.on("*")
async def note(event: hookd.Event) -> None:
    os.write(HANDLED, f"{event.id} {event.attempt}\\n".encode())
"""
SETTLE_SECONDS_MAX = 60.0
SENT_MAX = 200_000  # POSTs of a load: several times what the fullest case needs
UNSETTLED = "SELECT count(*) FROM hookd.events WHERE status = 'new'"
HELD = "SELECT id::text FROM hookd.events WHERE status = 'new' AND held_by IS NOT NULL"
ROWS = "SELECT count(*) FROM hookd.events"
OVERDUE = "UPDATE hookd.events SET due_at = now() WHERE status = 'new' AND due_at < 'infinity'"


@dataclass
class Scene:
    """`random` is seeded with `seed`, which is printed. `figures` end in the report; `loads` are checked at the end.

    `excused`: what was held, or run, when that happened for which the case says that an event may be handled twice.
    """

    folder: Path
    server: Server
    seed: int
    sabotage: str | None = None
    figures: dict[str, str] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)
    excused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.app.write_text(APP)

    @property
    def app(self) -> Path:
        return self.folder / "app.py"

    @property
    def url(self) -> str:
        return self.server.url

    @asynccontextmanager
    async def ingest(
        self, *arguments: str, url: str = "", environment: Mapping[str, str] | None = None, **settings: str
    ) -> AsyncIterator[Hookd]:
        """A receiver that listens (on a free port, unless --port is among the arguments)."""
        port = () if "--port" in arguments else ("--port", "0")
        async with self.hookd("ingest", *port, *arguments, url=url, environment=environment, **settings) as receiver:
            await receiver.logged("ingest.listening")
            yield receiver

    @asynccontextmanager
    async def processor(
        self, *arguments: str, url: str = "", environment: Mapping[str, str] | None = None, **settings: str
    ) -> AsyncIterator[Hookd]:
        """A processor that has started, with the scene's app unless another is named."""
        app = () if "--app" in arguments else ("--app", str(self.app))
        async with self.hookd("processor", *app, *arguments, url=url, environment=environment, **settings) as processor:
            await processor.logged("processor.started")
            yield processor

    @asynccontextmanager
    async def hookd(
        self, *arguments: str, url: str = "", environment: Mapping[str, str] | None = None, **settings: str
    ) -> AsyncIterator[Hookd]:
        """Any command of hookd's, sabotaged if the scene is; `settings` without their prefix."""
        module = ("faults.sabotages", self.sabotage) if self.sabotage else ("hookd",)
        settings = {"database_url": url or self.url, **settings}
        async with hookd(*arguments, cwd=self.folder, module=module, environment=environment, **settings) as process:
            yield process

    async def load(self, receiver: Hookd, **options: float) -> Load:
        """A load on that receiver, to be run by `async with load.running()`."""
        url = (await receiver.logged("ingest.listening"))["url"]
        load = Load(url, sent_max=SENT_MAX, **options)  # type: ignore[arg-type]
        self.loads.append(load)
        return load

    def connected(self) -> "AsyncIterator[Connection]":
        """A superuser's connection, around hookd and around any proxy, for `async with`."""
        return connected(self.url)  # type: ignore[return-value]

    def note(self, name: str, value: object) -> None:
        """A figure for the report."""
        self.figures[name] = str(value)

    async def until_settled(self, seconds_max: float = SETTLE_SECONDS_MAX) -> None:
        """Return once no row is new; a processor must be running."""
        async with connected(self.url) as connection:
            async with asyncio.timeout(seconds_max):
                while await connection.fetchval(UNSETTLED):
                    await asyncio.sleep(0.05)

    async def settle_all(self, seconds_max: float = SETTLE_SECONDS_MAX) -> None:
        """Let all leases and back-offs be over, and a healthy processor settle what is left."""
        async with connected(self.url) as connection:
            await connection.execute(OVERDUE)
        async with self.processor() as processor:
            await self.until_settled(seconds_max)
            await processor.stop()

    def starts(self) -> Counter[str]:
        """How often a handler was started for each id."""
        try:
            lines = (self.folder / "handled").read_text().splitlines()
        except FileNotFoundError:
            return Counter()
        return Counter(line.split()[0] for line in lines if line)

    def twice(self) -> set[str]:
        """What handlers were started for more than once."""
        return {each for each, count in self.starts().items() if count > 1}

    def excuse(self, ids: Iterable[str]) -> None:
        """These may be handled twice: what the case says of it has happened to them."""
        self.excused |= set(ids)

    async def excuse_held(self) -> None:
        """What is held at this moment may be handled twice: its holder has just died, or is about to lose it."""
        async with connected(self.url) as connection:
            self.excuse(row["id"] for row in await connection.fetch(HELD))

    async def violations(self) -> list[str]:
        """What speaks against the invariant, a line each."""
        async with connected(self.url) as connection:
            found = await invariant.violations(connection, self.loads, self.starts(), self.excused)
            self.note("rows", f"{await connection.fetchval(ROWS):,}")
        self.note("answered with 200", f"{sum(len(load.answered) for load in self.loads):,}")
        self.note("handled twice", f"{len(self.twice()):,}")
        return found

    @asynccontextmanager
    async def watched(self, process: Hookd, mib_max: float, name: str = "peak memory") -> AsyncIterator[None]:
        """Fail when the process and its children together ever need more resident memory than that."""
        peak = 0.0

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, machine.resident_mib(process.process.pid))
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
            self.note(name, f"{peak:.0f} MiB (at most {mib_max:.0f})")
        if peak > mib_max:
            raise AssertionError(f"{name}: {peak:.0f} MiB, more than {mib_max:.0f}")


def workers_of(receiver: Hookd) -> list[int]:
    """The process ids of a receiver's workers, as its log named them, those that live."""
    named = [line["pid"] for line in receiver.lines if line["event"] == "child.started"]
    return [pid for pid in named if machine.lives(pid)]


def kill(pid: int) -> None:
    os.kill(pid, 9)
