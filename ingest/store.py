"""The receiver's side of the table: COPY of a batch, the hint that follows, and the little it may read."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import date, datetime
from functools import lru_cache
from typing import TypeAlias

import asyncpg

from chassis.database import (
    DATA_ERRORS,
    Connection,
    Database,
    DatabaseError,
    Link,
    Unavailable,
    check_revision,
    clock_offset_seconds,
)
from chassis.logs import get_logger
from ingest.batch import AlreadyThere, NotWritten, Refused, Row
from protocol.source import Source, source_of

REVISION_NEEDED = "0002"
COLUMNS = (
    "id",
    "source",
    "event_type",
    "delivery_id",
    "received_at",
    "method",
    "target",
    "headers",
    "remote",
    "payload",
    "verdict",
)
RECEIVED_AT, TARGET, HEADERS = (COLUMNS.index(name) for name in ("received_at", "target", "headers"))
CHANNEL = "hookd"
HINT_SECONDS = 0.010
SIDE_SECONDS_MAX = 2.0
# A write that we gave up may go on in the server: not for ever, and not behind a lock.
SERVER_LIMITS = {"statement_timeout": "60s", "lock_timeout": "10s"}
Put: TypeAlias = Callable[[Connection, Sequence[Row]], Awaitable[None]]
Greet: TypeAlias = Callable[[Connection], Awaitable[None]]
KEEP = f"SELECT hookd.keep_refused({', '.join(f'${number}' for number in range(1, len(COLUMNS) + 2))})"

log = get_logger()


class Writer:
    """Writes batches over one connection of its own, by `put`: COPY, unless told otherwise."""

    def __init__(self, database: Database, name: str, put: Put | None = None, greet: Greet | None = None) -> None:
        self._link = Link(database, name, settings=SERVER_LIMITS, greet=greet or greet_receiver)
        self._put = put or copy
        self._failing = False

    async def write(self, rows: Sequence[Row], timeout: float) -> None:
        """Commit all rows within `timeout` seconds. Raises NotWritten, Refused or AlreadyThere."""
        try:
            await self._link.run(lambda connection: put_where_days_are(self._put, connection, rows), timeout=timeout)
        except Unavailable as error:
            if not self._failing:
                log.error("database.lost", reason=str(error))
            self._failing = True
            raise NotWritten(str(error)) from error
        except asyncpg.UniqueViolationError as error:
            raise AlreadyThere from error
        except DATA_ERRORS as error:
            log.error("batch.refused", rows=len(rows), reason=str(error))
            raise Refused(str(error)) from error
        if self._failing:
            log.warning("database.back")
            self._failing = False

    async def close(self) -> None:
        await self._link.close()


async def greet_receiver(connection: Connection) -> None:
    await check_revision(connection, REVISION_NEEDED)
    await connection.set_type_codec("inet", schema="pg_catalog", encoder=encode_inet, decoder=bytes, format="binary")


@lru_cache(10_000)
def encode_inet(address: str) -> bytes:
    """PostgreSQL's binary inet (network_send in src/backend/utils/adt/network.c). asyncpg's own parses each anew."""
    packed = ipaddress.ip_address(address).packed
    family, bits = (2, 32) if len(packed) == 4 else (3, 128)
    return bytes((family, bits, 0, len(packed))) + packed


async def put_where_days_are(put: Put, connection: Connection, rows: Sequence[Row]) -> None:
    try:
        await put(connection, rows)
    except asyncpg.CheckViolationError as error:
        if error.constraint_name is not None:
            raise
        for day in {_day_of(row) for row in rows}:  # no partition for a row: its day is made, here and now
            await add_day(connection, day)
        await put(connection, rows)


async def copy(connection: Connection, rows: Sequence[Row]) -> None:
    await connection.copy_records_to_table("events", schema_name="hookd", columns=COLUMNS, records=rows)


def head_size(row: Row) -> int:
    """How much of a row its request's head is, in bytes: a thousand of them may be far more than their bodies."""
    return len(str(row[TARGET])) + len(str(row[HEADERS]))


def _day_of(row: Row) -> date:
    received_at = row[RECEIVED_AT]
    assert isinstance(received_at, datetime)
    return received_at.date()


async def add_day(connection: Connection, day: date) -> None:
    while True:
        try:
            made = await connection.fetchval("SELECT hookd.add_day($1)", day)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(0.02)  # whoever holds the lock is not made to wait for us; the batch has a time-out
            continue
        if made:
            log.warning("day.made", day=day.isoformat(), reason="no partition was there; does maintenance run?")
        return


class Side:
    """A connection beside the writes, for what must never delay one."""

    def __init__(self, database: Database, name: str) -> None:
        self._link = Link(database, name, settings=SERVER_LIMITS, greet=greet_receiver)
        self._stored = asyncio.Event()
        self._unheard = False  # the last hint was refused

    async def check(self) -> None:
        """Raise DatabaseError for a database that cannot be used as it is; one that is away may come back."""
        try:
            await self._link.run(_nothing, timeout=SIDE_SECONDS_MAX * 2)
        except DatabaseError:
            raise
        except Unavailable as error:
            log.error("database.lost", reason=str(error))

    async def can_commit(self) -> bool:
        """Whether a COPY of no rows goes through: it needs a server that takes writes, and the right to insert."""
        try:
            await self._link.run(lambda connection: copy(connection, ()), timeout=SIDE_SECONDS_MAX)
        except Unavailable:
            return False
        return True

    async def revision(self) -> int:
        """Another one after each change of sources or secrets. Raises Unavailable."""
        revision: int = await self._link.run(
            lambda connection: connection.fetchval("SELECT revision FROM hookd.registry"), timeout=SIDE_SECONDS_MAX
        )
        return revision

    async def sources(self, unseal: Callable[[str], bytes]) -> dict[str, Source]:
        """The registered sources by their names. `unseal` raises ValueError. Raises Unavailable."""
        records = await self._link.run(
            lambda connection: connection.fetch("SELECT * FROM hookd.receiver_sources"), timeout=SIDE_SECONDS_MAX
        )
        return {record["name"]: source_of(dict(record), unseal) for record in records}

    async def clock_offset_seconds(self) -> float:
        """How far the database's clock is ahead. Raises Unavailable."""
        return await self._link.run(clock_offset_seconds, timeout=SIDE_SECONDS_MAX)

    def hint(self) -> None:
        """Tell the processors that there is something new; soon, and never more often than needed."""
        self._stored.set()

    async def send_hints(self) -> None:
        """The first at once, then one in 10 ms at most, and always one after the last commit."""
        while True:
            await self._stored.wait()
            self._stored.clear()
            with suppress(Unavailable):  # a lost hint costs latency, never an event: the processor polls anyway
                await self._send_hint()
            await asyncio.sleep(HINT_SECONDS)

    async def _send_hint(self) -> None:
        """Raises Unavailable."""
        try:
            await self._link.run(lambda connection: connection.execute(f"NOTIFY {CHANNEL}"), timeout=SIDE_SECONDS_MAX)
        except DATA_ERRORS as error:  # somebody listens in a transaction without end: the server's queue is full
            if not self._unheard:
                log.warning("hints.refused", reason=str(error), hint="until it takes them, processors only poll")
            self._unheard = True
        else:
            self._unheard = False

    async def close(self) -> None:
        await self._link.close()


async def _nothing(_: Connection) -> None:
    return None


class Keeper:
    """Keeps what was refused at the edge, over a connection that is opened with the first of them.

    One of its own: a hint must not wait while another receiver has the lock that keeping takes.
    """

    def __init__(self, database: Database, name: str) -> None:
        self._link = Link(database, name, settings=SERVER_LIMITS, greet=greet_receiver)

    async def keep(self, row: Row, rows_max: int, timeout: float) -> bool:
        """Whether it is kept as a failed event, or its source has `rows_max` already. Raises Unavailable, Refused."""
        try:
            return await self._link.run(lambda connection: _keep(connection, row, rows_max), timeout=timeout)
        except DATA_ERRORS as error:
            raise Refused(str(error)) from error

    async def close(self) -> None:
        await self._link.close()


async def _keep(connection: Connection, row: Row, rows_max: int) -> bool:
    try:
        return bool(await connection.fetchval(KEEP, *row, rows_max))
    except asyncpg.CheckViolationError as error:
        if error.constraint_name is not None:
            raise
        await add_day(connection, _day_of(row))
        return bool(await connection.fetchval(KEEP, *row, rows_max))
