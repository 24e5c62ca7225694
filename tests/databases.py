"""A server's databases, by their URLs."""

from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from chassis.database import Connection

DEBIAN = Path("/usr/lib/postgresql/15/bin")


def with_name(url: str, database: str) -> str:
    """The same server, another database."""
    return urlsplit(url)._replace(path=f"/{database}").geturl()


async def execute(url: str, sql: str) -> None:
    connection: Connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
