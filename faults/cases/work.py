"""hookd at work while its database is broken, and back at work when it is whole."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faults.scene import APP, Scene
from rig.hookd import Hookd
from rig.load import Load
from rig.postgres import connected

BACK_SECONDS_MAX = 15  # the contract says 5, of a machine with nothing else to do
SETTLED_SECONDS_MAX = 40  # the processor waits 10 s for each answer, and a claim comes before a settle
TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'hookd %'"
UNSETTLED = "SELECT count(*) FROM hookd.events WHERE status = 'new' AND id = ANY($1::uuid[])"


@asynccontextmanager
async def at_work(
    scene: Scene, *, url: str = "", senders: int = 8, pause_seconds: float = 0.05, commit_timeout_seconds: float = 2.0
) -> AsyncIterator[tuple[Load, Hookd, Hookd]]:
    """A load, its receiver and a processor; in the end the processor leaves in peace, and all is settled."""
    async with (
        scene.ingest(url=url, commit_timeout_seconds=str(commit_timeout_seconds)) as receiver,
        scene.processor(url=url) as processor,
    ):
        load = await scene.load(receiver, senders=senders, pause_seconds=pause_seconds, timeout_seconds=20)
        async with load.running():
            await load.more(50)
            yield load, receiver, processor
        note_answers(scene, load)
        assert await processor.stop() == 0
    await scene.settle_all()


def note_answers(scene: Scene, load: Load) -> None:
    assert set(load.statuses) <= {200, 503}, load.statuses
    assert not load.cut, f"{load.cut} connections were cut"
    scene.note("answered with 503", load.statuses[503])
    scene.note("slowest 200", f"{max(load.seconds) * 1000:,.0f} ms")


async def until_back(scene: Scene, load: Load, after: str = "") -> None:
    """The database is there again: so must hookd be, receiver and processor, and all that was handled be settled."""
    began, before = time.monotonic(), scene.starts()
    await load.more(1, BACK_SECONDS_MAX)
    scene.note(f"received again{after} after", f"{time.monotonic() - began:.1f} s")
    await load.more(50)
    async with asyncio.timeout(SETTLED_SECONDS_MAX), connected(scene.url) as connection:
        while (started := scene.starts()) == before:
            await asyncio.sleep(0.05)
        while await connection.fetchval(UNSETTLED, list(started)):
            await asyncio.sleep(0.05)
    scene.note(f"all handled settled{after} after", f"{time.monotonic() - began:.1f} s")


def refuses(load: Load, count: int) -> None:
    assert load.statuses[503] >= count, f"only {load.statuses[503]} were answered with 503"


def slow_handlers(scene: Scene, seconds: float) -> None:
    """So that some always run."""
    scene.app.write_text(f"import asyncio\n{APP}    await asyncio.sleep({seconds})\n")
