"""The days of the table, and an operator who changes them with care."""

import asyncio

import asyncpg

from faults.scene import Scene
from rig.postgres import connected
from rig.server import on


async def day_name(scene: Scene, days_ahead: int) -> str:
    day = await on(scene.server, "SELECT to_char((now() AT TIME ZONE 'UTC')::date + $1::int, 'YYYYMMDD')", days_ahead)
    return str(day)


async def has_day(scene: Scene, name: str) -> bool:
    return bool(await on(scene.server, "SELECT hookd.has_day('hookd.events', 'events_' || $1)", name))


async def patiently(scene: Scene, *statements: str) -> None:
    """In one transaction; as a careful operator, who rather tries again than makes everybody wait."""
    async with connected(scene.url, lock_timeout="100ms") as connection:
        while True:
            try:
                async with connection.transaction():
                    for sql in statements:
                        await connection.execute(sql)
                return
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                await asyncio.sleep(0.1)
