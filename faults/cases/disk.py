"""PostgreSQL's disk is full, or slow."""

import asyncio
import time
from contextlib import suppress

import asyncpg

from faults.case import case
from faults.cases.work import at_work, refuses, until_back
from faults.scene import Scene
from rig.interpose import Disk
from rig.load import Load
from rig.server import on

SEGMENTS = 20  # of PostgreSQL's log: more than it has made ahead


@case(
    "PostgreSQL's disk is full, first for its tables, then for its log too (it ends itself), and has room again",
    caught=("forget-what-was-answered",),
    seconds_max=120,
)
async def disk_full(scene: Scene) -> None:
    disk = disk_of(scene)
    async with at_work(scene) as (load, _, _):
        disk.full()
        async with asyncio.timeout(30):
            while load.statuses[503] < 16:
                await asyncio.sleep(0.05)
        disk.full(False)
        await until_back(scene, load, " (with room for tables)")
        disk.full()
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            for _ in range(SEGMENTS):
                await on(scene.server, "SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal()")
        await asyncio.sleep(4)
        scene.note("PostgreSQL ended itself", not scene.server.runs)
        disk.full(False)
        await revive(scene)
        await until_back(scene, load, " (with room for its log)")


async def revive(scene: Scene) -> None:
    """PostgreSQL, whether it has ended, is about to, or recovers by itself."""
    try:
        await scene.server.until_ready()
    except RuntimeError:
        await scene.server.start()


def disk_of(scene: Scene) -> Disk:
    assert scene.server.disk is not None, "there is no C compiler"
    return scene.server.disk


async def on_a_slow_disk(scene: Scene, seconds: float, count: int) -> Load:
    """So many events received while each fsync takes so much longer, and some after it."""
    disk = disk_of(scene)
    async with at_work(scene) as (load, _, _):
        disk.slow(seconds)
        began, answered = time.monotonic(), len(load.answered)
        while len(load.answered) < answered + count and time.monotonic() < began + 15:
            await asyncio.sleep(0.05)
        scene.note("received slowly", f"{len(load.answered) - answered:,} in {time.monotonic() - began:.1f} s")
        disk.slow(0)
        await until_back(scene, load)
    return load


@case("each fsync takes 2 ms longer", caught=("tidy-bodies",))
async def slow_disk_2ms(scene: Scene) -> None:
    await on_a_slow_disk(scene, 0.002, 500)


@case("each fsync takes 50 ms longer", caught=("tidy-bodies",))
async def slow_disk_50ms(scene: Scene) -> None:
    await on_a_slow_disk(scene, 0.05, 300)


@case("each fsync takes 2 s longer: as long as a commit may", caught=("forget-what-was-answered",), seconds_max=120)
async def slow_disk_2s(scene: Scene) -> None:
    refuses(await on_a_slow_disk(scene, 2, 300), 8)


CASES = (disk_full, slow_disk_2ms, slow_disk_50ms, slow_disk_2s)
