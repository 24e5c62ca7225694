"""Processes, backends and PostgreSQL die while handlers write in their events' own transactions."""

import asyncio
import signal
from typing import Any

from faults.case import case
from faults.cases.accounts import total
from faults.cases.apps import PREAMBLE, app_of, lines, until_lines
from faults.cases.ledger import balanced, make_ledger, require_balanced
from faults.cases.table import require_attempts, require_counted, rows, stored, until_settled
from faults.cases.work import TERMINATE
from faults.scene import Scene
from rig.postgres import connected

BOOKS = """\
import asyncpg


@hookd.on("*")
async def book(event, conn: asyncpg.Connection):
    noted(event)
    await conn.execute("INSERT INTO public.ledger VALUES ($1, $2)", event.id, event.attempt)
    await asyncio.sleep(0.1)
    noted(event, "ended")
    if chance(event) < 0.1:
        noted(event, "again")
        raise hookd.Retry("not yet", after=0)
    if chance(event) > 0.9:
        raise hookd.Reject("never")
"""


@case(
    "A processor is killed with -9, twice, then PostgreSQL, then each backend, amid handlers' own transactions",
    caught=("settle-outside-the-transaction", "commit-what-failed"),
    twice="a process was killed, another attempt was asked for, or the database was away",
    seconds_max=90,
)
async def killed_in_a_transaction(scene: Scene) -> None:
    scene.app.write_text(PREAMBLE + BOOKS)
    await make_ledger(scene)
    async with scene.ingest(commit_timeout_seconds="10") as receiver, balanced(scene):
        load = await scene.load(receiver, senders=2, pause_seconds=0.05, timeout_seconds=20)
        async with load.running():
            for _ in range(2):
                async with scene.processor() as processor:
                    await more_runs(scene)
                    processor.kill()
                    await processor.ended()
                await scene.excuse_held()
            async with scene.processor() as processor:
                await more_runs(scene)
                scene.server.kill()
                await scene.server.start()
                await scene.excuse_held()
                await more_runs(scene)
                scene.note("backends terminated", await terminate(scene))
                await more_runs(scene)
                assert await processor.stop() == 0
        assert set(load.statuses) <= {200, 503}, load.statuses
        await scene.settle_all()  # what the killed ones held, too
    scene.excuse(each for each, _, _ in lines(scene, "again"))
    await require_balanced(scene)
    await require_counted(scene)
    scene.note("cut off in mid-transaction", len(lines(scene)) - len(lines(scene, "ended")))


async def more_runs(scene: Scene) -> None:
    await until_lines(scene, len(lines(scene)) + scene.random.randint(20, 40))


async def terminate(scene: Scene) -> int:
    """Every backend of hookd's, eight times; how many that were."""
    ended = 0
    async with connected(scene.url) as connection:
        for _ in range(8):
            await asyncio.sleep(0.2)
            await scene.excuse_held()
            ended += await connection.fetchval(TERMINATE)
            await scene.excuse_held()
    return ended


BOOKS_SLOWLY = """\
import asyncpg


@hookd.on("*")
async def book(event, conn: asyncpg.Connection):
    noted(event)
    await conn.execute("INSERT INTO public.ledger VALUES ($1, $2)", event.id, event.attempt)
    noted(event, "booked")
    await asyncio.sleep(4 if event.attempt == 1 else 2 * chance(event))
"""


@case(
    "A processor is frozen in mid-transaction; another takes over when the leases end; it thaws before that is done",
    caught=("commit-what-is-anothers",),
    twice="a lease was lost: its holder was frozen for longer",
)
async def transaction_loses_its_lease(scene: Scene) -> None:
    app = app_of(scene, BOOKS_SLOWLY)
    await make_ledger(scene)
    await stored(scene, 10)
    limits: Any = {"lease_seconds": "4", "handler_connections": "10", "transaction_timeout_seconds": "60"}
    async with (
        scene.processor("--app", app, **limits) as frozen,
        scene.processor("--app", app, poll_seconds="3600", **limits) as heir,
        balanced(scene),
    ):
        await until_lines(scene, 10, "booked")
        await scene.excuse_held()
        frozen.process.send_signal(signal.SIGSTOP)
        await until_processed(scene, 5)
        frozen.process.send_signal(signal.SIGCONT)
        await until_settled(scene, heir)
        assert (await frozen.stop(), await heir.stop()) == (0, 0)
    await require_balanced(scene)
    await require_attempts(scene)
    await require_counted(scene)
    assert (total(frozen), total(heir)) == (0, 10), "what was rolled back was counted"
    rolled_back = sum(line["event"] == "transaction.rolled_back" for line in frozen.lines)
    scene.note("rolled back at their own settle", rolled_back)


async def until_processed(scene: Scene, count: int) -> None:
    async with asyncio.timeout(30):
        while sum(row["status"] == "processed" for row in (await rows(scene)).values()) < count:
            await asyncio.sleep(0.05)


CASES = (killed_in_a_transaction, transaction_loses_its_lease)
