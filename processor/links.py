"""The processor's connections, and how PostgreSQL plans what is sent over them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from chassis.database import Connection, Database, Link, TimedOut, check_revision

T = TypeVar("T")

REVISION_NEEDED = "0002"
STATEMENT_SECONDS = 10.0
LANES = (0, 1)  # while one batch is being committed the next is sent; claims and settles alike

# Each of our statements is an index probe, whatever the statistics say: made while a day was empty, a plan would else
# turn midnight into a scan of the whole day for each row. So what is looked up is always given as `id = ANY(…)`, which
# an index scan never leaves out (the condition of a nested loop it may: then it reads the index from one end to the
# other and is called an index scan all the same), and joined by hash.
LIMITS = {"statement_timeout": "30s", "lock_timeout": "10s"}
PLANS = {
    **{f"enable_{each}": "off" for each in ("seqscan", "bitmapscan", "nestloop", "mergejoin", "sort")},
    "jit": "off",
    **LIMITS,
}
# A claim looks at every day there is: planned anew each time, a hundred of them would cost it a third of its time.
CLAIM_PLANS = {**PLANS, "plan_cache_mode": "force_generic_plan"}


class Links:
    """Five: two claim, two settle, one is for everything that may wait. `name` is theirs."""

    def __init__(self, database: Database, name: str) -> None:
        self.claiming, self.settling = (
            tuple(Link(database, f"{name} {verb} {lane}", settings=plans, greet=greet) for lane in LANES)
            for verb, plans in (("claim", CLAIM_PLANS), ("settle", PLANS))
        )
        self.side = Link(database, f"{name} side", settings=CLAIM_PLANS, greet=greet)
        self._all = (*self.claiming, *self.settling, self.side)

    async def check(self) -> None:
        """Raise DatabaseError for a database that cannot be used as it is, Unavailable for one that is away."""
        links = (self.claiming[0], *self.settling, self.side)
        await asyncio.gather(*(self.run(link, _nothing) for link in links))

    async def run(
        self, link: Link, work: Callable[[Connection], Awaitable[T]], timeout: float = STATEMENT_SECONDS
    ) -> T:
        """Do `work` on that connection. Raises Unavailable, DatabaseError, or the work's own DATA_ERRORS."""
        try:
            return await link.run(work, timeout=timeout)
        except TimedOut:
            for each in self._all:  # half-open, it seems; or else each would find out by waiting as long
                each.drop()
            raise

    async def close(self) -> None:
        for link in self._all:
            await link.close()


async def greet(connection: Connection) -> None:
    await check_revision(connection, REVISION_NEEDED)


async def _nothing(_: Connection) -> None:
    return None
