"""What a receiver knows of the world beside its requests: the registered sources, and how far its clock is off."""

import asyncio
from typing import Literal

from chassis.database import Unavailable
from chassis.logs import get_logger
from ingest import refusal
from ingest.store import Side

SOURCES_SECONDS = 2.0  # a source registered now is known everywhere by then
OFFSET_EVERY = 30  # times that: once a minute
OFFSET_SECONDS_NOTED = 300.0  # beyond this somebody should look at a clock

log = get_logger()


class Knowledge:
    """Refreshed while `run` runs; with the database away the last knowledge stands."""

    def __init__(self, side: Side, unknown_sources: Literal["auto", "store", "reject"]) -> None:
        self._side = side
        self._unknown_sources = unknown_sources
        self.sources: frozenset[str] | None = None
        self.offset_seconds = 0.0

    def judge(self, source: str) -> None:
        """Raise the Refusal for a source that is not to be stored."""
        if self._unknown_sources == "store":
            return
        if self.sources is None:
            raise refusal.not_stored("the database is away, so nobody knows yet which sources are registered")
        if source not in self.sources and (self.sources or self._unknown_sources == "reject"):
            raise refusal.unknown_source(source)

    async def run(self) -> None:
        turn = 0
        while True:
            try:
                await self.refresh(clock=turn % OFFSET_EVERY == 0)
                turn += 1
            except Unavailable:
                turn = 0  # another server may answer next, with another clock
            await asyncio.sleep(SOURCES_SECONDS)

    async def refresh(self, *, clock: bool) -> None:
        """Ask the database once. Raises Unavailable."""
        if clock:  # first: with the sources known, requests are let in, and want the right time
            self.offset_seconds = await self._side.clock_offset_seconds()
            if abs(self.offset_seconds) > OFFSET_SECONDS_NOTED:
                log.warning("clock.differs", database_ahead_seconds=round(self.offset_seconds))
        self.sources = await self._side.sources()
