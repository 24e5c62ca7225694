"""A row this process holds, and what it has found out about it."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from processor.handling.dispatch import UNDECIDED, Choice, Undecided
from processor.handling.event import Event
from processor.waiter import Waiter

BODY_INLINE_BYTES_MAX = 64 * 1024  # a larger body is fetched when its handler starts


class Found(NamedTuple):
    """What the processor found out about an event that its row does not say yet."""

    event_type: str | None = None
    delivery_id: str | None = None
    verdict: str | None = None


NOTHING_FOUND = Found()


@dataclass(slots=True, eq=False)
class Claimed:
    """A row this process holds. `lease_until` is in the monotonic clock; `unsifted`: to be judged before its run.

    `event`: made of it once its body is there. `choice`: its handler, once it is known; None: it has none. `waiter`:
    who waits for its handler's answer.
    """

    row: Any
    lease_until: float
    id: UUID = field(init=False)
    missed_renewals: int = 0
    lost: bool = False
    unsifted: bool = False
    found: Found = NOTHING_FOUND
    event: Event | None = None
    choice: Choice | Undecided | None = UNDECIDED
    waiter: Waiter | None = None

    def __post_init__(self) -> None:
        self.id = self.row["id"]

    @property
    def is_large(self) -> bool:
        """Whether its body is more than is looked into, or waits for a handler, beside many others."""
        size: int = self.row["bytes"]
        return size > BODY_INLINE_BYTES_MAX

    def learn(self, found: Found) -> None:
        """Know the names that were found as if the row had said them; the settle writes what was found."""
        self.found = found
        event_type, delivery_id, _ = found
        if event_type is not None or delivery_id is not None:
            row, self.event, self.choice = self.row, None, UNDECIDED
            names = {"event_type": event_type or row["event_type"], "delivery_id": delivery_id or row["delivery_id"]}
            self.row = {**row, **names}
