"""Whoever answers senders in their request: what a receiver asks of them, and no more. They are the front door's."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from chassis.metrics import Metric
from ingest.batch import Row
from protocol.challenge import Answer

# Sources by their names, or `*`, with the methods that somebody replies to.
Methods: TypeAlias = Mapping[str, tuple[str, ...]]
Hint: TypeAlias = Callable[[], None]


class Replying(Protocol):
    """Stores a row and has it handled, while its sender waits."""

    @property
    def methods(self) -> Methods:
        """What may be replied to."""

    @property
    def failing(self) -> str | None:
        """Why the last write failed."""

    def replies(self, source: str, method: str, target: str) -> bool:
        """Whether such a request may be replied to, as far as its head tells."""

    async def reply(self, row: Row, size: int, timeout_seconds: float | None, until: float) -> Answer | None:
        """Commit the row as `Lane.put` would, then its answer; None: the source's usual one, from `until` on at least.

        `size`: of the body, in bytes. `until`: in the event loop's time. Raises Refusal: then it is not known to be
        stored.
        """

    def at_work(self) -> AbstractAsyncContextManager[None]:
        """Replies while the block lasts. Raises DatabaseError for a database that cannot be used as it is."""

    async def stop(self, grace_seconds: float, hurry: asyncio.Event) -> None:
        """Let what runs end, for so long unless somebody is in a hurry; hand the rest back."""

    async def until_stuck(self) -> None:
        """Return when it had better be started again."""

    def collect(self) -> Iterable[Metric]:
        """The figures as they are now; may be called from another thread."""


Make: TypeAlias = Callable[[Hint], Replying]
