"""Rows claimed by a store as a processor would, and what became of them as it would settle it."""

import time
from collections.abc import Sequence
from uuid import UUID

from chassis.database import Connection
from processor.holding.claimed import Claimed
from processor.outcome import PROCESSED, Outcome
from processor.settling.store import Settlement
from processor.store import Store

LEASE_SECONDS = 60.0
PLENTY = 1 << 20


async def claim(store: Store, rows: int = 100, bytes_max: int = PLENTY) -> list[Claimed]:
    return await store.queue.claim(rows, bytes_max, None, time.monotonic)


def settlement(claimed: Claimed, outcome: Outcome = PROCESSED, *, noted: bool | None = None) -> Settlement:
    noted = outcome.attempted and outcome.status != "processed" if noted is None else noted
    return Settlement(claimed, outcome, noted, claimed.row["source"])


def ids(claimed: Sequence[Claimed]) -> list[UUID]:
    return [each.id for each in claimed]


async def seconds_until(connection: Connection, event_id: UUID) -> float:
    """Until the event is due, by the database's clock."""
    value: float = await connection.fetchval(
        "SELECT extract(epoch FROM due_at - now())::float8 FROM hookd.events WHERE id = $1", event_id
    )
    return value
