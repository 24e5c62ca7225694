"""PgQueuer on asyncpg and uvloop. `python -m benchmarks.rivals.with_pgqueuer (install|work)`."""

import sys
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer import AsyncpgDriver, PgQueuer
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.rivals.notes import note

BATCH = 500


async def install() -> None:
    """Its tables, and the autovacuum settings it recommends for them."""
    queries = Queries.from_asyncpg_connection(await asyncpg.connect())
    await queries.install()
    await queries.optimize_autovacuum()


async def work() -> None:
    queue = PgQueuer(AsyncpgDriver(await asyncpg.connect()))

    @queue.entrypoint("event")
    async def event(job: Job) -> None:
        note(job.id)

    await queue.run(batch_size=BATCH, dequeue_timeout=timedelta(seconds=5))


if __name__ == "__main__":
    uvloop.run(install() if sys.argv[1] == "install" else work())
