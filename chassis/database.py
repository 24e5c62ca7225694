"""The one door to PostgreSQL: where it is, whether it may be trusted, and connections that mend themselves."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TypeAlias, TypeVar

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from chassis.settings import CommonSettings, data_folder

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
CONNECTION_TYPES = (asyncpg.Connection, asyncpg.pool.PoolConnectionProxy)  # what one may be declared as
T = TypeVar("T")

VERSION_MIN = 15  # 14 is past its end of life
# A log-in takes some seven round trips, half a second each to the other side of the world; asyncpg's default is 60 s.
CONNECT_SECONDS_MAX, OPEN_SECONDS_MAX = 4.0, 8.0
RETRY_SECONDS_FIRST, RETRY_SECONDS_MAX = 0.1, 1.0  # back within 5 s of the server's return

# What a server or network that died without a word costs: the server ends such a session after about 25 s.
# (A backend that waits for COPY data minds no time-out but these.)
KEEPALIVES = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
}

# However a connection may fail that was open.
FAILURES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# Errors about the data sent, for which the connection is not to blame: SQLSTATE class 22, 23 and 54, and what asyncpg
# finds while it encodes (UnicodeEncodeError is a ValueError).
DATA_ERRORS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,
    TypeError,
    OverflowError,
)


class Unavailable(Exception):
    """The database did not do it, or did not say so. Whether a write was committed is unknown."""


class TimedOut(Unavailable):
    """It did not say anything in time: the connection may be half-open, and others with it."""


class DatabaseError(Unavailable):
    """One clear sentence about a database that cannot be used as it is: waiting does not mend it, somebody must."""


class Database:
    """Where the rows live, and how to bring the server back where that is ours to do.

    `revive` blocks; it starts an embedded server that has died.
    """

    def __init__(self, url: str, *, allow_unsafe: bool = False, revive: Callable[[], None] | None = None) -> None:
        self.url = url
        self.allow_unsafe = allow_unsafe
        self._revive = revive
        self._reviving = threading.Lock()

    async def connect(
        self, name: str, *, settings: Mapping[str, str] | None = None, command_timeout: float | None = 60.0
    ) -> Connection:
        """A checked connection, shown as `hookd <name>` in pg_stat_activity.

        Raises DatabaseError for a server hookd must not use, Unavailable when there is none to be had now.
        """
        try:
            connection = await self._open(name, settings or {}, command_timeout)
        except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
            raise DatabaseError(f"PostgreSQL refuses the log-in: {error}") from None
        except asyncpg.InvalidCatalogNameError as error:
            raise DatabaseError(f"{error}: create it, or name another in HOOKD_DATABASE_URL") from None
        except asyncpg.ClientConfigurationError as error:
            raise DatabaseError(f"HOOKD_DATABASE_URL cannot be used: {error}") from None
        except ValueError:  # its words quote what it could not read, which may be a part of the password
            raise DatabaseError("HOOKD_DATABASE_URL, or a PG… variable beside it, cannot be read") from None
        except FAILURES as error:
            await asyncio.to_thread(self._bring_back)
            raise Unavailable(f"PostgreSQL cannot be reached: {_sentence(error)}") from error
        try:
            await self._check(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _bring_back(self) -> None:
        if self._revive is None or not self._reviving.acquire(blocking=False):
            return  # crash recovery may take longer than a caller waits: one try at a time
        try:
            self._revive()
        finally:
            self._reviving.release()

    async def _open(self, name: str, settings: Mapping[str, str], command_timeout: float | None) -> Connection:
        connection: Connection = await asyncpg.connect(
            self.url,
            timeout=CONNECT_SECONDS_MAX,
            command_timeout=command_timeout,
            target_session_attrs=SessionAttribute.read_write,
            server_settings={"application_name": f"hookd {name}", "timezone": "UTC", **KEEPALIVES, **settings},
        )
        return connection

    async def _check(self, connection: Connection) -> None:
        if connection.get_server_version().major < VERSION_MIN:
            raise DatabaseError(
                f"PostgreSQL {connection.get_server_version().major} is too old: hookd needs {VERSION_MIN} or later"
            )
        if self.allow_unsafe:
            return
        try:
            row = await connection.fetchrow(
                "SELECT current_setting('fsync') = 'off', current_setting('synchronous_commit') = 'off'"
            )
        except FAILURES as error:
            raise Unavailable(f"PostgreSQL left: {_sentence(error)}") from error
        assert row is not None
        for name, off in zip(("fsync", "synchronous_commit"), row, strict=True):
            if off:
                raise DatabaseError(
                    f"{name} is off: PostgreSQL may forget a webhook that was answered. "
                    "Turn it on, or set HOOKD_ALLOW_UNSAFE=true to accept that"
                )


class Link:
    """One dedicated connection: opened when first needed, thrown away when it fails, opened anew with back-off.

    Opening goes on when the time of whoever waits for it is over: far away it may take longer than a sender's patience.
    `greet` is awaited on each new connection before its first use. (A pool would hide which connection is meant, add a
    round trip to each use, and wait for a cancellation that a half-open connection never answers.)
    """

    def __init__(
        self,
        database: Database,
        name: str,
        *,
        settings: Mapping[str, str] | None = None,
        greet: Callable[[Connection], Awaitable[None]] | None = None,
    ) -> None:
        self._database = database
        self._greet = greet
        self._name = name
        self._settings = settings
        self._connection: Connection | None = None
        self._opening: asyncio.Task[Connection] | None = None
        self._turn = asyncio.Lock()
        self._pause = 0.0
        self._not_before = 0.0

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, timeout: float) -> T:
        """Do `work` on the connection within `timeout` seconds, connecting included.

        Raises Unavailable when that fails (the connection is then gone; TimedOut when it took too long), DatabaseError,
        or the work's own DATA_ERRORS.
        """
        try:
            async with asyncio.timeout(timeout), self._turn:
                return await self._do(work)
        except DATA_ERRORS:
            raise
        except TimeoutError as error:
            raise TimedOut(f"PostgreSQL did not answer within {timeout:.3g} s") from error
        except FAILURES as error:
            raise Unavailable(f"PostgreSQL failed: {_sentence(error)}") from error

    async def _do(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        connection = await self._ready()
        try:
            done = await work(connection)
        except DATA_ERRORS:
            raise
        except BaseException:
            self._fail()
            raise
        self._pause = 0.0
        return done

    async def _ready(self) -> Connection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(_retrieve)
        return await asyncio.shield(self._opening)

    async def _open(self) -> Connection:
        try:
            await asyncio.sleep(self._not_before - time.monotonic())
            async with asyncio.timeout(OPEN_SECONDS_MAX):
                connection = await self._database.connect(self._name, settings=self._settings)
                await self._greeted(connection)
        except BaseException:
            self._fail()
            raise
        finally:
            self._opening = None
        self._connection = connection
        return connection

    async def _greeted(self, connection: Connection) -> None:
        try:
            if self._greet is not None:
                await self._greet(connection)
        except BaseException:
            connection.terminate()
            raise

    def _fail(self) -> None:
        # A server that lets us in but does no work (read-only, say) must not be stormed with connections either.
        self.drop()
        self._pause = min(max(self._pause * 2, RETRY_SECONDS_FIRST), RETRY_SECONDS_MAX)
        self._not_before = time.monotonic() + self._pause * random.uniform(0.8, 1.2)  # noqa: S311 - jitter

    def drop(self) -> None:
        """End the connection at once, whatever it is doing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Say goodbye to the server, for a second at most."""
        if self._opening is not None:
            self._opening.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=1.0)
            except FAILURES:
                connection.terminate()


async def clock_offset_seconds(connection: Connection) -> float:
    """How far the database's clock is ahead of ours, to half a round trip."""
    before = time.time()
    theirs = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    return float(theirs) - (before + time.time()) / 2


async def check_revision(connection: Connection, needed: str) -> None:
    """Raise DatabaseError when the schema is missing or older than `needed`; a newer one only adds, so it will do."""
    try:
        found = await connection.fetchval("SELECT version_num FROM hookd.schema_version")
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        found = None
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseError(
            f"{error}: this role was given no rights in schema hookd; see: hookd migrate --help"
        ) from None
    if found is None:
        raise DatabaseError("the database has no hookd schema yet: run hookd migrate")
    if found < needed:
        raise DatabaseError(
            f"the database's schema is at revision {found}, this hookd needs {needed}: run hookd migrate"
        )


@contextlib.contextmanager
def open_database(settings: CommonSettings) -> Iterator[Database]:
    """The database the settings name; without a URL the embedded one, which runs while anybody is in here."""
    if settings.database_url is not None:
        yield Database(settings.database_url.get_secret_value(), allow_unsafe=settings.allow_unsafe)
        return
    from chassis.embedded import Embedded, EmbeddedError  # noqa: PLC0415 - not paid for by those with a server of their own

    def revive() -> None:
        try:
            embedded.revive()
        except EmbeddedError as error:
            raise Unavailable(str(error)) from error

    with contextlib.ExitStack() as leaving:
        try:
            embedded = Embedded(data_folder(settings.data_dir))
            url = leaving.enter_context(embedded.serve())
        except EmbeddedError as error:
            raise DatabaseError(str(error)) from error
        yield Database(url, allow_unsafe=settings.allow_unsafe, revive=revive)


def _retrieve(opening: "asyncio.Task[Connection]") -> None:
    """Its failure is known, also when nobody waits for it any more."""
    if not opening.cancelled():
        opening.exception()


def _sentence(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
