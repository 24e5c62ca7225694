"""A day has no partition, or one of which the planner knows only that it was empty."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import asyncpg

from faults.case import case
from faults.cases.partitions import day_name, has_day, patiently
from faults.cases.work import BACK_SECONDS_MAX, note_answers
from faults.scene import Scene
from rig.interpose import wrong_clock
from rig.load import Load
from rig.postgres import connected


@case(
    "the partitions of today and tomorrow vanish under load",
    caught=("never-make-a-day",),
)
async def no_partition_for_today_or_tomorrow(scene: Scene) -> None:
    """What was in today's is put back before the check: it was the operator who took it away."""
    today, tomorrow = [await day_name(scene, ahead) for ahead in (0, 1)]
    async with scene.ingest() as receiver:
        load = await scene.load(receiver, pause_seconds=0.02)
        async with load.running():
            await load.more(100)
            await patiently(
                scene,
                f"ALTER TABLE hookd.events DETACH PARTITION hookd.events_{today}",
                f"ALTER TABLE hookd.events_{today} RENAME TO set_aside",
                f"DROP TABLE hookd.attempts_{today}, hookd.events_{tomorrow}, hookd.attempts_{tomorrow}",
            )
            await until_received_again(scene, load)
        note_answers(scene, load)
        made = await receiver.logged("day.made")
    scene.note("made by the receiver", made["day"])
    async with connected(scene.url) as connection:
        await connection.execute("INSERT INTO hookd.events SELECT * FROM hookd.set_aside; DROP TABLE hookd.set_aside")
    await scene.settle_all()
    assert await has_day(scene, tomorrow), "the processor did not make tomorrow"


async def until_received_again(scene: Scene, load: Load) -> None:
    began = time.monotonic()
    await load.more(1, BACK_SECONDS_MAX)
    scene.note("received again after", f"{time.monotonic() - began:.1f} s")
    await load.more(100)


@case(
    "midnight comes, to a partition that was analysed while it was empty: no statement may scan it",
    caught=("let-the-planner-choose",),
    seconds_max=90,
)
async def midnight_with_an_empty_analysed_partition(scene: Scene) -> None:
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    await scene.server.stop()
    scene.server.environment = wrong_clock(scene.folder, (midnight - now).total_seconds() - 12)
    await scene.server.start()
    part = f"events_{await day_name(scene, 1)}"
    async with connected(scene.url) as connection:
        await connection.execute(f"ANALYZE hookd.{part}")
    before = await scans_of(scene, part)
    async with scene.ingest() as receiver, scene.processor() as processor:
        load = await scene.load(receiver, pause_seconds=0.05)
        async with load.running():
            await load.more(100)
            async with asyncio.timeout(30), connected(scene.url) as connection:
                while await connection.fetchval("SELECT now() <= $1", midnight):
                    await asyncio.sleep(0.1)
            await load.more(500)
        note_answers(scene, load)
        assert await processor.stop() == 0
    after = await scans_of(scene, part)
    scene.note("sequential scans of the new day", after["seq_scan"] - before["seq_scan"])
    scene.note("index scans of it", f"{after['idx_scan'] - before['idx_scan']:,}")
    scene.note("rows in it", f"{after['n_tup_ins']:,}")
    assert after["n_tup_ins"] >= 100
    assert after["seq_scan"] == before["seq_scan"], "the new day was scanned"
    await scene.settle_all()


async def scans_of(scene: Scene, part: str) -> asyncpg.Record:
    await asyncio.sleep(1)  # backends that have just left still write their numbers
    async with connected(scene.url) as connection:
        (record,) = await connection.fetch(
            "SELECT seq_scan, coalesce(idx_scan, 0) AS idx_scan, n_tup_ins FROM pg_stat_user_tables "
            "WHERE schemaname = 'hookd' AND relname = $1",
            part,
        )
    return record


CASES = (no_partition_for_today_or_tomorrow, midnight_with_an_empty_analysed_partition)
