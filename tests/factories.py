"""Rows as a receiver and a processor would have left them, aged as a test needs: clocks are never moved."""

import json
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from chassis.database import Connection

AT = "SELECT CASE $1 WHEN 'infinity' THEN 'infinity' ELSE now() + replace($1, 'now', '0 s')::interval END"
EVENT = """
INSERT INTO hookd.events (id, status, source, event_type, delivery_id, received_at, finished_at, due_at, held_by,
                          attempts, claims, reason, method, target, headers, remote, payload)
VALUES ($1, $2, $3, $4, $5, $6::timestamptz, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
"""
COUNT = """
INSERT INTO hookd.counts AS c (day, source, status, events) VALUES (($1 AT TIME ZONE 'UTC')::date, $2, $3, 1)
ON CONFLICT (day, source, status) DO UPDATE SET events = c.events + 1
"""
ATTEMPT = """
INSERT INTO hookd.attempts (event_id, claim, attempt, ended_at, error, traceback) VALUES ($1, $2, $3, $4, $5, $6)
"""


async def an_event(
    connection: Connection,
    *,
    source: str = "demo",
    status: str = "new",
    received: str | datetime = "2 hours ago",
    due: str | datetime = "now",
    finished: str | datetime | None = None,
    label: str | None = None,
    **columns: Any,
) -> UUID:
    """Insert an event that was `received` then, its id of that time, its day made; a settled one is counted too.

    The times take `now`, `2 hours ago`, `5 minutes` (from now) or a datetime; `due` also `infinity`.
    `label`: the source's name in the counters, where that is `other`. `columns`: any other column.
    """
    received_at, due_at = await at(connection, received), await at(connection, due)
    finished_at = await at(connection, finished or received_at) if status != "new" else None
    row = {
        "event_type": None,
        "delivery_id": None,
        "held_by": None,
        "attempts": 0,
        "claims": 0,
        "reason": "RuntimeError: broken" if status == "failed" else None,
        "method": "POST",
        "target": f"/{source}",
        "headers": [["Content-Type", "application/json"]],
        "remote": "127.0.0.1",
        "payload": b"{}",
    }
    if unknown := columns.keys() - row.keys() - {"id"}:
        raise TypeError(f"no such column: {', '.join(unknown)}")
    event_id: UUID = columns.pop("id", None) or an_id(received_at)
    row |= columns
    row["headers"] = json.dumps(row["headers"])
    await connection.execute("SELECT hookd.add_day(($1::timestamptz AT TIME ZONE 'UTC')::date)", received_at)
    rest = list(row.values())
    await connection.execute(EVENT, event_id, status, source, *rest[:2], received_at, finished_at, due_at, *rest[2:])
    if status != "new":
        await connection.execute(COUNT, received_at, label or source, status)
    return event_id


async def events(connection: Connection, count: int, **of_each: Any) -> list[UUID]:
    """Insert `count` events alike; their ids."""
    return [await an_event(connection, **of_each) for _ in range(count)]


async def an_attempt(
    connection: Connection,
    event_id: UUID,
    *,
    claim: int = 1,
    attempt: int = 1,
    ended: str | datetime = "1 hour ago",
    error: str | None = "RuntimeError: broken",
    traceback: str | None = "Traceback (most recent call last):\nRuntimeError: broken\n",
) -> None:
    """Insert an attempt of that event's."""
    await connection.execute(ATTEMPT, event_id, claim, attempt, await at(connection, ended), error, traceback)


async def row_of(connection: Connection, event_id: UUID) -> dict[str, Any]:
    """The event as it stands now."""
    row = await connection.fetchrow("SELECT * FROM hookd.events WHERE id = $1", event_id)
    assert row is not None, f"no event {event_id}"
    return dict(row)


async def counts(connection: Connection) -> dict[tuple[str, str], int]:
    """What the counters say, over all days: {(source, status): events}, without zeros."""
    rows: Sequence[Any] = await connection.fetch(
        "SELECT source, status, sum(events)::int FROM hookd.counts GROUP BY 1, 2 HAVING sum(events) <> 0"
    )
    return {(source, status): events for source, status, events in rows}


async def at(connection: Connection, when: str | datetime) -> datetime:
    """A time by the database's clock."""
    if isinstance(when, datetime):
        return when
    value: datetime = await connection.fetchval(AT, when)
    return value


def an_id(received_at: datetime) -> UUID:
    """A UUIDv7 of that time."""
    milliseconds = int(received_at.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62))
