"""A backlog, as a receiver would have left it: in batches, each of them due at one moment."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from uuid_utils import UUID, uuid7

from rig import sample
from rig.postgres import connected

BATCH_ROWS = 50  # what a receiver commits together at full load
BATCH_SECONDS = 0.005
CHUNK_ROWS = 10_000
COLUMNS = ("id", "source", "received_at", "due_at", "method", "target", "headers", "remote", "payload")
ENSURE_DAY = "SELECT hookd.add_day(($1::timestamptz AT TIME ZONE 'UTC')::date)"


async def backlog(url: str, events: int) -> None:
    """Store `events`, the last of them received now; analysed, as autovacuum would have done while it grew."""
    began = datetime.now(UTC) - timedelta(seconds=events / BATCH_ROWS * BATCH_SECONDS)
    async with connected(url) as connection:
        await connection.fetchval(ENSURE_DAY, began)
        for first in range(0, events, CHUNK_ROWS):
            records = rows(began, first, min(first + CHUNK_ROWS, events))
            await connection.copy_records_to_table("events", schema_name="hookd", columns=COLUMNS, records=records)
        await connection.execute("ANALYZE hookd.events")


def rows(began: datetime, first: int, last: int) -> Iterator[tuple[object, ...]]:
    for number in range(first, last):
        at = began + timedelta(seconds=number // BATCH_ROWS * BATCH_SECONDS)
        target = f"/{sample.SOURCE}"
        yield _id(at), sample.SOURCE, at, at, "POST", target, sample.HEADERS, "127.0.0.1", sample.BODY


def _id(at: datetime) -> UUID:
    # In whole numbers, for a float has no room for the nanoseconds of this century.
    return uuid7(nanoseconds=(int(at.timestamp()) * 1_000_000 + at.microsecond) * 1000)
