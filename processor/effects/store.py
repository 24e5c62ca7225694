"""Transactions for handlers: a run's effects and its event's settle, committed together or not at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import NamedTuple, TypeAlias, cast
from uuid import UUID

import asyncpg

from chassis.database import FAILURES, Connection, Database, Unavailable
from processor.outcome import Cut, Ending, Saved, ended_with
from processor.settling.store import Settlement

Proxy: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

BEGIN_SECONDS = 10.0
SAVE_SECONDS = 10.0  # for the settle, and for the commit: as any statement of ours
UNDO_SECONDS = 1.0  # a connection that does not roll back by then is given up, and the server rolls back
FROZEN_SECONDS = 5.0  # beyond a run's time, for a process that stands still: then the server ends the transaction

# What the handler finds before it begins, whoever ran on this connection before. (asyncpg's own reset leaves roles,
# temporary tables and sequences as they are.)
AS_NEW = "RESET SESSION AUTHORIZATION; RESET ROLE; DISCARD TEMP; DISCARD SEQUENCES;"
# Outside of the one transaction nothing can be written: what follows a handler's own ROLLBACK would else be committed.
READ_ONLY = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY;"
READ_WRITE = "SET TRANSACTION READ WRITE;"

# A cursor WITH HOLD is read when its transaction is to be committed. This one cannot be read: so a handler's COMMIT
# commits nothing, and says why. The settle closes the cursor first; where it is gone, the transaction is another.
GUARD = """
DECLARE hookd_commits NO SCROLL CURSOR WITH HOLD FOR
 SELECT ('hookd commits this transaction itself, once the handler has returned; server process '
         || pg_backend_pid())::int;
"""
CLOSE_GUARD = "CLOSE hookd_commits; RESET SESSION AUTHORIZATION; RESET ROLE;"

# One row by its key, for the session's planner settings are the user's own. The times are the statement's: now() is
# when the transaction began. The id comes as text: a handler may have given its connection another codec for uuids.
SETTLE = """
WITH settled AS (
  UPDATE hookd.events
     SET status = 'processed', held_by = NULL, reason = NULL, finished_at = statement_timestamp(),
         event_type = coalesce($5, event_type), delivery_id = coalesce($6, delivery_id), verdict = coalesce($7, verdict)
   WHERE id = $1::text::uuid AND claims = $2 AND status = 'new' AND held_by IS NOT NULL
  RETURNING id, claims, attempts, received_at),
noted AS (
  INSERT INTO hookd.attempts (event_id, claim, attempt, ended_at)
  SELECT id, claims, attempts, statement_timestamp() FROM settled WHERE $3),
counted AS (
  INSERT INTO hookd.counts AS c (day, source, status, events)
  SELECT (received_at AT TIME ZONE 'UTC')::date, $4, 'processed', 1 FROM settled
  ON CONFLICT (day, source, status) DO UPDATE SET events = c.events + 1)
SELECT count(*)::int FROM settled
"""

ENDED_ITSELF = "its handler ended the transaction: hookd commits it, once the handler has returned"
WENT_ON = (
    "a statement of its handler failed, and the handler went on: PostgreSQL saves nothing of such a transaction; put"
    " what may fail into a savepoint, async with conn.transaction()"
)
LOST_CONNECTION = "its database connection was lost while its handler ran"
UNSETTLED = f"its own settle was not answered within {SAVE_SECONDS:g} s: nothing of it is saved"


class Seal(NamedTuple):
    """What a run's own settle writes."""

    event_id: UUID
    claims: int
    noted: bool
    label: str
    event_type: str | None
    delivery_id: str | None
    verdict: str | None

    @classmethod
    def of(cls, settlement: Settlement) -> "Seal":
        claimed = settlement.claimed
        return cls(claimed.id, claimed.row["claims"], settlement.noted, settlement.label, *claimed.found)


class Transactions:
    """So many at once. A connection is opened when it is first needed, and closed when it was idle for five minutes."""

    def __init__(self, database: Database, connections_max: int) -> None:
        self._database = database
        self._connections_max = connections_max
        self._pool: Pool | None = None

    async def begin(self, timeout_seconds: float) -> "Transaction":
        """One for a run of so many seconds, once a connection is free. Raises Unavailable."""
        try:
            pool = await self._opened()
            transaction = Transaction(pool, await pool.acquire())
            await transaction.begin(timeout_seconds)
        except FAILURES as error:
            raise Unavailable(f"PostgreSQL failed: {str(error) or type(error).__name__}") from error
        return transaction

    async def _opened(self) -> Pool:
        if self._pool is None:
            self._pool = asyncpg.create_pool(
                min_size=0, max_size=self._connections_max, connect=self._connect, reset=_as_new
            )
        return await self._pool

    async def _connect(self, *_: object, **__: object) -> Connection:
        connection = await self._database.connect("processor handler", command_timeout=None)
        try:
            await connection.execute(READ_ONLY, timeout=BEGIN_SECONDS)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def close(self) -> None:
        """Say goodbye to the server, for a second at most."""
        if self._pool is not None:
            with contextlib.suppress(*FAILURES):
                async with asyncio.timeout(1.0):
                    await self._pool.close()


class Transaction:
    """One run's. `connection` is the handler's, until the end."""

    def __init__(self, pool: Pool, proxy: Proxy) -> None:
        self._pool = pool
        self._proxy = proxy
        # It passes for an asyncpg.Connection (but for its declared type), and is of no use to anybody once released.
        self.connection = cast(Connection, proxy)
        self._outermost = self.connection.transaction(isolation="read_committed")

    async def begin(self, timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(BEGIN_SECONDS):
                await self._outermost.start()
                await self.connection.execute(READ_WRITE + _limits(self.connection, timeout_seconds) + GUARD)
        except BaseException:
            self.give_up()
            raise

    async def end(self, ended: Ending | Cut, seal: Seal) -> Ending | Cut | Saved:
        """Commit, if its handler returned and the settle finds its row; else roll back. What became of the run.

        `saved`: it is committed. `lost`: the event is another's by now, so it was rolled back. `unknown`: whether it is
        committed the row tells, once its lease has ended. Else it was rolled back, and ended as is said.
        """
        if isinstance(ended, Ending) and ended.kind == "returned":
            became: Ending | Cut | Saved = await self._saved(seal)
        elif isinstance(ended, Ending) and ended.kind != "timed out":
            became = self._explained(ended)
            await self._undo()
        else:
            became = ended
            await self._undo()
            self.give_up()
        await self._release()
        return became

    async def _saved(self, seal: Seal) -> Ending | Saved:
        if (broken := self._broken()) is not None:
            await self._undo()
            return Ending("raised", broken)
        try:
            async with asyncio.timeout(SAVE_SECONDS):
                await self.connection.execute(CLOSE_GUARD)
                is_its_own = await self.connection.fetchval(SETTLE, str(seal.event_id), *seal[1:])
        except Exception as error:  # noqa: BLE001 - a codec of the handler's own may raise anything
            ending = self._explained(ended_with(error), error)
            await self._undo()
            return ending
        if not is_its_own:
            await self._undo()
            return "lost"
        return await self._committed()

    async def _committed(self) -> Ending | Saved:
        try:
            async with asyncio.timeout(SAVE_SECONDS):
                await self._outermost.commit()
        except FAILURES as error:
            if isinstance(error, asyncpg.PostgresError) and error.severity_en == "ERROR":
                return ended_with(error)  # the server says that it did not: a deferred constraint, say
            self.give_up()
            return "unknown"
        return "saved"

    def _explained(self, ending: Ending, error: Exception | None = None) -> Ending:
        """In plainer words than the driver's."""
        if ending.kind != "raised":
            return ending
        match error:
            case asyncpg.InFailedSQLTransactionError():
                why: str | None = WENT_ON
            case asyncpg.InvalidCursorNameError():
                why = ENDED_ITSELF
            case TimeoutError():
                why = UNSETTLED
            case _:
                why = self._broken()
        return ending if why is None else replace(ending, line=why)

    def _broken(self) -> str | None:
        """What is wrong with the transaction, where it is there no more."""
        try:
            if self.connection.is_closed():
                return LOST_CONNECTION
            return None if self.connection.is_in_transaction() else ENDED_ITSELF
        except asyncpg.InterfaceError:  # the pool knows already that it is closed
            return LOST_CONNECTION

    async def _undo(self) -> None:
        try:
            async with asyncio.timeout(UNDO_SECONDS):
                await self._outermost.rollback()
        except FAILURES:
            self.give_up()

    def give_up(self) -> None:
        """End the connection at once, whatever it is doing; the server rolls back."""
        with contextlib.suppress(asyncpg.InterfaceError):  # it has ended
            self._proxy.terminate()

    async def _release(self) -> None:
        """Nobody has the connection any more, nor what the handler left behind."""
        with contextlib.suppress(*FAILURES):
            await self._pool.release(self._proxy, timeout=UNDO_SECONDS)


def _limits(connection: Connection, timeout_seconds: float) -> str:
    names = ["idle_in_transaction_session_timeout"]
    if connection.get_server_version().major >= 17:
        names.append("transaction_timeout")
    milliseconds = int((timeout_seconds + FROZEN_SECONDS) * 1000)
    return "".join(f"SET LOCAL {name} = {milliseconds};" for name in names)


async def _as_new(connection: Connection) -> None:
    await connection.execute(AS_NEW + connection.get_reset_query() + READ_ONLY)


@contextlib.asynccontextmanager
async def trial_transaction(connection: Connection, *, keep: bool) -> AsyncIterator[None]:
    """What a handler does to the connection, kept or not; within a transaction that is open already, a savepoint.

    What fails is rolled back; so is what a commit would be refused for, which is raised.
    """
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except BaseException:
        with contextlib.suppress(*FAILURES):
            await transaction.rollback()
        raise
    await (transaction.commit() if keep else transaction.rollback())
