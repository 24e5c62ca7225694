"""Handlers hang, and leave threads behind that nothing can cancel."""

import asyncio
import re
from typing import Any

from faults.case import case
from faults.cases.accounts import require_ended
from faults.cases.apps import app_of, lines
from faults.cases.table import (
    PATIENCE_SECONDS,
    SHOP,
    hurried,
    require_handed_back,
    rows,
    stored,
    total_of,
    until_settled,
)
from faults.scene import Scene

HANGS = """\
@hookd.on("*")
async def work(event):
    noted(event)


@hookd.on("hangs")
async def hang(event):
    noted(event)
    await asyncio.sleep(3600)


@hookd.on("thread")
def hang_in_a_thread(event):
    noted(event)
    time.sleep(5)
    noted(event, "ended")
"""


@case(
    "Handlers hang: coroutines for an hour, threads for longer than their time-out and their lease together",
    caught=("ignore-timeouts", "no-renewal"),
    twice="a run was cut off by its time-out",
)
async def handler_hangs(scene: Scene) -> None:
    app = app_of(scene, HANGS)
    ids = await stored(scene, 9, "hangs", "thread", SHOP)
    scene.excuse(each for number, each in enumerate(ids) if number % 3 < 2)
    limits: Any = {"handler_timeout_seconds": "1", "lease_seconds": "2", "attempts_max": "2"}
    async with scene.processor("--app", app, **limits) as processor, hurried(scene):
        await until_settled(scene, processor, seconds_max=30)
        assert await processor.stop() == 0
    for row in (await rows(scene)).values():
        reason = "" if row["source"] == SHOP else row["reason"]
        assert re.fullmatch(r"|gave up after 2 attempts: timed out after [\d.]+ s", reason), reason
        assert row["attempts"] == (1 if row["source"] == SHOP else 2), f"{row['attempts']} attempts"
    ended = {(each, attempt): at for each, attempt, at in lines(scene, "ended")}
    begun = {(each, attempt): at for each, attempt, at in lines(scene) if attempt == 2 and (each, 1) in ended}
    assert len(begun) == 3, "a thread was not tried again"
    assert all(at >= ended[each, 1] for (each, _), at in begun.items()), "a thread ran beside its own retry"
    scene.note("shortest time from a thread's end to its retry", f"{min(_gaps(begun, ended)):.2f} s")


def _gaps(begun: dict[tuple[str, int], float], ended: dict[tuple[str, int], float]) -> list[float]:
    return [at - ended[each, 1] for (each, _), at in begun.items()]


LEAKS = """\
@hookd.on("*")
async def work(event):
    noted(event)


@hookd.on("leak")
def leak(event):
    noted(event)
    while not os.path.exists(os.path.join(HERE, "healed")):
        time.sleep(0.2)
"""


@case(
    "Eight handlers never end, each in a thread that nothing can cancel; four are more than may be stuck",
    caught=("ignore-timeouts", "never-stuck"),
    twice="a run was cut off by a shutdown",
    seconds_max=90,
)
async def threads_leak(scene: Scene) -> None:
    app = app_of(scene, LEAKS)
    scene.excuse(await stored(scene, 8, "leak"))
    await stored(scene, 200)
    limits: Any = {"handler_timeout_seconds": "1", "stuck_threads_max": "4"}
    for _ in range(2):
        async with scene.processor("--app", app, "--concurrency", "8", **limits) as leaking:
            await require_ended(leaking, 1)
            await leaking.logged("processor.stuck")
        await require_handed_back(scene)
    async with scene.processor("--app", app, "--concurrency", "16", stuck_threads_max="16") as patient:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while total_of(await rows(scene), SHOP, "processed") < 200:
                await asyncio.sleep(0.1)
        (scene.folder / "healed").touch()
        async with hurried(scene):  # what hung has had its attempts, and waits
            await until_settled(scene, patient)
        assert await patient.stop() == 0
    scene.note("ended with 1 and were started again", 2)


CASES = (handler_hangs, threads_leak)
