"""A processor is killed, or told to leave, while its handlers run."""

from typing import Any

from faults.case import case
from faults.cases.accounts import KILLED, total
from faults.cases.apps import TAKES_A_WHILE, app_of, cut_off, lines, until_lines
from faults.cases.table import SHOP, require_attempts, require_counted, require_handed_back, stored, until_settled
from faults.scene import Scene


@case(
    "A processor is killed with -9 in mid-handler, three times",
    caught=("no-attempts", "leave-the-dead", "process-without-handling"),
    twice=KILLED,
)
async def processor_killed(scene: Scene) -> None:
    app, cut = app_of(scene, TAKES_A_WHILE), 0
    await stored(scene, 120)
    for _ in range(3):
        async with scene.processor("--app", app, "--concurrency", "8", lease_seconds="1") as processor:
            await until_lines(scene, len(lines(scene)) + scene.random.randint(9, 20))
            processor.kill()
            await processor.ended()
        await scene.excuse_held()
        cut = len(lines(scene)) - len(lines(scene, "ended"))
    async with scene.processor("--app", app, "--concurrency", "8", lease_seconds="1") as processor:
        await until_settled(scene, processor, seconds_max=30)
        assert await processor.stop() == 0
    await require_attempts(scene)
    scene.note("cut off in mid-handler", cut)


AS_LONG_AS_TOLD = """\
SECONDS = float(os.environ["SECONDS"])


@hookd.on("*")
async def work(event):
    noted(event)
    await asyncio.sleep(SECONDS)
    noted(event, "ended")


@hookd.on("thread")
def work_in_a_thread(event):
    noted(event)
    time.sleep(SECONDS)
    noted(event, "ended")
"""


@case(
    "A processor gets SIGTERM: idle, while handlers run that end within the grace, that do not, and twice",
    caught=("forget-to-hand-back", "count-what-is-handed-back"),
    twice="a run was cut off by a shutdown",
)
async def processor_terminated(scene: Scene) -> None:
    app = app_of(scene, AS_LONG_AS_TOLD)

    def processor(seconds: float, grace_seconds: float) -> Any:
        options, environment = ("--app", app, "--concurrency", "8"), {"SECONDS": str(seconds)}
        return scene.processor(*options, environment=environment, grace_seconds=str(grace_seconds))

    async with processor(0, 20) as idle:
        assert await idle.stop() == 0, "idle"
    await stored(scene, 24, SHOP, "thread")
    async with processor(2, 20) as patient:
        await until_lines(scene, 8)
        assert await patient.stop() == 0, "within the grace"
    assert len(lines(scene)) == len(lines(scene, "ended")) == total(patient), "a handler was cut off within the grace"
    await require_handed_back(scene)
    async with processor(600, 0.5) as hasty:
        await until_lines(scene, len(lines(scene)) + 8)
        assert await hasty.stop() == 0, "beyond the grace"
    scene.excuse(cut_off(scene))
    await require_handed_back(scene)
    async with processor(600, 600) as told_twice:
        await until_lines(scene, len(lines(scene)) + 8)
        told_twice.process.terminate()
        await told_twice.logged("processor.stopping")
        assert await told_twice.stop() == 0, "told twice"
    scene.excuse(cut_off(scene))
    await require_handed_back(scene)
    async with processor(0, 20) as last:
        await until_settled(scene, last)
        assert await last.stop() == 0
    await require_counted(scene)
    scene.note("handed back", sum(total(each, "handed_back") for each in (patient, hasty, told_twice)))


CASES = (processor_killed, processor_terminated)
