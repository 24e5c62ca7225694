"""A server's databases, by their URLs."""

import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from chassis.database import Connection

DEBIAN = Path("/usr/lib/postgresql/15/bin")
MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 1024**3  # a server's log may take two of them


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


async def execute(url: str, sql: str) -> None:
    connection: Connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
