"""A settle comes twice, or for a row that is no longer its sender's."""

from faults.case import case
from faults.cases.apps import app_of
from faults.cases.table import require_counted, rows, stored
from faults.scene import Scene

# An app that settles by itself while it is imported: so it runs in a hookd that may be sabotaged.
DRIVES_THE_STORE = """\
import subprocess, sys
from chassis.database import Database
from processor.holding.store import Renewer
from processor.outcome import PROCESSED, Outcome
from processor.settling.store import Settlement
from processor.store import Store

OUTCOMES = (PROCESSED, Outcome("failed", "rejected"), Outcome("new", "again", 3600))
MIB = 1024 * 1024


def settlements(held):
    return [Settlement(each, OUTCOMES[n % 3], n % 3 > 0, "shop") for n, each in enumerate(held)]


async def drive():
    database = Database(os.environ["HOOKD_DATABASE_URL"])
    store, renewer = Store(database, "driver", lease_seconds=60), Renewer(database, lease_seconds=60)

    async def claim(count):
        held = await store.queue.claim(count, 64 * MIB, None, time.monotonic)
        with open(os.path.join(HERE, "handled"), "a") as file:
            file.writelines(f"{each.id} {each.row['attempts']} 0\\n" for each in held)
        return held

    async def settles(held, count, when):
        settled = len(await store.results.settle(settlements(held), lane=count % 2))
        assert settled == count, f"{when}: {settled} rows settled instead of {count}"

    held = await claim(10)
    await settles(held, 10, "the first time")
    await settles(held, 0, "sent twice")

    held = await claim(10)
    assert len(await renewer.renew(held)) == 10, "not renewed"
    await settles(held, 10, "after a renewal")
    await settles(held, 0, "sent twice after a renewal")
    assert not await renewer.renew(held), "renewed after the settle"

    held = await claim(10)
    await settles(held, 10, "the first time")
    with open(os.path.join(HERE, "replayed"), "w") as file:
        file.writelines(f"{each.id}\\n" for each in held)
    command = [sys.executable, "-P", "-m", "hookd", "replay", *(str(each.id) for each in held)]
    subprocess.run(command, check=True, capture_output=True)
    await settles(held, 0, "after a replay")
    again = await claim(10)
    assert len(again) == 7, f"{len(again)} were replayed"
    await settles(held, 0, "after a replay and a claim")
    await settles(again, 7, "by its new holder")
    await settles(held, 0, "after its new holder")
    await renewer.close()
    await store.close()


@hookd.on("*")
async def work(event):
    noted(event)


asyncio.run(drive())
"""


@case(
    "A settle is sent twice, after a renewal, after a replay, and after its row was claimed anew",
    caught=("no-fence",),
    twice="it was replayed, or another attempt was asked for",
)
async def settle_sent_twice(scene: Scene) -> None:
    app = app_of(scene, DRIVES_THE_STORE)
    await stored(scene, 30)
    async with scene.hookd("processor", "--app", app, "--once") as driver:
        code = await driver.ended()
        assert code == 0, [line.get("text") for line in driver.lines][-1:]
    await require_counted(scene)
    scene.excuse((scene.folder / "replayed").read_text().split())
    scene.excuse(each for each, row in (await rows(scene)).items() if row["reason"] == "again")
    await scene.settle_all()
    await require_counted(scene)


CASES = (settle_sent_twice,)
