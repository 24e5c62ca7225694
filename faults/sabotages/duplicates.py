"""Whose a delivery is, decided wrongly on purpose."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from faults.sabotage import sabotage
from processor.holding.claimed import Claimed
from processor.sifting.sieve import Sieve
from processor.sifting.store import Contender, Deliveries

NOBODY = UUID(int=0)
OWN_ALREADY = "SELECT event_id FROM hookd.deliveries WHERE event_id = ANY($1)"


@sabotage
def decide_by_heart() -> None:
    """Each processor decides by what it remembers, and nothing is committed."""
    owners: dict[tuple[str, str], UUID] = {}

    async def decide(self: Deliveries, contenders: Sequence[Contender], lane: int | None = None) -> dict[UUID, UUID]:
        return {each.event_id: owners.setdefault((each.source, each.key), each.event_id) for each in contenders}

    Deliveries.decide = decide  # type: ignore[method-assign]


@sabotage
def decide_before_judging() -> None:
    """Whose a delivery is, is decided among all that bear its id, before any is verified."""
    sift = Sieve.sift

    async def decide_first(self: Sieve, claimed: Sequence[Claimed], lane: int) -> dict[UUID, Any]:
        await self._registry.know(claimed[0].row["revision"])
        sources = self._registry.sources
        known = [(each, sources[each.row["source"]]) for each in claimed if each.row["source"] in sources]
        outcomes = await self._decided(known, lane)
        rest = [each for each in claimed if each.id not in outcomes]
        return outcomes | (await sift(self, rest, lane) if rest else {})

    Sieve.sift = decide_first  # type: ignore[method-assign]
    Sieve._contends = lambda self, claimed, source: True  # type: ignore[method-assign]


@sabotage
def decided_once_and_for_all() -> None:
    """An event that owns its delivery already, for it was claimed before, is taken for a copy."""
    decide = Deliveries.decide

    async def decide_once(
        self: Deliveries, contenders: Sequence[Contender], lane: int | None = None
    ) -> dict[UUID, UUID]:
        ids = [each.event_id for each in contenders]
        again = await self._run(self._side, lambda connection: connection.fetch(OWN_ALREADY, ids))
        owners = await decide(self, contenders, lane)
        return owners | dict.fromkeys((row["event_id"] for row in again), NOBODY)

    Deliveries.decide = decide_once  # type: ignore[method-assign]
