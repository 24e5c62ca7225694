"""How many rows to hold: what can start soon, by how many did lately."""

import math
import time

ROWS_MAX = 4000  # a claim is under way while the workers have this much less to do


class Pace:
    """How many rows to hold: what can start within `horizon_seconds` at the pace seen lately."""

    def __init__(self, least: int, horizon_seconds: float) -> None:
        self._least = min(least, ROWS_MAX)
        self._horizon_seconds = horizon_seconds
        self._seen_at = time.monotonic()
        self._seen = 0
        self._lately = 0.0  # started within the last `horizon_seconds`, the longer ago the less it counts

    def rows(self, started: int) -> int:
        now = time.monotonic()
        fading = math.exp((self._seen_at - now) / self._horizon_seconds)
        self._lately = self._lately * fading + started - self._seen
        self._seen_at, self._seen = now, started
        return min(max(int(self._lately), self._least), ROWS_MAX)
