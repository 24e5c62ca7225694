"""Receivers that have time, and the loads on them."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from faults.scene import SENT_MAX, Scene
from rig.hookd import Hookd
from rig.load import SOURCE, Load

PATIENCE_SECONDS = 30.0
PACE_SECONDS = 0.01  # of a load that shall be beside something, and not take the machine from it


def patient(scene: Scene, *arguments: str, **settings: Any) -> AbstractAsyncContextManager[Hookd]:
    """A receiver whose commits may take long: here a 503 is a fault, and a busy machine shall not be taken for one."""
    return scene.ingest(*arguments, commit_timeout_seconds="20", **settings)


async def url_of(receiver: Hookd) -> str:
    url: str = (await receiver.logged("ingest.listening"))["url"]
    return url


def load_on(scene: Scene, url: str, source: str = SOURCE, pause_seconds: float = PACE_SECONDS) -> Load:
    """A load for whoever listens there, now and later; or, for another source, an account of what a case sends."""
    load = Load(url, pause_seconds=pause_seconds, source=source, timeout_seconds=PATIENCE_SECONDS, sent_max=SENT_MAX)
    scene.loads.append(load)
    return load


@asynccontextmanager
async def beside_a_load(scene: Scene, receiver: Hookd, count: int = 100) -> AsyncIterator[Load]:
    """A load runs, and every POST of it is answered with 200: some before the block ends, and some after."""
    load = load_on(scene, await url_of(receiver))
    async with load.running():
        await load.more(count)
        yield load
        await load.more(count)
    assert set(load.statuses) == {200}, f"the load beside was answered {dict(load.statuses)}"
    assert load.cut == 0, f"{load.cut} POSTs of the load beside were cut"
