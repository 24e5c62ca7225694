"""The registry in the table: read, and changed in one transaction."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from chassis.database import Connection, Database, Link, Unavailable, check_revision
from hookd.registry.plan import Kept, Known, Registered, Step
from hookd.store import REVISION_NEEDED
from protocol.providers.provider import Success
from protocol.source import Draft, answer_of

SECONDS_MAX = 30.0
PATIENCE_SECONDS = 5.0
NEW_LOOKED_AT_MAX = 100_000
LIMITS = {"statement_timeout": f"{SECONDS_MAX:.0f}s", "lock_timeout": "10s"}

# Before anything is read: of two commands the second sees all that the first did. (Receivers and processors only read,
# and wait for neither.)
LOCK = "LOCK TABLE hookd.sources, hookd.secrets IN SHARE ROW EXCLUSIVE MODE"
SOURCES = "SELECT *, now() AS seen_at FROM hookd.sources ORDER BY name"
SECRETS = "SELECT source, name, number, added_at, expires_at FROM hookd.secrets ORDER BY number DESC"
SEALED = "SELECT source, name, number, added_at, expires_at, sealed FROM hookd.secrets ORDER BY number DESC"

COUNT_NEW = """
SELECT count(*) FILTER (WHERE source = $1)
  FROM (SELECT source FROM hookd.events WHERE status = 'new' ORDER BY due_at LIMIT $2) AS looked
"""

PUT = """
INSERT INTO hookd.sources AS s (name, provider, mode, options, methods, answer, body_bytes_max, commit_timeout_seconds,
                                duplicates, window_seconds, at_receipt)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (name) DO UPDATE
   SET provider = excluded.provider, mode = excluded.mode, options = excluded.options, methods = excluded.methods,
       answer = excluded.answer, body_bytes_max = excluded.body_bytes_max,
       commit_timeout_seconds = excluded.commit_timeout_seconds, duplicates = excluded.duplicates,
       window_seconds = excluded.window_seconds, at_receipt = excluded.at_receipt, changed_at = now()
"""
REMOVE = "DELETE FROM hookd.sources WHERE name = $1"
SEAL = "INSERT INTO hookd.secrets (source, name, sealed) VALUES ($1, $2, $3)"
END_SECRETS = "UPDATE hookd.secrets SET expires_at = now() + $3::interval WHERE source = $1 AND number = ANY($2)"
DROP_SECRETS = "DELETE FROM hookd.secrets WHERE source = $1 AND number = ANY($2)"
RESEAL = "UPDATE hookd.secrets SET sealed = $3 WHERE source = $1 AND number = $2"


class NotAllowed(Unavailable):
    """This role may not do it."""


class Refused(Unavailable):
    """PostgreSQL does not take it as it is."""


class Busy(Unavailable):
    """Another command holds the registry."""


@dataclass(frozen=True)
class Resealed:
    """A secret, sealed anew; None: it is deleted."""

    source: str
    number: int
    sealed: str | None


@dataclass(frozen=True)
class Write:
    """A step with its new secrets sealed: (name, sealed), the current one last, for the highest number is current."""

    step: Step
    sealed: Sequence[tuple[str, str]] = ()


class Store:
    """One connection, shown as `hookd sources` in pg_stat_activity."""

    def __init__(self, database: Database) -> None:
        self._link = Link(database, "sources", settings=LIMITS, greet=greet)

    async def read(self, *, sealed: bool = False) -> Known:
        """Everything that is registered, by its name; the secrets' sealed text for who may read it."""

        async def work(connection: Connection) -> Known:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await known(connection, SEALED if sealed else SECRETS)

        found: Known = await self._run(work)
        return found

    async def change(self, decide: Callable[[Known], Sequence[Write | Resealed]]) -> None:
        """Do what `decide` says of what is registered then; nothing where it raises, or any of it fails."""

        async def work(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute(LOCK)
                for write in decide(await known(connection, SEALED)):
                    if isinstance(write, Resealed):
                        await _reseal(connection, write)
                    else:
                        await _write(connection, write)

        await self._run(work)

    async def close(self) -> None:
        await self._link.close()

    async def count_new(self, name: str) -> int:
        """How many events of the source are still new, of as many as are looked at."""
        count: int = await self._run(lambda connection: connection.fetchval(COUNT_NEW, name, NEW_LOOKED_AT_MAX))
        return count

    async def _run(self, work: Callable[[Connection], Any]) -> Any:
        async def translated(connection: Connection) -> Any:
            try:
                return await work(connection)
            except asyncpg.InsufficientPrivilegeError as error:
                raise NotAllowed(
                    f"this role may not do that ({first_line(error)}): sources are the migrating role's"
                ) from None
            except asyncpg.LockNotAvailableError:
                raise Busy("another command is changing sources and does not end: nothing was changed") from None
            except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
                raise Refused(f"PostgreSQL refuses it: {first_line(error)}; nothing was changed") from None

        return await self._link.run(translated, timeout=SECONDS_MAX + PATIENCE_SECONDS)


def first_line(error: Exception) -> str:
    """Without the detail, in which a row may stand."""
    return str(error).partition("\n")[0]


async def greet(connection: Connection) -> None:
    await check_revision(connection, REVISION_NEEDED)


async def known(connection: Connection, secrets: str) -> Known:
    kept: dict[str, list[Kept]] = {}
    for record in await connection.fetch(secrets):
        kept.setdefault(record["source"], []).append(Kept(**{k: v for k, v in record.items() if k != "source"}))
    return {
        record["name"]: Registered(
            draft_of(record),
            tuple(kept.get(record["name"], ())),
            record["is_probe"],
            record["added_at"],
            record["changed_at"],
            record["seen_at"],
        )
        for record in await connection.fetch(SOURCES)
    }


def draft_of(record: Any) -> Draft:
    return Draft(
        record["name"],
        record["provider"],
        record["mode"],
        json.loads(record["options"]),
        tuple(record["methods"]),
        answer_of(json.loads(record["answer"])) if record["answer"] else None,
        record["body_bytes_max"],
        record["commit_timeout_seconds"],
        record["duplicates"],
        record["window_seconds"],
    )


def stored_answer(answer: Success | None) -> str | None:
    """As it stands in hookd.sources.answer."""
    if answer is None:
        return None
    body = {} if answer.body is None else {"body": answer.body.decode()}
    return json.dumps({"status": answer.status, "headers": answer.headers, **body})


async def _write(connection: Connection, write: Write) -> None:
    step, draft = write.step, write.step.draft
    if draft is None:
        await connection.execute(REMOVE, step.name)
        return
    await connection.execute(
        PUT,
        draft.name,
        draft.provider,
        draft.mode,
        json.dumps(dict(draft.options)),
        list(draft.methods),
        stored_answer(draft.answer),
        draft.body_bytes_max,
        draft.commit_timeout_seconds,
        draft.duplicates,
        draft.window_seconds,
        draft.at_receipt,
    )
    if ending := step.ending():
        await connection.execute(END_SECRETS, draft.name, [each.number for each in ending], step.overlap)
    if dropped := step.dropped():
        await connection.execute(DROP_SECRETS, draft.name, [each.number for each in dropped])
    for name, sealed in write.sealed:
        await connection.execute(SEAL, draft.name, name, sealed)


async def _reseal(connection: Connection, write: Resealed) -> None:
    if write.sealed is None:
        await connection.execute(DROP_SECRETS, write.source, [write.number])
    else:
        await connection.execute(RESEAL, write.source, write.number, write.sealed)
