"""PostgreSQL dies, vanishes, is slow, full, read-only or far away."""

import asyncio

from faults.case import case
from faults.scene import Scene


@case(
    "PostgreSQL is killed with -9 under load, three times, and recovers from its crash",
    caught=("answer-before-commit", "never-connect-again"),
    twice="a lease was lost: the database was away",
    is_short=True,
)
async def postgres_killed(scene: Scene) -> None:
    async with scene.ingest() as receiver, scene.processor(lease_seconds="3"):
        load = await scene.load(receiver)
        async with load.running():
            for _ in range(3):
                await load.more(300)
                scene.server.kill()
                await asyncio.sleep(scene.random.uniform(0, 1))
                await scene.server.start()
            await load.more(300)
    await scene.settle_all()


CASES = (postgres_killed,)
