"""The doctor's side of the table: probes registered and removed, their rows read, what the environment is like."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from chassis.database import Connection, Database, DatabaseError, Link, check_revision, clock_offset_seconds
from hookd.store import PLANNER, REVISION_NEEDED
from protocol.source import Draft

T = TypeVar("T")

SECONDS = 20.0
MARK = "X-Hookd-Doctor"  # the header by which the doctor knows its rows again

SOURCE = "SELECT * FROM hookd.processor_sources WHERE name = $1"
SOURCES = "SELECT * FROM hookd.processor_sources WHERE NOT is_probe ORDER BY name"

ADD = """
INSERT INTO hookd.sources (name, provider, mode, options, methods, answer, at_receipt, is_probe)
VALUES ($1, $2, $3, $4, $5, $6, $7, true)
"""
KEEP = "INSERT INTO hookd.secrets (source, name, sealed) VALUES ($1, $2, $3)"

# Where the rows of probes begin, by whatever clock they were received. Of a doctor who was killed, settled rows of more
# than an hour ago are left to the retention, for there is no index by source.
LEAST = """
SELECT hookd.uuid_at(GREATEST(min(added_at) - interval '1 minute', now() - interval '1 hour'))
  FROM hookd.sources
 WHERE is_probe
"""
PROBES = "SELECT name FROM hookd.sources WHERE is_probe"
REMOVE = (
    "DELETE FROM hookd.sources WHERE name = ANY($1) AND is_probe",
    "DELETE FROM hookd.events WHERE status = 'new' AND source = ANY($1)",
    "DELETE FROM hookd.refused WHERE source = ANY($1)",
    "DELETE FROM hookd.deliveries WHERE source = ANY($1)",
    "DELETE FROM hookd.counts WHERE source = ANY($1)",
)
REMOVE_EVENTS = "DELETE FROM hookd.events WHERE id >= $2 AND source = ANY($1)"

ROWS = """
SELECT hookd.header(headers, $3) AS mark, id, status, reason, verdict, event_type, delivery_id, method, target,
       headers, payload
  FROM hookd.events
 WHERE id >= $2 AND source = ANY($1)
 ORDER BY id
"""
SETTLED = """
SELECT count(*) FILTER (WHERE status <> 'new') AS settled, count(*) AS stored
  FROM hookd.events
 WHERE id >= $2 AND source = ANY($1)
"""

SERVER = """
SELECT current_setting('server_version') AS version, current_setting('fsync') AS fsync,
       current_setting('synchronous_commit') AS synchronous_commit,
       (SELECT version_num FROM hookd.schema_version) AS revision,
       (now() AT TIME ZONE 'UTC')::date AS today,
       ARRAY(SELECT day FROM hookd.days() WHERE day >= (now() AT TIME ZONE 'UTC')::date ORDER BY 1 LIMIT 2) AS days,
       (SELECT extract(epoch FROM now() - max(succeeded_at))::float8 FROM hookd.maintenance) AS maintained_seconds_ago,
       (SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name LIKE 'hookd processor%') AS processor_connections
"""


class Registered(NamedTuple):
    """A probe as it is registered: its secrets sealed, by the name they are kept under."""

    draft: Draft
    sealed: Sequence[tuple[str, str]]


class Store:
    """One connection for the work, and one that says that a doctor is there."""

    def __init__(self, database: Database) -> None:
        limits = PLANNER | {"statement_timeout": f"{SECONDS:.0f}s"}
        self._link = Link(database, "doctor", settings=limits, greet=greet)
        self._turn = Link(database, "doctor turn")

    async def source(self, name: str) -> dict[str, Any] | None:
        """A registered source as source_of reads it."""
        records = await self._fetch(SOURCE, name)
        return dict(records[0]) if records else None

    async def sources(self) -> list[dict[str, Any]]:
        return [dict(record) for record in await self._fetch(SOURCES)]

    async def server(self) -> Mapping[str, Any]:
        """What the environment is like, from the database's side."""
        record: Mapping[str, Any] = (await self._fetch(SERVER))[0]
        return record

    async def clock_offset_seconds(self) -> float:
        return await self._run(clock_offset_seconds)

    async def take_turn(self) -> None:
        """From now on nobody else is the doctor here. Raises DatabaseError where somebody is."""
        free = await self._turn.run(
            lambda connection: connection.fetchval("SELECT pg_try_advisory_lock(hashtext('hookd.doctor'))"),
            timeout=SECONDS,
        )
        if not free:
            raise DatabaseError("another hookd doctor is at work in this database")

    async def register(self, probes: Sequence[Registered]) -> UUID:
        """All of them at once, so that who knows one knows all; the least id that a row of theirs can have."""

        async def write(connection: Connection) -> UUID:
            async with connection.transaction():
                await connection.executemany(ADD, [source_row(each.draft) for each in probes])
                secrets = [(each.draft.name, *secret) for each in probes for secret in each.sealed]
                await connection.executemany(KEEP, secrets)
                least: UUID = await connection.fetchval(LEAST)
                return least

        try:
            return await self._run(write)
        except asyncpg.InsufficientPrivilegeError as error:
            raise DatabaseError(f"{error}: hookd doctor registers sources, as the schema's owner may") from None

    async def probes(self) -> list[str]:
        """The probes there are: ours, and those that a doctor left behind who was killed."""
        return [record["name"] for record in await self._fetch(PROBES)]

    async def remove(self, names: Sequence[str]) -> None:
        """The probes, with what they left."""

        async def delete(connection: Connection) -> None:
            async with connection.transaction():
                least = await connection.fetchval(LEAST)
                for statement in REMOVE:
                    await connection.execute(statement, names)
                if least is not None:
                    await connection.execute(REMOVE_EVENTS, names, least)

        await self._run(delete)

    async def settled(self, names: Sequence[str], least: UUID) -> tuple[int, int]:
        """How many of their rows are settled, of how many that there are."""
        record = (await self._fetch(SETTLED, names, least))[0]
        return record["settled"], record["stored"]

    async def rows(self, names: Sequence[str], least: UUID) -> dict[str, dict[str, Any]]:
        """Their rows, by the mark they were sent with."""
        records = await self._fetch(ROWS, names, least, MARK)
        return {
            record["mark"]: {**record, "headers": [tuple(pair) for pair in json.loads(record["headers"])]}
            for record in records
            if record["mark"]
        }

    async def close(self) -> None:
        await self._link.close()
        await self._turn.close()

    async def _fetch(self, sql: str, *values: object) -> list[Any]:
        return await self._run(lambda connection: connection.fetch(sql, *values))

    async def _run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await self._link.run(work, timeout=SECONDS)


async def greet(connection: Connection) -> None:
    await check_revision(connection, REVISION_NEEDED)


def source_row(draft: Draft) -> tuple[object, ...]:
    answer = None
    if draft.answer is not None:
        status, headers, body = draft.answer
        answer = json.dumps({"status": status, "headers": headers, "body": body.decode() if body is not None else None})
    return (
        draft.name,
        draft.provider,
        draft.mode,
        json.dumps(dict(draft.options)),
        list(draft.methods),
        answer,
        draft.at_receipt,
    )
