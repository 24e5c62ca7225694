"""A migration as a whole: whose schema it is, the revisions, the days ahead, the roles."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

import asyncpg

from chassis.database import Connection, Database, DatabaseError, Link, Unavailable
from migrations.revisions import known, latest

T = TypeVar("T")

DAYS_AHEAD = 14
TRIES, PAUSE_SECONDS = 8, 0.25  # for a lock that somebody holds
LOOK_SECONDS, DAYS_SECONDS, REVISIONS_SECONDS = 30.0, 120.0, 86_400.0
# Whoever waits for a lock on a table makes everybody else wait behind it.
SETTINGS = {"lock_timeout": "5s"}

# The catalogue is open to every role; to_regclass() is refused to those who may not enter the schema.
LOOK = """
SELECT bool_or(c.relname = 'schema_version') IS TRUE AS versioned,
       bool_or(c.relname <> 'schema_version') IS TRUE AS used
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'hookd' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
"""

DAYS_MISSING = """
SELECT wanted.day
  FROM (SELECT (now() AT TIME ZONE 'UTC')::date + n AS day FROM generate_series(0, $1::int) AS n) AS wanted
 WHERE wanted.day NOT IN (SELECT made.day FROM hookd.days() AS made)
"""

ROLES_MISSING = """
SELECT role
  FROM unnest(ARRAY['hookd_receiver', 'hookd_replier', 'hookd_processor', 'hookd_reader']) AS role
 WHERE to_regrole(role) IS NULL
"""


@dataclass(frozen=True)
class Migration:
    """What was found, and what this hookd brings."""

    before: str | None
    latest: str
    is_newer: bool
    days_missing: tuple[date, ...]
    roles_missing: tuple[str, ...]


def migrate(database: Database, waiting: Callable[[], None]) -> Migration:
    """Bring the schema up to date and make the days ahead. Blocks, in event loops of its own. Raises Unavailable.

    `waiting` is called again and again while another migration runs.
    """
    found = asyncio.run(_asked(database, revision, LOOK_SECONDS))
    before = _upgrade(database, waiting) if found in {None, *known()[:-1]} else found
    days = asyncio.run(_asked(database, make_days, DAYS_SECONDS))
    roles = asyncio.run(_asked(database, missing_roles, LOOK_SECONDS))
    return Migration(before, latest(), before is not None and before not in known(), days, roles)


async def revision(connection: Connection) -> str | None:
    """The one that is there. Raises DatabaseError for a schema of somebody else's."""
    look = await connection.fetchrow(LOOK)
    assert look is not None
    found: str | None = None
    if look["versioned"]:
        found = await connection.fetchval("SELECT version_num FROM hookd.schema_version")
    if look["used"] and not found:
        raise DatabaseError(
            "schema hookd has tables that no hookd made (there is no revision in hookd.schema_version): "
            "rename that schema, or name another database in HOOKD_DATABASE_URL"
        )
    return found


async def make_days(connection: Connection) -> tuple[date, ...]:
    """Today and the days after it; returns those that somebody's lock was in the way of."""
    days = [record["day"] for record in await connection.fetch(DAYS_MISSING, DAYS_AHEAD)]
    return tuple([day for day in days if not await _is_made(connection, day)])


async def _is_made(connection: Connection, day: date) -> bool:
    for _ in range(TRIES):
        try:
            await connection.execute("SELECT hookd.add_day($1)", day)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        return True
    return False


async def missing_roles(connection: Connection) -> tuple[str, ...]:
    return tuple([record["role"] for record in await connection.fetch(ROLES_MISSING)])


async def _asked(database: Database, work: Callable[[Connection], Awaitable[T]], seconds: float) -> T:
    link = Link(database, "migrate", settings=SETTINGS)
    try:
        return await link.run(work, timeout=seconds)
    finally:
        await link.close()


def _upgrade(database: Database, waiting: Callable[[], None]) -> str | None:
    from migrations.upgrade import upgrade  # noqa: PLC0415 - Alembic takes half a second, and there is seldom a need

    try:
        return upgrade(
            lambda: database.connect("migrate", settings=SETTINGS, command_timeout=REVISIONS_SECONDS), waiting
        )
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseError(
            f"{error}: nothing was changed; run hookd migrate as a role that may, "
            "or have the output of hookd migrate --sql run by one"
        ) from None
    except asyncpg.LockNotAvailableError:
        raise Unavailable("somebody holds a lock on hookd's tables: nothing was changed; run it again") from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(f"nothing was changed: {error}") from error
