"""From which due time on a claim looks.

While somebody holds a snapshot, what was settled since stays at the head of the index of what is due, and each claim
that looks from its first entry on reads it all: 11 ms for each 60,000 events.
"""

import math
import time
from collections.abc import Callable
from datetime import datetime, timedelta

ALL_SECONDS = 1.0  # nothing that turns up before the watermark is passed by for longer
# A row is due from when its insert began, and shows when that is committed: up to so long, it is never passed by.
SLACK = timedelta(seconds=1)


class Watermark:
    """The oldest due time there was when a claim last looked at all there is, which one does every second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: datetime | None = None
        self._all_at = -math.inf

    def begin(self) -> datetime | None:
        """Where a claim that begins now starts to look; None: it looks at all there is."""
        if self.seconds_until_all > 0:
            return self._since
        self._all_at = self._clock()
        return None

    @property
    def seconds_until_all(self) -> float:
        """Until a claim is to look at all there is."""
        return max(self._all_at + ALL_SECONDS - self._clock(), 0.0)

    def saw(self, oldest: datetime) -> None:
        """Somebody looked at all there is: nothing that could be claimed was due before `oldest`."""
        self._since = oldest - SLACK

    def forget(self) -> None:
        """The next claim looks at all there is."""
        self._all_at = -math.inf
