"""Handlers' own transactions, broken on purpose."""

import contextlib
from typing import Any

from chassis.database import FAILURES
from faults.sabotage import sabotage
from processor.effects import store
from processor.effects.store import CLOSE_GUARD, Transaction
from processor.outcome import RETURNED


@sabotage
def settle_outside_the_transaction() -> None:
    """What a handler wrote is committed first; its event is settled afterwards, as any other."""

    async def saved(self: Transaction, seal: Any) -> Any:
        await self.connection.execute(CLOSE_GUARD)
        became = await self._committed()
        return RETURNED if became == "saved" else became

    Transaction._saved = saved  # type: ignore[method-assign]


@sabotage
def commit_what_failed() -> None:
    """What a handler wrote is committed, though it raised."""

    async def commit(self: Transaction) -> None:
        with contextlib.suppress(*FAILURES):
            await self.connection.execute(CLOSE_GUARD)
            await self._outermost.commit()

    Transaction._undo = commit  # type: ignore[method-assign]


@sabotage
def commit_what_is_anothers() -> None:
    """A transaction whose settle finds no row is committed all the same."""
    settled = "SELECT count(*)::int FROM settled"
    assert settled in store.SETTLE
    store.SETTLE = store.SETTLE.replace(settled, "SELECT 1")
