"""A ledger that handlers write to through their connections, and what others see of it."""

import asyncio
from uuid import UUID

import asyncpg

import hookd as api
from chassis.database import Connection
from tests.databases import execute
from tests.processing import Gate, Watch

LEDGER = "CREATE TABLE public.ledger (event_id uuid, note text NOT NULL DEFAULT '')"
WRITE = "INSERT INTO ledger (event_id) VALUES ($1)"
WITHIN_ONE = """
SELECT e.xmin = l.xmin FROM hookd.events e JOIN public.ledger l ON l.event_id = e.id WHERE e.id = $1
"""
HANDLERS_PIDS = """
SELECT array_agg(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'hookd processor handler'
"""
WAITS_FOR_ITS_RETRY = "id = $1 AND status = 'new' AND held_by IS NULL AND attempts = $2"
PATIENCE_SECONDS = 20.0


async def over_a_ledger(connection: Connection) -> Watch:
    await connection.execute(LEDGER)
    return await Watch.over(connection)


async def write(event: api.Event, conn: asyncpg.Connection) -> None:
    await conn.execute(WRITE, event.id)


async def written(connection: Connection) -> list[UUID]:
    return [row["event_id"] for row in await connection.fetch("SELECT event_id FROM public.ledger")]


class Waiting(Gate):
    """A handler that writes, then waits inside until the gate is open."""

    async def write_and_wait(self, event: api.Event, conn: asyncpg.Connection) -> None:
        await conn.execute(WRITE, event.id)
        await self.pass_through(event)


async def shut(server_url: str, connection: Connection, is_shut: bool) -> None:
    """Whether the test's database takes new connections."""
    name = await connection.fetchval("SELECT current_database()")
    await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS {not is_shut}")


async def has_left(connection: Connection, pid: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        backend = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)"
        while await connection.fetchval(backend, pid):  # noqa: ASYNC110 - the server is still to notice
            await asyncio.sleep(0.01)
