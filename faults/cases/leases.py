"""Leases are lost, taken over, and held by two processors beside each other."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from faults.case import case
from faults.cases.accounts import logged_rows, total
from faults.cases.apps import app_of, lines, until_lines
from faults.cases.table import PATIENCE_SECONDS, require_counted, rows, stored, until_settled
from faults.scene import Scene
from rig import seed
from rig.hookd import Hookd
from rig.postgres import connected

LEASE_LEFT = "SELECT extract(epoch FROM min(due_at) - now())::float8 FROM hookd.events WHERE held_by IS NOT NULL"
HOLDS_THE_GIL = """\
@hookd.on("*")
async def work(event):
    noted(event)
    await asyncio.sleep(1)


@hookd.on("gil")
def hold(event):
    noted(event)
    if event.attempt == 1:
        ctypes.PyDLL(None).sleep(10)  # unlike CDLL it keeps the GIL
"""


@case(
    "A handler holds the GIL for 10 s: with a lease of 60 s, with one of 3 s, and with one of 3 s beside a processor",
    caught=("no-lease", "no-fence"),
    twice="a lease was lost: the GIL was held for longer than it",
    seconds_max=120,
)
async def gil_held_10_s(scene: Scene) -> None:
    app = app_of(scene, HOLDS_THE_GIL)

    def processor(lease_seconds: str) -> Any:
        return scene.processor("--app", app, poll_seconds="0.2", lease_seconds=lease_seconds)

    async with processor("60") as unhurried:
        await hold_the_gil(scene, "60 s", unhurried, lease_is_lost=False)
    assert not logged_rows([unhurried], "lease.lost"), "a lease of 60 s was lost"
    async with processor("3") as alone:
        await hold_the_gil(scene, "3 s", alone)
    async with processor("3") as one, processor("3") as other:
        await hold_the_gil(scene, "3 s beside another", one, other)
    assert max(scene.starts().values()) <= 2, "handled more than twice"
    await require_counted(scene)


async def hold_the_gil(scene: Scene, name: str, *processors: Hookd, lease_is_lost: bool = True) -> None:
    """41 events for these processors, one of which holds its GIL as soon as the others are under way."""
    ids = [*await stored(scene, 40), *await stored(scene, 1, "gil")]
    async with lease_watched(scene, f"lease of {name}: least left"):
        await until_begun(scene, ids[-1])
        if lease_is_lost:
            await scene.excuse_held()
        await until_settled(scene, *processors)
    for each in processors:
        assert await each.stop() == 0, "it should stop once the GIL is free"
    starts = scene.starts()
    assert sum(map(total, processors)) == 41, "a late settle was counted"
    scene.note(f"lease of {name}: handled twice", sum(starts[each] > 1 for each in ids))


async def until_begun(scene: Scene, event_id: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while event_id not in scene.starts():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def lease_watched(scene: Scene, name: str) -> AsyncIterator[None]:
    """Note how many seconds the lease nearest to its end had left; below nothing: how late it was renewed or taken."""
    least = float("inf")

    async def watch() -> None:
        nonlocal least
        async with connected(scene.url) as connection:
            while True:
                left = await connection.fetchval(LEASE_LEFT)
                least = least if left is None else min(least, left)
                await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        scene.note(name, f"{least:.1f} s")


@case(
    "Two processors share 100,000 events",
    caught=("no-lease", "no-skip-locked"),
    seconds_max=180,
)
async def two_processors(scene: Scene) -> None:
    await seed.backlog(scene.url, 100_000)
    async with scene.processor() as one, scene.processor() as other:
        began = time.monotonic()
        await until_settled(scene, one, other, seconds_max=150)
        seconds = time.monotonic() - began
        assert (await one.stop(), await other.stop()) == (0, 0)
    shares = total(one), total(other)
    assert sum(shares) == 100_000, f"settled by their own account: {shares}"
    assert min(shares) > 0, "one of them did nothing"
    assert {row["claims"] for row in (await rows(scene)).values()} == {1}, "claimed twice"
    await require_counted(scene)
    scene.note("rate", f"{100_000 / seconds:,.0f} events/s")
    scene.note("shares", " and ".join(f"{share:,}" for share in shares))


HALF_DONE = """\
@hookd.on("*")
async def work(event):
    noted(event)
    if event.attempt == 1:
        await asyncio.sleep(3 if event.id.int % 2 else 6)
        if chance(event) < 0.5:
            raise RuntimeError("too late to fail")
"""


@case(
    "A processor is frozen with its handlers half done; another takes over when the leases end; then it thaws",
    caught=("no-fence",),
    twice="a lease was lost: its holder was frozen for longer",
)
async def zombie(scene: Scene) -> None:
    app = app_of(scene, HALF_DONE)
    await stored(scene, 20)
    async with (
        scene.processor("--app", app, lease_seconds="2") as frozen,
        scene.processor("--app", app, lease_seconds="2", poll_seconds="3600") as heir,
    ):
        await until_lines(scene, 20)
        await scene.excuse_held()
        frozen.process.send_signal(signal.SIGSTOP)
        await until_settled(scene, heir)
        before = await rows(scene)
        await until_half_would_have_ended(scene)
        frozen.process.send_signal(signal.SIGCONT)
        assert (await frozen.stop(), await heir.stop()) == (0, 0)
    assert await rows(scene) == before, "a late settle changed a row"
    await require_counted(scene)
    assert (total(frozen), total(heir)) == (0, 20), "a late settle was counted"


async def until_half_would_have_ended(scene: Scene) -> None:
    """So that these are settled as soon as it thaws, before it can know that its leases are lost."""
    began = max(at for _, attempt, at in lines(scene) if attempt == 1)
    await asyncio.sleep(max(0.0, began + 3.5 - time.monotonic()))


CASES = (gil_held_10_s, two_processors, zombie)
