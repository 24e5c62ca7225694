"""What a receiver has written, or has not."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from chassis.database import Connection
from tests.receiving import Local
from tests.sending import Answer


async def row_of(connection: Connection, answer: Answer) -> asyncpg.Record:
    """The row that an acceptance promises."""
    row = await connection.fetchrow("SELECT * FROM hookd.events WHERE id = $1", answer.id)
    assert row is not None, "answered 200 without a row"
    return row


async def stored(connection: Connection) -> int:
    """How many rows there are."""
    count: int = await connection.fetchval("SELECT count(*) FROM hookd.events")
    return count


async def missing(connection: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Which of these have no row."""
    rows = await connection.fetch("SELECT id FROM hookd.events WHERE id = ANY($1)", ids)
    return sorted(set(ids) - {row["id"] for row in rows})


async def refused(receiver: Local, table: Connection, *parts: bytes, to_head: bool = False) -> Answer:
    """The answer to what must leave nothing behind."""
    before = await stored(table)
    answer = await receiver.ask(*parts, to_head=to_head)
    assert answer.status >= 400
    if not to_head:
        assert answer.error
    assert await stored(table) == before
    return answer
