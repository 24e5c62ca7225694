"""What a receiver knows of the world beside its requests: the registered sources, and how far its clock is off."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Literal

from chassis.database import DatabaseError, Unavailable
from chassis.logs import get_logger
from ingest import refusal
from ingest.replying import Methods
from ingest.store import Side
from ingest.terms import Terms, registered, replied, unregistered
from protocol.source import Source

REVISION_SECONDS = 1.0  # a source that is changed now is known everywhere within twice that
OFFSET_EVERY = 60  # times that: once a minute
OFFSET_SECONDS_NOTED = 300.0  # beyond this somebody should look at a clock
ANY = "*"  # stands for every source
NO_METHODS: Methods = {}

log = get_logger()


class Knowledge:
    """Refreshed while `run` runs; with the database away the last knowledge stands. `unseal` raises ValueError.

    `methods`: of sources that are replied to, registered or not. What somebody registered stands.
    """

    def __init__(
        self,
        side: Side,
        unknown_sources: Literal["auto", "store", "reject"],
        body_bytes_max: int,
        unseal: Callable[[str], bytes],
        methods: Methods = NO_METHODS,
    ) -> None:
        self._side = side
        self._unknown_sources = unknown_sources
        self._body_bytes_max = body_bytes_max
        self._unseal = unseal
        self._revision: int | None = None
        self._of_sources: dict[str, Terms] = {}
        self._of_providers, self._of_others = unregistered(body_bytes_max)
        self._of_replied = self._replied(methods)
        self._unregistered = self._nobody_knows
        self._faults: dict[str, str] = {}
        self._faults_noted: dict[str, str] = {}
        self.offset_seconds = 0.0

    def terms_of(self, source: str) -> Terms:
        """Raises the Refusal of a source that nothing is taken for."""
        terms = self._of_sources.get(source)
        if terms is None:
            return self._unregistered(source)
        if terms.fault is not None:
            raise refusal.faulty(source)
        return terms

    def _nobody_knows(self, source: str) -> Terms:
        raise refusal.not_stored("the database is away, so nobody knows yet which sources are registered")

    def _store(self, source: str) -> Terms:
        return self._of_providers.get(source, self._of_others)

    def _reject(self, source: str) -> Terms:
        terms = self._of_replied.get(source)
        if terms is None:
            raise refusal.unknown_source(source)
        return terms

    def _replied(self, methods: Methods) -> dict[str, Terms]:
        """The terms of sources that are replied to by name; those that are not heard of here are heard by them too."""
        anywhere = methods.get(ANY, ())
        self._of_others = replied(self._of_others, anywhere)
        self._of_providers = {name: replied(terms, anywhere) for name, terms in self._of_providers.items()}
        named = {
            name: replied(self._of_providers.get(name, self._of_others), each)
            for name, each in methods.items()
            if name != ANY
        }
        self._of_providers |= named
        return named

    async def run(self) -> None:
        turn = 0 if self._revision is None else 1
        while True:
            await asyncio.sleep(REVISION_SECONDS)
            try:
                await self.refresh(clock=turn % OFFSET_EVERY == 0)
                turn += 1
                self._note_faults()
            except Unavailable:
                turn, self._revision = 0, None  # another server may answer next, with another clock and other sources

    async def refresh(self, *, clock: bool) -> None:
        """Ask the database once. Raises Unavailable."""
        if clock:  # first: with the sources known, requests are let in, and want the right time
            self.offset_seconds = await self._side.clock_offset_seconds()
            if abs(self.offset_seconds) > OFFSET_SECONDS_NOTED:
                log.warning("clock.differs", database_ahead_seconds=round(self.offset_seconds))
        revision = await self._side.revision()
        if revision != self._revision or self._faults:  # a fault may be mended without a change: the key is in a file
            self._learn(await self._side.sources(self._unseal))
            self._revision = revision  # of before: what changed while they were read is read again

    def _learn(self, sources: Mapping[str, Source]) -> None:
        self._of_sources = {name: registered(source, self._body_bytes_max) for name, source in sources.items()}
        is_any_registered = any(not source.is_probe for source in sources.values())
        rejects = self._unknown_sources == "reject" or (self._unknown_sources == "auto" and is_any_registered)
        self._unregistered = self._reject if rejects else self._store
        self._faults = {name: terms.fault for name, terms in self._of_sources.items() if terms.fault is not None}

    def _note_faults(self) -> None:
        if self._faults != self._faults_noted:
            for name, fault in self._faults.items():
                log.error("source.faulty", source=name, reason=fault)
            self._faults_noted = self._faults

    def require_usable(self) -> None:
        """Raise DatabaseError where a source that must be judged, or greeted, before the answer cannot be."""
        for name, fault in self._faults.items():
            raise DatabaseError(
                f"source {name!r}: {fault}. Give this receiver the key that sealed its secrets, or mend the source: "
                f"hookd sources rotate {name}, or edit, or remove"
            )
