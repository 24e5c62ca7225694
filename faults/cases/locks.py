"""Days are made and dropped, and the table is altered, beside readers and under load: no request may wait."""

import asyncio
import contextlib
import time

from faults.case import case
from faults.cases.partitions import day_name, has_day, patiently
from faults.cases.work import at_work, note_answers
from faults.scene import Scene
from migrations.revisions import known
from rig.postgres import connected
from rig.server import on


@case(
    "a reader holds its snapshot, and with it a lock on every day, while days are made and dropped",
    caught=("wait-for-locks",),
    seconds_max=90,
)
async def reader_holds_its_snapshot(scene: Scene) -> None:
    old, ahead = await day_name(scene, -40), await day_name(scene, 13)
    await add_old_day(scene, 40)
    await patiently(scene, f"DROP TABLE hookd.events_{ahead}, hookd.attempts_{ahead}")
    async with connected(scene.url) as reader:
        reading = reader.transaction(isolation="repeatable_read")
        await reading.start()
        await reader.fetchval("SELECT count(*) FROM hookd.events")
        async with at_work(scene, commit_timeout_seconds=5) as (load, _, processor):
            assert not load.statuses[503], "requests waited behind the reader"
            await processor.logged("maintenance.blocked")
            assert await has_day(scene, old), "a day was dropped under its reader"
            assert await has_day(scene, ahead), "no day was made"
            await reading.rollback()
            await load.more(100)
        assert not load.statuses[503], "requests waited behind the reader"
    await until_dropped(scene, old)


async def until_dropped(scene: Scene, *days: str) -> None:
    """By the maintenance that a processor begins with."""
    async with scene.processor():
        async with asyncio.timeout(30):
            while any([await has_day(scene, day) for day in days]):
                await asyncio.sleep(0.1)


async def add_old_day(scene: Scene, days_ago: int, *, status: str = "processed", rows: int = 1) -> None:
    """With events that are settled or (parked) new."""
    async with connected(scene.url, timezone="UTC") as connection:
        await connection.execute("SELECT hookd.add_day(current_date - $1::int)", days_ago)
        await connection.execute(
            "INSERT INTO hookd.events (id, status, source, received_at, finished_at, due_at, reason,"
            " method, target, headers, payload) "
            "SELECT hookd.uuid_at(at), $2, 'old', at, CASE WHEN $2 <> 'new' THEN at END, 'infinity', 'made so',"
            " 'POST', '/old', '[]', '' FROM (SELECT current_date - $1::int + number * interval '1 second'"
            " FROM generate_series(1, $3::int) AS numbers(number)) AS times(at)",
            days_ago,
            status,
            rows,
        )


@case(
    "five days that are over are dropped under full load, and one is kept that holds an event still new",
    caught=("drop-days-with-new-events",),
    seconds_max=120,
)
async def retention_under_full_load(scene: Scene) -> None:
    for days_ago in range(41, 46):
        await add_old_day(scene, days_ago, rows=20_000)
    await add_old_day(scene, 40, status="new")
    over = [await day_name(scene, -days_ago) for days_ago in range(41, 46)]
    async with scene.ingest(commit_timeout_seconds="5") as receiver, contextlib.AsyncExitStack() as later:
        load = await scene.load(receiver, senders=64, timeout_seconds=20)
        async with load.running():
            await load.more(1000)
            began, before = time.monotonic(), len(load.answered)
            processor = await later.enter_async_context(scene.processor())
            async with asyncio.timeout(60):
                while any([await has_day(scene, day) for day in over]):
                    await asyncio.sleep(0.1)
            took = time.monotonic() - began
            scene.note("five days of 20,000 events dropped after", f"{took:.1f} s")
            scene.note("stored meanwhile", f"{(len(load.answered) - before) / took:,.0f} a second")
            await load.more(1000)
        note_answers(scene, load)
        assert not load.statuses[503], "requests waited for the days to be dropped"
        await on(scene.server, "UPDATE hookd.events SET due_at = now() WHERE status = 'new' AND source = 'old'")
        await scene.until_settled()
        assert await processor.stop() == 0
    became = await on(scene.server, "SELECT status FROM hookd.events WHERE source = 'old'")
    assert became == "processed", "an event still new was lost with its day"


STEP_BACK = "UPDATE hookd.schema_version SET version_num = $1 RETURNING version_num"
THERE = "SELECT version_num FROM hookd.schema_version"


@case(
    "hookd migrate brings the latest revision five times, and a column is added as a later one might, under load",
    caught=("migrate-under-a-lock",),
    seconds_max=120,
)
async def migration_under_load(scene: Scene) -> None:
    *_, before, last = known()
    async with at_work(scene, senders=16, commit_timeout_seconds=5) as (load, _, _):
        for number in range(5):
            await on(scene.server, STEP_BACK, before)  # what the last one brings may be brought again
            async with scene.hookd("migrate") as migrating:
                assert await migrating.ended() == 0
            assert await on(scene.server, THERE) == last, "the revision was not brought"
            await patiently(scene, f"ALTER TABLE hookd.events ADD COLUMN later_{number} text")
            await load.more(50)
            assert not load.statuses[503], "requests waited for a migration"


CASES = (reader_holds_its_snapshot, retention_under_full_load, migration_under_load)
