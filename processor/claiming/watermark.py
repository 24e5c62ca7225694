"""From where on a claim looks.

While somebody holds a snapshot, what was settled since stays at the head of the index of what is due, and each claim
that looks from its first entry on reads it all: 11 ms for each 60,000 events. And each day that it has to look into
costs a claim some 0.02 ms, whatever is there.
"""

import math
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

ALL_SECONDS = 1.0  # nothing that turns up before the watermark is passed by for longer
# A row is due from when its insert began, and shows when that is committed: up to so long, it is never passed by.
SLACK = timedelta(seconds=1)
MILLISECOND = 1 << 80  # in a UUIDv7 (RFC 9562 section 5.7)
ID_SLACK = 3_600_000 * MILLISECOND  # an hour: the receivers' clocks mint ids, and a commit may take a while


class Since(NamedTuple):
    """Passed by is what was due before, and what was received before: days that held nothing."""

    due_at: datetime
    id: UUID


class Watermark:
    """The oldest there was when a claim last looked at all there is, which one does every second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: Since | None = None
        self._all_at = -math.inf

    def begin(self) -> Since | None:
        """Where a claim that begins now starts to look; None: it looks at all there is."""
        if self.seconds_until_all > 0:
            return self._since
        self._all_at = self._clock()
        return None

    @property
    def seconds_until_all(self) -> float:
        """Until a claim is to look at all there is."""
        return max(self._all_at + ALL_SECONDS - self._clock(), 0.0)

    def saw(self, due_at: datetime, least: UUID) -> None:
        """Somebody looked at all there is: nothing that could be claimed was due before; the least id it found."""
        self._since = Since(due_at - SLACK, UUID(int=max(least.int - ID_SLACK, 0)))

    def forget(self) -> None:
        """The next claim looks at all there is."""
        self._all_at = -math.inf


def least_id(moment: datetime) -> UUID:
    """What the ids of all that is received from that moment on are not less than."""
    return UUID(int=int(moment.timestamp() * 1000) * MILLISECOND)
