"""The receiver is killed, or PostgreSQL is away, while functions run that answer in the request."""

import asyncio
import time

from faults.case import case
from faults.cases.accounts import KILLED, logged_rows
from faults.cases.apps import PREAMBLE, app_of, lines
from faults.cases.receivers import PACE_SECONDS, PATIENCE_SECONDS, load_on, patient, url_of
from faults.cases.table import held_by, require_attempts, require_counted, rows, until_settled
from faults.cases.work import TERMINATE, note_answers, refuses, until_back
from faults.scene import Scene, kill, workers_of
from rig.hookd import Hookd
from rig.load import SOURCE
from rig.postgres import connected

KILLS = 2
REPLIES = """\
@hookd.on("load", reply=True)
async def reply(event):
    noted(event)
    await asyncio.sleep(0.2)
    noted(event, "ended")
    return {"id": str(event.id)}


@hookd.on("thread", reply=True)
def reply_in_a_thread(event):
    noted(event)
    time.sleep(0.2)
    noted(event, "ended")
    return {"id": str(event.id)}
"""


@case(
    "A receiver's worker is killed with -9 while its functions answer in the request, twice, beside a processor",
    caught=("reply-before-the-row", "born-without-a-lease"),
    twice=KILLED,
    seconds_max=90,
)
async def killed_while_replying(scene: Scene) -> None:
    app = app_of(scene, REPLIES)
    async with (
        patient(scene, "--app", app, "--workers", "2", lease_seconds="3", reply_seconds="20") as receiver,
        scene.processor("--app", app, lease_seconds="3", poll_seconds="0.2") as processor,
    ):
        await receiver.logged("ingest.listening", 2)
        url = await url_of(receiver)
        load, in_threads = (load_on(scene, url, source, PACE_SECONDS) for source in (SOURCE, "thread"))
        held: dict[str, float] = {}
        async with load.running(), in_threads.running():
            for number in range(KILLS):
                await load.more(60)
                held |= await kill_in_mid_function(scene, receiver)
                await receiver.logged("ingest.listening", 3 + number)
            await load.more(60)
        assert {*load.statuses, *in_threads.statuses} == {200}, "what was not cut was not answered with 200"
        assert await receiver.stop() == 0, "the supervisor did not exit with 0"
        await until_settled(scene, processor)
        assert await processor.stop() == 0
    scene.excuse(held)
    require_runs_after(scene, held)
    await require_attempts(scene)
    await require_counted(scene)
    scene.note("POSTs cut", load.cut + in_threads.cut)
    scene.note("cut off in mid-function", len(lines(scene)) - len(lines(scene, "ended")))


async def kill_in_mid_function(scene: Scene, receiver: Hookd) -> dict[str, float]:
    """Kill a worker that runs some; what it held then, with the time of its death."""
    async with connected(scene.url) as connection, asyncio.timeout(PATIENCE_SECONDS):
        while True:
            for pid in workers_of(receiver):
                if await held_by(connection, pid):
                    kill(pid)
                    return dict.fromkeys(await held_by(connection, pid), time.monotonic())


def require_runs_after(scene: Scene, held: dict[str, float]) -> None:
    """What a worker held when it died was not run again before its death."""
    last = {each: at for each, _, at in lines(scene)}
    twice = {each for each, count in scene.starts().items() if count > 1}
    assert twice, "nothing was cut off"
    assert all(last[each] > held[each] for each in twice & held.keys()), "a function ran beside itself"


REPLIES_OR_NOT = """\
@hookd.on("*", reply=True)
async def reply(event):
    noted(event)
    await asyncio.sleep(0.2)
    if chance(event) < 0.5:
        noted(event, "rejected")
        raise hookd.Reject("not this one")
    noted(event, "ended")
    return {"id": str(event.id)}
"""


@case(
    "PostgreSQL is stopped for 3 s, killed with -9, and its backends terminated, while functions answer in the request",
    caught=("forget-what-was-answered", "settle-late-as-processed"),
    seconds_max=90,
)
async def reply_database_away(scene: Scene) -> None:
    scene.app.write_text(PREAMBLE + REPLIES_OR_NOT)
    ingest = scene.ingest("--app", str(scene.app), reply_seconds="10")  # no run is too late for its sender
    async with ingest as receiver, scene.processor() as processor:
        load = await scene.load(receiver, pause_seconds=0.05, timeout_seconds=20)
        async with load.running():
            await load.more(50)
            await until_functions_run(scene)
            await scene.server.stop()
            await asyncio.sleep(3)
            await scene.server.start()
            refuses(load, 8)
            await until_back(scene, load)
            await until_functions_run(scene)
            scene.server.kill()
            await scene.server.start()
            await until_back(scene, load, " (from its crash)")
            async with connected(scene.url) as connection:
                for _ in range(4):
                    await until_functions_run(scene)
                    await connection.fetchval(TERMINATE)
            await until_back(scene, load, " (terminated)")
        note_answers(scene, load)
        assert (await receiver.stop(), await processor.stop()) == (0, 0)
    delayed = logged_rows([receiver], "settle.delayed")
    assert delayed, "no function ended while PostgreSQL was away"
    scene.note("settles tried again", delayed)
    await scene.settle_all()  # what was answered with 503 may be there all the same, held until its lease ends
    await require_settled_as_they_ran(scene)
    await require_counted(scene)


async def until_functions_run(scene: Scene) -> None:
    """Several at once, which have just begun."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(lines(scene)) - len(lines(scene, "ended")) - len(lines(scene, "rejected")) < 4:
            await asyncio.sleep(0.01)


async def require_settled_as_they_ran(scene: Scene) -> None:
    """Each row says what its last run came to."""
    came_to = {(each, attempt): name for name in ("ended", "rejected") for each, attempt, _ in lines(scene, name)}
    said = {"processed": "ended", "failed": "rejected"}
    wrong = [
        row for each, row in (await rows(scene)).items() if came_to.get((each, row["attempts"])) != said[row["status"]]
    ]
    assert not wrong, f"{len(wrong)} were settled as they did not run"


CASES = (killed_while_replying, reply_database_away)
