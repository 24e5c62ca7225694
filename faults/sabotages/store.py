"""What stands on the table, broken on purpose."""

import asyncio
from collections.abc import Sequence
from datetime import date
from typing import Any

from chassis.database import DATA_ERRORS, Connection, Database
from faults.sabotage import sabotage
from ingest import store as receiving
from ingest.batch import Lane
from ingest.knowledge import Knowledge
from ingest.receiver import Receiver
from migrations import store as migrating
from processor import links
from processor.settling import store as settling
from processor.settling.store import Results
from processor.upkeep.store import Upkeep


@sabotage
def refuse_whole_batches() -> None:
    """A batch with a row that PostgreSQL refuses is refused whole."""

    async def halve(self: Lane, batch: Sequence[Any]) -> None:
        self._refuse(batch, "sabotaged")

    Lane._halve = halve  # type: ignore[method-assign]


@sabotage
def condemn_whole_batches() -> None:
    """A settle with a row that PostgreSQL refuses fails all of its rows."""
    settle_one = Results._settle_unrecordable
    settle = Results.settle

    async def condemn(self: Results, settlements: Any, lane: int = 0) -> Any:
        if len(settlements) == 1:
            return await settle(self, settlements, lane)
        try:
            return await self._settling[lane].run(
                lambda connection: settling._settle(connection, settlements), timeout=10
            )
        except DATA_ERRORS as error:
            return set().union(*[await settle_one(self, each, error, lane) for each in settlements])

    Results.settle = condemn  # type: ignore[method-assign]


@sabotage
def never_make_a_day() -> None:
    """A receiver that finds no partition for a row does not make one."""

    async def add_day(connection: Connection, day: date) -> None:
        await asyncio.sleep(0)

    receiving.add_day = add_day


@sabotage
def let_the_planner_choose() -> None:
    """Claims and settles may scan a table, if its statistics say so."""
    links.PLANS.clear()
    links.CLAIM_PLANS.clear()


@sabotage
def wait_for_locks() -> None:
    """A day is dropped by one who waits for the table's lock, everybody else behind him."""

    async def drop_day(self: Upkeep, day: date) -> str:
        async def work(connection: Connection) -> str:
            async with connection.transaction():
                await connection.execute("LOCK TABLE hookd.events IN ACCESS EXCLUSIVE MODE")
                return str(await connection.fetchval("SELECT hookd.drop_day($1)", day))

        return await self._side.run(work, timeout=30)

    Upkeep.drop_day = drop_day  # type: ignore[method-assign]


@sabotage
def drop_days_with_new_events() -> None:
    """A day that is over is dropped, whatever is in it."""

    async def drop_day(self: Upkeep, day: date) -> str:
        name = f"hookd.events_{day:%Y%m%d}"
        await self._side.run(lambda connection: connection.execute(f"DROP TABLE {name}"), timeout=10)
        return "dropped"

    Upkeep.drop_day = drop_day  # type: ignore[method-assign]


@sabotage
def migrate_under_a_lock() -> None:
    """A migration holds the table for as long as it takes."""
    migrate = migrating.migrate

    async def lock(database: Database) -> None:
        connection = await database.connect("migrate")
        async with connection.transaction():
            await connection.execute("LOCK TABLE hookd.events IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(8)
        await connection.close()

    def migrate_slowly(database: Database, waiting: Any) -> Any:
        asyncio.run(lock(database))
        return migrate(database, waiting)

    migrating.migrate = migrate_slowly


@sabotage
def trust_the_own_clock() -> None:
    """A receiver does not ask PostgreSQL what time it is."""
    refresh = Knowledge.refresh

    async def refresh_sources(self: Knowledge, *, clock: bool) -> None:
        await refresh(self, clock=False)

    Knowledge.refresh = refresh_sources  # type: ignore[method-assign]


@sabotage
def ready_whatever_happens() -> None:
    """A receiver says it is ready, whether or not PostgreSQL takes writes."""

    async def fault(self: Receiver) -> None:
        await asyncio.sleep(0)

    Receiver.fault = fault  # type: ignore[method-assign]
