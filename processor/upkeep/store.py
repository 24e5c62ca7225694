"""The steps of maintenance: each one short transaction under a try-lock, so that of many processors one does it."""

import contextlib
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import asyncpg

from chassis.database import Connection
from processor.links import Links

FORGET = """
WITH old AS (SELECT source, key FROM hookd.deliveries WHERE expires_at < now() ORDER BY expires_at LIMIT $1),
gone AS (DELETE FROM hookd.deliveries d USING old WHERE d.source = old.source AND d.key = old.key RETURNING 1)
SELECT count(*)::int FROM gone
"""


class Upkeep:
    """Over the connection for what may wait."""

    def __init__(self, links: Links) -> None:
        self._run = links.run
        self._side = links.side

    async def days(self) -> list[date]:
        """The UTC days that have a partition. (One that somebody made by hand has no day.)"""
        return await self._column("SELECT day FROM hookd.days() WHERE day IS NOT NULL")

    async def today(self) -> date:
        """The current UTC day by the database's clock."""
        (day,) = await self._column("SELECT (now() AT TIME ZONE 'UTC')::date")
        assert isinstance(day, date)
        return day

    async def add_day(self, day: date) -> bool | None:
        """True: made; False: it was there; None: somebody else is at it, or holds a lock."""
        done: bool | None = await self._under_lock("SELECT hookd.add_day($1)", day)
        return done

    async def drop_day(self, day: date) -> str | None:
        """`dropped`, `kept` (an event is still new), `absent`; None: somebody holds a lock."""
        done: str | None = await self._under_lock("SELECT hookd.drop_day($1)", day)
        return done

    async def forget_deliveries(self, rows_max: int) -> int | None:
        """Delete expired delivery keys, `rows_max` at most; how many there were."""
        done: int | None = await self._under_lock(
            FORGET,
            rows_max,
        )
        return done

    async def forget_refused(self, older_than: timedelta, rows_max: int) -> int | None:
        """Delete what was refused at the edge that long ago, `rows_max` at most; how many there were."""
        done: int | None = await self._under_lock("SELECT hookd.forget_refused($1, $2)", older_than, rows_max)
        return done

    async def step_succeeded(self, step: str, detail: str) -> None:
        """Note the time of a maintenance step's success."""
        await self._column(
            "INSERT INTO hookd.maintenance AS m (step, succeeded_at, detail) VALUES ($1, now(), $2) "
            "ON CONFLICT (step) DO UPDATE SET succeeded_at = now(), detail = excluded.detail RETURNING 1",
            step,
            detail,
        )

    async def seconds_since_maintenance(self) -> float | None:
        """Since its least recent step succeeded; None: never."""
        (value,) = await self._column(
            "SELECT extract(epoch FROM now() - min(succeeded_at))::float8 FROM hookd.maintenance"
        )
        return value  # type: ignore[no-any-return]

    async def _column(self, sql: str, *arguments: object) -> list[Any]:
        records = await self._run(self._side, lambda connection: connection.fetch(sql, *arguments))
        return [record[0] for record in records]

    async def _under_lock(self, sql: str, *arguments: object) -> Any:
        async def work(connection: Connection) -> Any:
            async with connection.transaction():
                if not await connection.fetchval("SELECT pg_try_advisory_xact_lock(hashtext('hookd.maintenance'))"):
                    return None
                return await connection.fetchval(sql, *arguments)

        try:
            return await self._run(self._side, _busy_is_none(work))
        except asyncpg.LockNotAvailableError:
            return None


def _busy_is_none(work: Callable[[Connection], Any]) -> Callable[[Connection], Any]:
    async def guarded(connection: Connection) -> Any:
        with contextlib.suppress(asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            return await work(connection)
        return None

    return guarded
