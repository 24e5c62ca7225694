"""Waiting for what tells nobody, and not for ever."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

PATIENCE_SECONDS = 20.0  # far more than anything here takes: a test that hangs shall fail
LOOKS_SECONDS = 0.02  # between two looks at what tells nobody: who looks all the time takes the machine from it

T = TypeVar("T")


async def first_of(wanted: Awaitable[T], failing: "asyncio.Task[None]") -> T:
    """What was wanted, unless the other ends before: then its error."""
    task = asyncio.ensure_future(wanted)
    await asyncio.wait({task, failing}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await failing
    return await task


async def in_time(check: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], seconds: float) -> T:
    """What the check says once it is as wanted. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not wanted(result := await check()):  # noqa: ASYNC110 - it may be anything, which tells nobody
            await asyncio.sleep(LOOKS_SECONDS)
    return result
