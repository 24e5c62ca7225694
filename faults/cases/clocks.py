"""The clocks of receiver, processor and PostgreSQL differ."""

from faults.case import case
from faults.cases.work import note_answers, slow_handlers
from faults.scene import Scene
from rig.interpose import wrong_clock
from rig.server import on


@case(
    "the receiver's clock is an hour fast and the processor's an hour slow",
    caught=("trust-the-own-clock", "no-lease"),
)
async def clocks_an_hour_apart(scene: Scene) -> None:
    slow_handlers(scene, 0.5)
    began = await on(scene.server, "SELECT now()")
    fast, slow = wrong_clock(scene.folder, 3600), wrong_clock(scene.folder, -3600)
    async with scene.ingest(environment=fast) as receiver, scene.processor(environment=slow) as processor:
        load = await scene.load(receiver, pause_seconds=0.05)
        async with load.running():
            await load.more(500)
        note_answers(scene, load)
        assert await processor.stop() == 0
    await scene.settle_all()
    wrong = await on(
        scene.server,
        "SELECT count(*) FROM hookd.events WHERE received_at NOT BETWEEN $1 AND now()"
        " OR left(id::text, 13) <> left(hookd.uuid_at(received_at)::text, 13)",
        began,
    )
    assert not wrong, f"{wrong} events were received at a time that never was"


CASES = (clocks_an_hour_apart,)
