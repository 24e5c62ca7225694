"""PostgreSQL is killed, stopped, restarted, takes no connection, or no writes."""

import asyncio
import urllib.error
import urllib.request
from contextlib import AsyncExitStack, suppress

import asyncpg

from faults.case import case
from faults.cases.work import BACK_SECONDS_MAX, TERMINATE, at_work, refuses, slow_handlers, until_back
from faults.scene import Scene
from rig.postgres import connected

AWAY = "a lease was lost: the database was away"


@case(
    "PostgreSQL is killed with -9 under load, three times, and recovers from its crash",
    caught=("answer-before-commit", "never-connect-again"),
    twice=AWAY,
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
                await scene.excuse_held()
            await load.more(300)
    await scene.settle_all()


@case(
    "PostgreSQL is stopped for 10 s and started again",
    caught=("forget-what-was-answered",),
    seconds_max=90,
)
async def postgres_stopped(scene: Scene) -> None:
    slow_handlers(scene, 0.3)
    async with at_work(scene) as (load, _, _):
        await scene.server.stop()
        await asyncio.sleep(10)
        await scene.server.start()
        refuses(load, 8)
        await until_back(scene, load)


@case(
    "PostgreSQL is restarted every second, six times",
    caught=("drop-failed-settles",),
    seconds_max=90,
)
async def postgres_restarted_every_second(scene: Scene) -> None:
    slow_handlers(scene, 0.3)
    async with at_work(scene) as (load, _, _):
        for _ in range(6):
            await asyncio.sleep(1)
            await scene.server.stop()
            await scene.server.start()
        await until_back(scene, load)


@case(
    "others hold all connections PostgreSQL allows, and hookd's are ended; 4 s later they are free again",
    caught=("forget-what-was-answered",),
    seconds_max=90,
)
async def refusing_connections(scene: Scene) -> None:
    allowed = 20
    await scene.server.stop()
    await scene.server.start(max_connections=str(allowed), superuser_reserved_connections="0")
    async with at_work(scene) as (load, _, _):
        async with AsyncExitStack() as others:
            first = await others.enter_async_context(connected(scene.url))
            held = 1
            while held < allowed:
                await first.fetchval(TERMINATE)
                with suppress(asyncpg.TooManyConnectionsError):  # hookd was quicker: it is ended again
                    await others.enter_async_context(connected(scene.url))
                    held += 1
            await asyncio.sleep(4)
        refuses(load, 8)
        await until_back(scene, load)


@case(
    "PostgreSQL becomes read-only, as a standby after a fail-over, and 4 s later writable again",
    caught=("forget-what-was-answered", "ready-whatever-happens"),
    seconds_max=90,
)
async def read_only(scene: Scene) -> None:
    async with at_work(scene) as (load, receiver, _):
        url = (await receiver.logged("ingest.listening"))["url"]
        assert await status_of(f"{url}/-/ready") == 200
        await let_write(scene, False)
        await asyncio.sleep(4)
        assert await status_of(f"{url}/-/ready") == 503, "it says it is ready, and cannot write"
        await let_write(scene, True)
        refuses(load, 8)
        await until_back(scene, load)
        async with asyncio.timeout(BACK_SECONDS_MAX):
            while await status_of(f"{url}/-/ready") != 200:
                await asyncio.sleep(0.1)


async def let_write(scene: Scene, may: bool) -> None:
    async with connected(scene.url, default_transaction_read_only="off") as connection:
        await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'off' if may else 'on'}")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute("SELECT pg_sleep(0.2)")
        await connection.fetchval(TERMINATE)


async def status_of(url: str) -> int:
    def get() -> int:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                status: int = answer.status
                return status
        except urllib.error.HTTPError as error:
            return error.code

    return await asyncio.to_thread(get)


CASES = (postgres_killed, postgres_stopped, postgres_restarted_every_second, refusing_connections, read_only)
