"""Rows that are born claimed: from their first moment on this process holds them, by the database's clock."""

from collections.abc import Sequence

from chassis.database import Connection, Database, DatabaseError, Link, check_revision
from ingest.batch import Row
from ingest.store import COLUMNS

REVISION_NEEDED = "0002"
UNKNOWN = 2**63  # later than any revision of the registry: it is read anew
CHECK_SECONDS_MAX = 4.0

# (headers and remote travel as text: asyncpg's own codecs for arrays of them would parse each anew.)
BEAR = f"""
INSERT INTO hookd.events ({", ".join(COLUMNS)}, due_at, held_by, attempts, claims)
SELECT id, source, event_type, delivery_id, received_at, method, target, headers::jsonb, remote::inet, payload, verdict,
       now() + make_interval(secs => $12), $13, 1, 1
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::text[],
              $9::text[], $10::bytea[], $11::text[]) AS r({", ".join(COLUMNS)})
RETURNING (SELECT revision FROM hookd.registry WHERE one)
"""  # noqa: S608 - our own columns' names

MAY_REPLY = """
SELECT bool_and(has_column_privilege('hookd.events', name, 'INSERT')
                AND has_column_privilege('hookd.events', name, 'UPDATE'))
  FROM unnest(ARRAY['due_at', 'held_by', 'attempts', 'claims']) AS name
"""


class Births:
    """Inserts rows that `holder` holds. `revision`: the registry's when the last were committed, where it is known."""

    def __init__(self, holder: str, lease_seconds: float) -> None:
        self._holder = holder
        self._lease_seconds = lease_seconds
        self.revision = UNKNOWN

    async def bear(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Commit all rows, by one statement."""
        self.revision = UNKNOWN  # and stays so when they are found to be there already
        columns = [[row[number] for row in rows] for number in range(len(COLUMNS))]
        committed = await connection.fetch(BEAR, *columns, self._lease_seconds, self._holder)
        self.revision = committed[0]["revision"] if committed else UNKNOWN


async def greet(connection: Connection) -> None:
    """Raise DatabaseError where the schema is too old, or this role may not hold what it inserts."""
    await check_revision(connection, REVISION_NEEDED)
    if not await connection.fetchval(MAY_REPLY):
        raise DatabaseError(
            "this role may not reply: GRANT hookd_replier to it, or name a log-in that has it in "
            "HOOKD_REPLY_DATABASE_URL (see: hookd migrate --help)"
        )


async def check(database: Database) -> None:
    """Raise DatabaseError for a database that cannot be used as it is, Unavailable for one that is away."""
    link = Link(database, "replier check", greet=greet)
    try:
        await link.run(_nothing, timeout=CHECK_SECONDS_MAX)
    finally:
        await link.close()


async def _nothing(_: Connection) -> None:
    return None
