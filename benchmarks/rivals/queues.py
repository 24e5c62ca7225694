"""The processors: how each rival is started, how an event gets into its table, and when its table is empty."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from benchmarks.rivals.packages import NO_PACKAGES, Packages
from chassis.database import Database
from ingest.store import Side
from rig import sample, seed
from rig.postgres import connected
from rig.processes import HOOKD, PYTHON

ROOM = Path(__file__).parent
Insert: TypeAlias = Callable[[int], Awaitable[list[str]]]


@dataclass(frozen=True)
class Queue:
    """`inserting` opens a producer's connection: called with a number it commits so many events, and returns ids."""

    name: str
    work: tuple[str, ...]
    install: tuple[str, ...]
    inserting: Callable[[str], AbstractAsyncContextManager[Insert]]
    is_empty: str
    settings: str
    packages: Packages = NO_PACKAGES
    is_batched: bool = True
    part: int = 1  # of the events, drained by those that would take minutes for all of them


@asynccontextmanager
async def _ours(url: str) -> AsyncIterator[Insert]:
    """As the receiver does it: COPY, and a hint from beside, after the commit."""
    side = Side(Database(url), "bench")
    hints = asyncio.create_task(side.send_hints())
    try:
        async with connected(url) as connection:

            async def insert(count: int) -> list[str]:
                began = datetime.now(UTC) - timedelta(seconds=count / seed.BATCH_ROWS * seed.BATCH_SECONDS)
                rows = list(seed.rows(began, 0, count))
                await connection.copy_records_to_table(
                    "events", schema_name="hookd", columns=seed.COLUMNS, records=rows
                )
                side.hint()
                return [str(row[0]) for row in rows]

            yield insert
    finally:
        hints.cancel()
        await asyncio.gather(hints, return_exceptions=True)
        await side.close()


def _by_sql(sql: str) -> Callable[[str], AbstractAsyncContextManager[Insert]]:
    """One statement and one commit for all; $1: how many, $2: the body."""

    @asynccontextmanager
    async def inserting(url: str) -> AsyncIterator[Insert]:
        async with connected(url) as connection:

            async def insert(count: int) -> list[str]:
                return [str(record[0]) for record in await connection.fetch(sql, count, sample.BODY.decode())]

            yield insert

    return inserting


def _python(module: str, verb: str) -> tuple[str, ...]:
    return (*PYTHON, f"benchmarks.rivals.{module}", verb)


def _node(file: str, *words: str) -> tuple[str, ...]:
    return ("node", str(ROOM / file), *words)


OURS = Queue(
    "hookd",
    (*HOOKD, "processor", "--app", str(ROOM / "with_hookd.py")),
    (),
    _ours,
    "SELECT NOT EXISTS (SELECT FROM hookd.events WHERE status = 'new')",
    "as shipped",
)
PGQUEUER = Queue(
    "PgQueuer",
    _python("with_pgqueuer", "work"),
    _python("with_pgqueuer", "install"),
    _by_sql(
        "INSERT INTO pgqueuer (priority, entrypoint, payload, status)"
        " SELECT 0, 'event', convert_to($2, 'UTF8'), 'queued' FROM generate_series(1, $1::int) RETURNING id"
    ),
    "SELECT NOT EXISTS (SELECT FROM pgqueuer)",
    "batch_size 500, uvloop, durability “durable” (all tables logged), its autovacuum settings",
    Packages(python=("pgqueuer", "asyncpg")),
)
PROCRASTINATE = Queue(
    "Procrastinate",
    _python("with_procrastinate", "work"),
    _python("with_procrastinate", "install"),
    _by_sql(
        "SELECT unnest(procrastinate_defer_jobs_v1(array_agg(("
        "'default', 'event', 0, NULL, NULL, jsonb_build_object('body', $2::jsonb), NULL"
        ")::procrastinate_job_to_defer_v1))) FROM generate_series(1, $1::int)"
    ),
    "SELECT NOT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))",
    "concurrency 20, listen_notify",
    Packages(python=("procrastinate", "psycopg")),
    is_batched=False,
    part=10,
)
GRAPHILE = "SELECT NOT EXISTS (SELECT FROM graphile_worker._private_jobs)"
GRAPHILE_ADD = _by_sql(
    "SELECT id FROM graphile_worker.add_jobs(ARRAY("
    " SELECT json_populate_record(NULL::graphile_worker.job_spec,"
    " json_build_object('identifier', 'event', 'payload', $2::json)) FROM generate_series(1, $1::int)))"
)
GRAPHILE_BATCHED = Queue(
    "graphile-worker, batched",
    _node("with_graphile.js", "work", "batched"),
    _node("with_graphile.js", "install"),
    GRAPHILE_ADD,
    GRAPHILE,
    "concurrentJobs 24, maxPoolSize 25, localQueue 500, completeJobBatchDelay 0",
    Packages(node=("graphile-worker",)),
)
GRAPHILE_ALONE = Queue(
    "graphile-worker, not batched",
    _node("with_graphile.js", "work"),
    _node("with_graphile.js", "install"),
    GRAPHILE_ADD,
    GRAPHILE,
    "concurrentJobs 24, maxPoolSize 25",
    Packages(node=("graphile-worker",)),
    is_batched=False,
)
PGBOSS = Queue(
    "pg-boss",
    _node("with_pgboss.js", "work"),
    _node("with_pgboss.js", "install"),
    _by_sql(
        "INSERT INTO pgboss.job (name, data) SELECT 'event', $2::jsonb FROM generate_series(1, $1::int) RETURNING id"
    ),
    "SELECT NOT EXISTS (SELECT FROM pgboss.job WHERE name = 'event' AND state < 'completed')",
    "batchSize 500, pollingIntervalSeconds 0.5 (the least it takes), notifyWorker after a full batch",
    Packages(node=("pg-boss", "pg")),
)
RIVALS = (PGQUEUER, PROCRASTINATE, GRAPHILE_BATCHED, GRAPHILE_ALONE, PGBOSS)
