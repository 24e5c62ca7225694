"""What the processor knows of sources: as they were registered when the rows at hand were claimed, or later."""

from collections.abc import Mapping

from chassis.logs import get_logger
from chassis.vault import Vault
from processor.sifting.store import Sources
from protocol.providers import PROVIDERS
from protocol.source import Source, source_of

# A source that nobody registered and that bears a provider's name is named as that provider names, and nothing more.
UNREGISTERED: Mapping[str, Source] = {
    name: Source(name, provider, "off", duplicates="none")
    for name, provider in PROVIDERS.items()
    if provider.event_types or provider.delivery_ids
}

log = get_logger()


class Unjudgeable(Exception):
    """Which sources say that they verify, and cannot. One line."""


class Registry:
    """Sources by their names, at a revision."""

    def __init__(self, table: Sources, vault: Vault) -> None:
        self._table = table
        self._vault = vault
        self.sources = UNREGISTERED
        self.revision: int | None = None

    async def know(self, revision: int) -> None:
        """Read again, unless this is the revision that is known. Raises Unavailable."""
        if revision != self.revision:
            await self.read()

    async def read(self) -> None:
        """Raises Unavailable."""
        for source in await self._renewed():
            log.error("source.unreadable", source=source.name, reason=source.fault)

    async def open(self) -> None:
        """Read for the first time. Raises Unjudgeable where a source should be verified and cannot, Unavailable."""
        if faulty := await self._renewed():
            raise Unjudgeable("cannot verify " + "; ".join(f"{source.name}: {source.fault}" for source in faulty))

    async def _renewed(self) -> list[Source]:
        """Those that cannot be judged; all that they send fails."""
        revision, records = await self._table.read()
        registered = {record["name"]: source_of(dict(record), self._vault.unseal) for record in records}
        self.sources, self.revision = {**UNREGISTERED, **registered}, revision
        return [source for source in registered.values() if cannot_judge(source)]


def cannot_judge(source: Source) -> bool:
    """Whether it should be judged, and nothing of it can be."""
    return source.mode != "off" and source.fault is not None
