"""A PostgreSQL of this run's own, with the durable settings hookd ships, and fresh databases in it."""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from chassis.database import Connection, Database
from chassis.embedded import Embedded
from migrations.upgrade import upgrade

TEMPLATE = "migrated"
COUNT_SETTLED = "SELECT coalesce(sum(events), 0)::int FROM hookd.counts"


class Postgres:
    """A server that runs; `pid` is the process above all of its others."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.pid = int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        self._numbers = itertools.count()

    async def prepare(self, wal_segments: int) -> str:
        """Migrate the template, warm the WAL; the server's version and what it says of its durability."""
        await self.execute(f"CREATE DATABASE {TEMPLATE}")
        database = Database(with_name(self.url, TEMPLATE))
        await asyncio.to_thread(upgrade, lambda: database.connect("migrate"), lambda: None)
        await self._warm_wal(wal_segments)
        version, *durable = [
            await self.value(f"SHOW {name}")
            for name in ("server_version", "fsync", "synchronous_commit", "full_page_writes")
        ]
        return f"{version}, fsync {durable[0]}, synchronous_commit {durable[1]}, full_page_writes {durable[2]}"

    async def _warm_wal(self, segments: int) -> None:
        """Let the server make WAL files now: `wal_init_zero` would stall commits by 30 ms for each in a fresh cluster.

        A checkpoint keeps as many for later as it saw used.
        """
        for _ in range(segments):
            await self.execute("SELECT pg_logical_emit_message(false, 'bench', 'warm'), pg_switch_wal()")
        await self.execute("CHECKPOINT")

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[str]:
        """The URL of a migrated database, which is gone when the block ends."""
        name = f"bench_{next(self._numbers)}"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        await self.execute("CHECKPOINT")
        try:
            yield with_name(self.url, name)
        finally:
            await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def execute(self, sql: str) -> None:
        async with connected(self.url) as connection:
            await connection.execute(sql)

    async def value(self, sql: str) -> Any:
        async with connected(self.url) as connection:
            return await connection.fetchval(sql)


@contextmanager
def private_server(below: Path | None) -> Iterator[Postgres]:
    """Started in a temporary folder, stopped and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="hookd-bench-", dir=below, ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        folder.chmod(0o711)  # as root the server runs as another user, who must be able to enter
        with Embedded(folder).serve() as url:
            yield Postgres(url, folder)


@asynccontextmanager
async def connected(url: str, **settings: str) -> AsyncIterator[Connection]:
    connection: Connection = await asyncpg.connect(url, server_settings={"application_name": "bench", **settings})
    try:
        yield connection
    finally:
        await asyncio.shield(connection.close(timeout=5))


def with_name(url: str, database: str) -> str:
    return urlsplit(url)._replace(path=f"/{database}").geturl()


def environment(url: str) -> dict[str, str]:
    """What points a hookd at that database."""
    return {"HOOKD_DATABASE_URL": url}
