"""All that this process holds: the leases, and the room that bodies take meanwhile."""

import asyncio
from collections.abc import Sequence

from processor.holding.claimed import Claimed
from processor.holding.lease import Leases
from processor.holding.room import Room


class Holding:
    """Rows from their claim to their settle. `freed` is set when there may be room for more of them."""

    def __init__(self, leases: Leases, bytes_max: int) -> None:
        self._leases = leases
        self.room = Room(bytes_max)
        self.freed = asyncio.Event()

    def hold(self, claimed: Sequence[Claimed]) -> None:
        self._leases.hold(claimed)
        self.room.take(sum(map(_inline_bytes, claimed)))

    def release(self, settled: Sequence[Claimed]) -> None:
        self._leases.let_go(settled)
        self.room.give_back(sum(map(_inline_bytes, settled)))

    def let_go(self, claimed: Claimed) -> None:
        """Nothing is left to do for it here: it is settled, or left to its lease."""
        self._leases.let_go([claimed])
        self.drop(claimed)

    def drop(self, claimed: Claimed) -> None:
        """It is not held any more: where its lease was lost somebody else has it, whatever came of it here."""
        if claimed.waiter is not None:
            claimed.waiter.tell(None)
        self.room.give_back(_inline_bytes(claimed))
        self.freed.set()

    def __len__(self) -> int:
        return len(self._leases)


def _inline_bytes(claimed: Claimed) -> int:
    return claimed.row["bytes"] if claimed.row["payload"] is not None else 0
