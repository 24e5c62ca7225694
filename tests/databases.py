"""A server's databases, by their URLs."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from chassis.database import Connection, Database
from migrations.upgrade import upgrade

DEBIAN = Path("/usr/lib/postgresql/15/bin")
MEMORY = Path("/dev/shm")
MIGRATED, SHORT = "migrated", "short"
ROOM_BYTES = 4 * 1024**3  # a server's log may take two of them

LATER_DAYS = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT to_char(day, 'YYYYMMDD') FROM hookd.days() WHERE day > (now() AT TIME ZONE 'UTC')::date + 2 LOOP
        EXECUTE format('DROP TABLE hookd.%I, hookd.%I', 'events_' || name, 'attempts_' || name);
    END LOOP;
END $$
"""


def server_parent() -> Path:
    """Where the tests' own servers have their data: in memory where there is room.

    Tests make and drop a thousand databases, of a thousand files each; what is to outlive a crash has a server of its
    own, on a disk. Not below pytest's folder, which is 0700: as root the server runs as another user.
    """
    on_disk = Path(tempfile.gettempdir())
    try:
        is_fit = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC and shutil.disk_usage(MEMORY).free > ROOM_BYTES
    except OSError:
        return on_disk
    return MEMORY if is_fit and os.access(MEMORY, os.W_OK) else on_disk


def with_name(url: str, database: str) -> str:
    """The same server, another database."""
    return urlsplit(url)._replace(path=f"/{database}").geturl()


class Server:
    """A connection to a server, to make databases there."""

    def __init__(self, connection: Connection, url: str) -> None:
        self._connection = connection
        self._url = url

    async def migrated(self) -> str:
        """The name of a migrated database, to be copied: whichever process comes first makes it."""
        async with self._alone():
            if not await self._has(MIGRATED):
                # Each copy is a checkpoint, and after it every page that is touched would be logged whole: for
                # a server that dies amid a write, and nobody kills this one.
                await self._connection.execute("ALTER SYSTEM SET full_page_writes = off")
                await self._connection.execute("SELECT pg_reload_conf()")
                await self._connection.execute("CREATE DATABASE migrating")
                database = Database(with_name(self._url, "migrating"))
                await asyncio.to_thread(upgrade, lambda: database.connect("migrate"), lambda: None)
                await self._connection.execute(f"ALTER DATABASE migrating RENAME TO {MIGRATED}")
        return MIGRATED

    async def short(self) -> str:
        """The name of a copy that has today and two days more, as when no processor has been at work for long.

        Every connection that plans a query looks at each day: of a short test that is a quarter of the work.
        """
        migrated = await self.migrated()
        async with self._alone():
            if not await self._has(SHORT):
                await self._connection.execute(f"CREATE DATABASE shortening TEMPLATE {migrated}")
                await execute(with_name(self._url, "shortening"), LATER_DAYS)
                await self._connection.execute(f"ALTER DATABASE shortening RENAME TO {SHORT}")
        return SHORT

    async def _has(self, name: str) -> bool:
        query = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"
        return bool(await self._connection.fetchval(query, name))

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        await self._connection.execute("SELECT pg_advisory_lock(hashtext('tests'))")
        try:
            yield
        finally:
            await self._connection.execute("SELECT pg_advisory_unlock(hashtext('tests'))")

    @asynccontextmanager
    async def database(self, template: str = "template1") -> AsyncIterator[str]:
        """A copy of the template, which is gone when the block ends: its URL."""
        name = f"test_{uuid4().hex}"
        await self._connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        try:
            yield with_name(self._url, name)
        finally:
            await self._connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Server]:
    connection: Connection = await asyncpg.connect(url)
    try:
        yield Server(connection, url)
    finally:
        await connection.close()


async def execute(url: str, sql: str) -> None:
    connection: Connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
