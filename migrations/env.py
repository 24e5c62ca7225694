"""Alembic's entry: one transaction, under a lock that a second migrator polls for."""

import asyncio
import time
from typing import Any

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

TURN_SECONDS = 0.2
CONFIGURE: dict[str, Any] = {
    "version_table": "schema_version",
    "version_table_schema": "hookd",
    "transaction_per_migration": False,
}


def offline() -> None:
    context.configure(
        dialect_name="postgresql", literal_binds=True, output_buffer=context.config.output_buffer, **CONFIGURE
    )
    with context.begin_transaction():
        context.execute("CREATE SCHEMA IF NOT EXISTS hookd")
        context.run_migrations()


async def online() -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=context.config.attributes["connect"], poolclass=NullPool
    )
    async with engine.begin() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


def migrate(connection: Connection) -> None:
    wait_for_turn(connection)
    # Where somebody made it for us we may not make it, IF NOT EXISTS or not.
    if connection.scalar(text("SELECT to_regnamespace('hookd') IS NULL")):
        connection.execute(text("CREATE SCHEMA hookd"))
    context.configure(connection=connection, **CONFIGURE)
    found = context.config.attributes["found"] = context.get_context().get_current_revision()
    if found is None or found in {each.revision for each in context.script.walk_revisions()}:
        context.run_migrations()


def wait_for_turn(connection: Connection) -> None:
    # Polled: waiting inside pg_advisory_xact_lock would hold a snapshot that CREATE INDEX CONCURRENTLY waits for.
    while not connection.scalar(text("SELECT pg_try_advisory_xact_lock(hashtext('hookd.migrate'))")):
        context.config.attributes["waiting"]()
        time.sleep(TURN_SECONDS)


if context.is_offline_mode():
    offline()
else:
    asyncio.run(online())
