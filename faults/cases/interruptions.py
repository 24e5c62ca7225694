"""Processors, crons and the database come and go while there is work to do."""

import asyncio
import re

from faults.case import case
from faults.cases.accounts import KILLED, logged_rows, require_ended, total
from faults.cases.apps import TAKES_A_WHILE, app_of, lines, until_lines
from faults.cases.table import SHOP, require_attempts, require_counted, rows, stored, total_of, until_settled
from faults.scene import Scene
from rig.postgres import connected

TAKES_LONGER = TAKES_A_WHILE.replace("0.2", "0.4")


@case(
    "A processor is killed with -9 half a second after each of ten starts, with 2,000 events to do",
    caught=("no-attempts",),
    twice=KILLED,
    seconds_max=150,
)
async def crash_loops(scene: Scene) -> None:
    app = app_of(scene, TAKES_LONGER)
    await stored(scene, 2_000)
    for _ in range(10):
        async with scene.processor("--app", app, lease_seconds="2") as processor:
            await asyncio.sleep(0.5)
            processor.kill()
            await processor.ended()
        await scene.excuse_held()
    async with scene.processor("--app", app, lease_seconds="2") as processor:
        await until_settled(scene, processor, seconds_max=90)
        assert await processor.stop() == 0
    await require_attempts(scene)
    found = await rows(scene)
    assert total_of(found, SHOP, "processed") == 2_000, "an event was given up that killed nobody"
    scene.note("most attempts", max(row["attempts"] for row in found.values()))
    scene.note("tried alone in the end", sum(line["event"] == "suspect.tried_alone" for line in processor.lines))


TAKES_TWO_SECONDS = TAKES_A_WHILE.replace("0.2", "2")


@case(
    "PostgreSQL is frozen, then stopped, for longer than the lease while handlers run; then for less",
    caught=("drop-failed-settles",),
    twice="a lease was lost: the database was away",
    seconds_max=150,
)
async def database_away_while_handlers_run(scene: Scene) -> None:
    app = app_of(scene, TAKES_TWO_SECONDS)
    async with scene.processor("--app", app, lease_seconds="2", poll_seconds="0.5") as processor:
        await stored(scene, 60)
        await until_lines(scene, 60)
        await scene.excuse_held()
        scene.server.freeze()
        try:
            await asyncio.sleep(5)
        finally:
            scene.server.thaw()
        await until_settled(scene, processor)
        begun = len(lines(scene))
        await stored(scene, 60)
        await until_lines(scene, begun + 60)
        await scene.excuse_held()
        await stop_for(scene, 5)
        await until_settled(scene, processor)
        assert await processor.stop() == 0
    await require_counted(scene)
    scene.note("leases lost", logged_rows([processor], "lease.lost"))
    begun, ended = len(lines(scene)), len(lines(scene, "ended"))
    async with scene.processor("--app", app, lease_seconds="60", poll_seconds="0.5") as processor:
        await stored(scene, 60)
        await until_lines(scene, begun + 60)
        await scene.server.stop()
        await until_lines(scene, ended + 60, "ended")
        await scene.server.start()
        await until_settled(scene, processor, seconds_max=20)
        assert await processor.stop() == 0
    await require_counted(scene)


async def stop_for(scene: Scene, seconds: float) -> None:
    await scene.server.stop()
    await asyncio.sleep(seconds)
    await scene.server.start()


TAKES_A_MOMENT = TAKES_A_WHILE.replace("0.2", "0.1")
CRON_RUNS = 5
# Or two claims would hardly ever meet.
SLOWER = """
CREATE FUNCTION public.take_a_while() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END $$;
CREATE TRIGGER take_a_while AFTER UPDATE ON hookd.events FOR EACH STATEMENT EXECUTE FUNCTION public.take_a_while();
"""


@case(
    "Two crons start `hookd processor --once` each second beside a daemon too slow for the load; a claim takes 50 ms",
    caught=("no-lease", "no-skip-locked"),
    seconds_max=120,
)
async def once_beside_daemon(scene: Scene) -> None:
    app = app_of(scene, TAKES_A_MOMENT)
    async with connected(scene.url) as connection:
        await connection.execute(SLOWER)
    async with scene.ingest() as receiver, scene.processor("--app", app, "--concurrency", "4") as daemon:
        load = await scene.load(receiver, senders=4, pause_seconds=0.02)
        async with load.running(), asyncio.TaskGroup() as table:
            crons = [table.create_task(cron(scene, app)) for _ in range(2)]
        await until_settled(scene, daemon)
        assert await daemon.stop() == 0
    summaries = [words for each in crons for words in each.result()]
    by_cron = sum(int(found[1]) for words in summaries if (found := re.search(r"processed=(\d+)", words)))
    settled = by_cron + total(daemon)
    assert settled == len(load.answered), f"{settled} settled by their own account, of {len(load.answered)}"
    await require_counted(scene)
    scene.note("by the daemon", total(daemon))
    scene.note("by cron", by_cron)
    scene.note("skipped", sum("skipped" in words for words in summaries))


async def cron(scene: Scene, app: str) -> list[str]:
    """What each run printed."""
    summaries = []
    for _ in range(CRON_RUNS):
        async with asyncio.TaskGroup() as second:
            second.create_task(asyncio.sleep(1))
            summaries.append(await second.create_task(once(scene, app)))
        assert not scene.twice(), f"{len(scene.twice())} were handled twice, beside each other"
    return summaries


async def once(scene: Scene, app: str) -> str:
    async with scene.hookd("processor", "--app", app, "--once") as process:
        await require_ended(process, 0)
        assert process.process.stdout is not None
        return (await process.process.stdout.read()).decode()


CASES = (crash_loops, database_away_while_handlers_run, once_beside_daemon)
