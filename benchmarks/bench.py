"""What every benchmark is handed: a server of its own, how much to do, and where to say what it is at."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rig.postgres import Postgres

T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """How much. Figures of record are taken with FULL."""

    rounds: int
    seconds: float  # under load, for each run
    warm_seconds: float
    events: int  # drained
    backlog: int  # drained while memory is watched
    connections: int  # idle, while memory is watched
    wal_segments: int
    queued: int  # drained by each of the queues that are compared


FULL = Scale(
    rounds=5, seconds=6, warm_seconds=2, events=50_000, backlog=500_000, connections=1000, wal_segments=64,
    queued=100_000,
)  # fmt: skip
QUICK = Scale(
    rounds=3, seconds=2, warm_seconds=1, events=50_000, backlog=50_000, connections=1000, wal_segments=24,
    queued=20_000,
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    postgres: Postgres
    scale: Scale

    @property
    def folder(self) -> Path:
        return self.postgres.folder

    def file(self, name: str, text: str) -> Path:
        """A file of this run's."""
        path = self.folder / name
        path.write_text(text)
        return path

    def rounds(self, contestants: Sequence[T]) -> Iterator[T]:
        """Each of them once a round, another one first each time: what disturbs the machine disturbs all alike."""
        for number in range(self.scale.rounds):
            turn = number % len(contestants)
            yield from (*contestants[turn:], *contestants[:turn])

    @staticmethod
    def say(words: str) -> None:
        """Progress, for whoever waits; figures go to stdout."""
        print(words, file=sys.stderr, flush=True)
