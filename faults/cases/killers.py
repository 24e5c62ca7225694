"""An event kills each processor that handles it, alone or among many."""

from collections import Counter

from faults.case import case
from faults.cases.accounts import KILLED, require_ended
from faults.cases.apps import app_of, until_lines
from faults.cases.table import hurried, rows, stored, until_settled
from faults.scene import Scene
from rig.server import on

HELD = "SELECT count(*) FROM hookd.events WHERE status = 'new' AND held_by IS NOT NULL"
KILLS = """\
@hookd.on("*")
async def work(event):
    noted(event)


@hookd.on("killer")
async def kill(event):
    noted(event)
    await asyncio.sleep(1)  # its neighbours are settled meanwhile
    os.kill(os.getpid(), signal.SIGKILL) if event.attempt % 2 else os._exit(7)
"""


@case(
    "A payload kills its processor each time, by a signal and by an exit, until its five attempts are used up",
    caught=("no-suspects", "no-attempts"),
    twice=KILLED,
    seconds_max=90,
)
async def payload_that_kills(scene: Scene) -> None:
    app = app_of(scene, KILLS)
    (killer,) = await stored(scene, 1, "killer")
    await stored(scene, 10)
    for exit_code in (-9, 7):
        async with scene.processor("--app", app, lease_seconds="2", attempts_max="5") as processor:
            await require_ended(processor, exit_code)
    scene.excuse([killer])
    async with scene.processor("--app", app, lease_seconds="2", attempts_max="5") as processor, hurried(scene):
        await until_settled(scene, processor)
        assert await processor.stop() == 0
    row, starts = (await rows(scene))[killer], scene.starts()
    assert row["reason"] == "gave up after 5 attempts: the processor died while handling it", row["reason"]
    assert (row["status"], row["attempts"], starts.pop(killer)) == ("failed", 5, 5), "not after five attempts"
    scene.note("tried alone", sum(line["event"] == "suspect.tried_alone" for line in processor.lines))


KILLS_AMONG_MANY = """\
@hookd.on("*")
async def work(event):
    noted(event)
    await asyncio.sleep(1 + chance(event))


@hookd.on("killer")
async def kill(event):
    noted(event)
    await asyncio.sleep(1.9)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@case(
    "500 rows are claimed together with one that kills, while a tenth of the others are still run",
    caught=("no-suspects",),
    twice=KILLED,
    seconds_max=120,
)
async def one_killer_among_500(scene: Scene) -> None:
    app, place = app_of(scene, KILLS_AMONG_MANY), scene.random.randrange(500)
    await stored(scene, place)
    (killer,) = await stored(scene, 1, "killer")
    await stored(scene, 499 - place)
    options = ("--app", app, "--concurrency", "500")
    async with scene.processor(*options, lease_seconds="3", attempts_max="4") as processor:
        await until_lines(scene, 500)
        scene.note("held together", await on(scene.server, HELD))
        await require_ended(processor, -9)
    await scene.excuse_held()
    async with scene.processor(*options, lease_seconds="3", attempts_max="4") as processor:
        await require_ended(processor, -9)
    await scene.excuse_held()
    async with scene.processor(*options, lease_seconds="3", attempts_max="4") as processor, hurried(scene):
        await until_settled(scene, processor)
        assert await processor.stop() == 0
    found = await rows(scene)
    assert Counter(row["status"] for row in found.values()) == {"processed": 499, "failed": 1}, "a neighbour failed"
    reason = found[killer]["reason"]
    assert reason == "gave up after 4 attempts: the processor died while handling it", reason
    scene.note("tried alone", sum(line["event"] == "suspect.tried_alone" for line in processor.lines))


CASES = (payload_that_kills, one_killer_among_500)
