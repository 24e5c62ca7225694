"""Deliveries come more than once, and forged, while processors that decide whose they are die."""

import asyncio
from collections.abc import Iterator
from typing import Any

from faults.case import case
from faults.cases import deliveries
from faults.cases.accounts import KILLED
from faults.cases.apps import TAKES_A_WHILE, app_of, lines
from faults.cases.deliveries import Sending
from faults.cases.receivers import PATIENCE_SECONDS, load_on, patient, url_of
from faults.cases.table import held_by, require_attempts, require_counted, rows, until_settled
from faults.scene import Scene
from rig.hookd import Hookd
from rig.postgres import connected

DELIVERIES, KILLS = 150, 3


@case(
    "Signed deliveries come two to four times each, and forged; of two processors one is killed with -9, three times",
    caught=("decide-by-heart", "decide-before-judging", "decided-once-and-for-all"),
    twice=KILLED,
    seconds_max=90,
)
async def duplicates_under_kills(scene: Scene) -> None:
    app, key = app_of(scene, TAKES_A_WHILE), await deliveries.register(scene)
    limits: Any = {"lease_seconds": "1", "poll_seconds": "0.2", "secret_key": key}
    processor = ("--app", app, "--concurrency", "4")
    sendings, sent = list(all_sendings(scene)), dict[str, Sending]()
    scene.random.shuffle(sendings)
    async with patient(scene, secret_key=key) as receiver, scene.processor(*processor, **limits) as survivor:
        account = load_on(scene, await url_of(receiver), deliveries.SOURCE)
        for part in range(KILLS):
            async with scene.processor(*processor, **limits) as victim, asyncio.TaskGroup() as beside:
                sending = beside.create_task(deliveries.send(account, sendings[part::KILLS]))
                await until_at_work(scene, victim)
                await asyncio.sleep(scene.random.uniform(0, 0.1))
                victim.kill()
                scene.excuse(await held_at_death(scene, victim))
            sent |= sending.result()
        await until_settled(scene, survivor)
        assert await survivor.stop() == 0
    await require_each_once(scene, sent)
    await require_attempts(scene)
    await require_counted(scene)
    scene.note("forged", sum(each.is_forged for each in sent.values()))
    scene.note("cut off in mid-handler", len(lines(scene)) - len(lines(scene, "ended")))


async def until_at_work(scene: Scene, processor: Hookd) -> None:
    """Until handlers run there."""
    async with connected(scene.url) as connection, asyncio.timeout(PATIENCE_SECONDS):
        while scene.starts().keys().isdisjoint(await held_by(connection, processor.process.pid)):
            await asyncio.sleep(0.01)


async def held_at_death(scene: Scene, killed: Hookd) -> list[str]:
    """By one that was killed just now; its leases have not run out yet."""
    async with connected(scene.url) as connection:
        return await held_by(connection, killed.process.pid)


def all_sendings(scene: Scene) -> Iterator[Sending]:
    for delivery in range(DELIVERIES):
        genuine, forged = scene.random.randint(2, 4), scene.random.randint(0, 2)
        for number in range(genuine + forged):
            yield Sending(delivery, number, is_forged=number >= genuine)


async def require_each_once(scene: Scene, sent: dict[str, Sending]) -> None:
    """Of each delivery one genuine sending was handled, the others say whose copies they are; no forged one counts."""
    table, starts = await rows(scene), scene.starts()
    owners = {
        each.delivery: id_
        for id_, each in sent.items()
        if not each.is_forged and (table[id_]["status"], table[id_]["reason"]) == ("processed", None)
    }
    for id_, each in sent.items():
        row = table[id_]
        ended = (row["status"], row["reason"])
        if each.is_forged:
            assert row["status"] == "failed", f"a forged delivery was {ended}"
            assert row["reason"].startswith("unverified: "), f"a forged delivery failed with {row['reason']}"
        elif owners.get(each.delivery) != id_:
            expected = ("processed", f"duplicate of {owners.get(each.delivery)}")
            assert ended == expected, f"{ended} instead of {expected}"
    assert starts.keys() == set(owners.values()), "others than the owners of their deliveries were handled"
    assert len(owners) == DELIVERIES


CASES = (duplicates_under_kills,)
