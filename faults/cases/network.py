"""Connections to PostgreSQL are ended, half-open, reset, slow, cut one way, or lose an answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faults.case import case
from faults.cases.work import TERMINATE, at_work, note_answers, refuses, slow_handlers, until_back
from faults.scene import Scene
from rig.hookd import Hookd
from rig.load import Load
from rig.postgres import connected
from rig.proxy import Proxy, proxying

COPY_DONE = b"c\0\0\0\4"  # CopyDone of PostgreSQL's protocol: what follows is the commit's answer


@case(
    "every backend of hookd's is terminated, every quarter of a second, twenty times",
    caught=("never-connect-again",),
)
async def backends_terminated(scene: Scene) -> None:
    slow_handlers(scene, 0.3)
    ended = 0
    async with at_work(scene) as (load, _, _), connected(scene.url) as connection:
        for _ in range(20):
            await asyncio.sleep(0.25)
            ended += await connection.fetchval(TERMINATE)
        await until_back(scene, load)
    scene.note("backends terminated", ended)


@asynccontextmanager
async def through_a_proxy(scene: Scene) -> AsyncIterator[tuple[Proxy, Load, Hookd]]:
    async with proxying(scene.server.socket) as proxy:
        async with at_work(scene, url=proxy.url(scene.url)) as (load, _, processor):
            yield proxy, load, processor
        scene.note("connections to PostgreSQL", proxy.connections)


@case(
    "each connection to PostgreSQL goes half-open: nothing comes any more, nothing is closed",
    caught=("no-time-outs",),
    seconds_max=90,
)
async def half_open(scene: Scene) -> None:
    async with through_a_proxy(scene) as (proxy, load, _):
        proxy.half_open()
        await until_back(scene, load)
        refuses(load, 1)


@case("each connection to PostgreSQL is reset, ten times", caught=("never-connect-again",))
async def resets(scene: Scene) -> None:
    async with through_a_proxy(scene) as (proxy, load, _):
        for _ in range(10):
            await asyncio.sleep(scene.random.uniform(0, 0.6))
            proxy.reset()
        await until_back(scene, load)


@case("PostgreSQL is 200 ms away, each way", caught=("answer-before-commit",))
async def delays(scene: Scene) -> None:
    async with through_a_proxy(scene) as (proxy, load, _):
        proxy.delay_seconds = 0.2
        await load.more(16)  # and with them whoever was answered while it was near
        far = len(load.seconds)
        await load.more(100)
        fastest = min(load.seconds[far:])
        proxy.delay_seconds = 0
        assert fastest > 0.4, f"answered after {fastest:.2f} s: no commit can have been heard of"
        await until_back(scene, load)


@case("PostgreSQL is 150 ms away, each way, and every connection is lost", caught=("open-in-a-senders-patience",))
async def reconnecting_from_afar(scene: Scene) -> None:
    async with through_a_proxy(scene) as (proxy, load, _):
        proxy.delay_seconds = 0.15
        proxy.reset()
        await load.more(20, 60)
        proxy.delay_seconds = 0
        await until_back(scene, load)


@case(
    "nothing that hookd says reaches PostgreSQL for 5 s, while it hears what PostgreSQL says",
    caught=("forget-what-was-answered",),
    seconds_max=90,
)
async def cut_towards_postgres(scene: Scene) -> None:
    async with through_a_proxy(scene) as (proxy, load, _):
        proxy.to_server.clear()
        await asyncio.sleep(5)
        proxy.heal()
        refuses(load, 8)
        await until_back(scene, load)


@case(
    "nothing that PostgreSQL says reaches hookd for 5 s, while it hears what hookd says",
    caught=("forget-what-was-answered",),
    seconds_max=90,
)
async def cut_towards_hookd(scene: Scene) -> None:
    async with through_a_proxy(scene) as (proxy, load, _):
        proxy.to_client.clear()
        await asyncio.sleep(5)
        proxy.heal()
        refuses(load, 8)
        await until_back(scene, load)


@case(
    "the answer to a COPY's commit is lost with its connection, ten times",
    caught=("new-ids-when-tried-again",),
    is_short=True,
)
async def commit_answer_lost(scene: Scene) -> None:
    async with proxying(scene.server.socket) as proxy:
        async with scene.ingest(url=proxy.url(scene.url)) as receiver, scene.processor() as processor:
            load = await scene.load(receiver, pause_seconds=0.02)
            async with load.running():
                for _ in range(10):
                    await load.more(20)
                    await swallow_a_commit(proxy)
                await load.more(50)
            note_answers(scene, load)
            assert await processor.stop() == 0
        scene.note("answers swallowed", proxy.swallowed)
    await scene.settle_all()


async def swallow_a_commit(proxy: Proxy) -> None:
    swallowed, proxy.swallow_answer_to = proxy.swallowed, COPY_DONE
    async with asyncio.timeout(10):
        while proxy.swallowed == swallowed:
            await asyncio.sleep(0.005)


CASES = (
    backends_terminated,
    half_open,
    resets,
    delays,
    reconnecting_from_afar,
    cut_towards_postgres,
    cut_towards_hookd,
    commit_answer_lost,
)
