"""The door to PostgreSQL: which servers it refuses, and how a connection mends itself."""

import asyncio
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from chassis.database import (
    Connection,
    Database,
    DatabaseError,
    Link,
    TimedOut,
    Unavailable,
    check_revision,
    clock_offset_seconds,
)
from processor.links import Links
from rig.proxy import proxying
from tests.databases import execute, with_name


def socket_of(url: str) -> Path:
    """Where the tests' server listens."""
    (folder,) = parse_qs(urlsplit(url).query)["host"]
    return Path(folder) / ".s.PGSQL.5432"


async def ask(connection: Connection) -> int:
    value: int = await connection.fetchval("SELECT pg_backend_pid()")
    return value


@pytest.mark.parametrize(("unsafe", "refused"), [(False, True), (True, False)])
async def test_a_forgetful_database_is_refused(
    database_url: str, connection: Connection, *, unsafe: bool, refused: bool
) -> None:
    """A database with synchronous_commit off is refused with a sentence, unless HOOKD_ALLOW_UNSAFE accepts it."""
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    database = Database(database_url, allow_unsafe=unsafe)
    if refused:
        with pytest.raises(DatabaseError, match=r"synchronous_commit is off.*HOOKD_ALLOW_UNSAFE"):
            await database.connect("test")
    else:
        await (await database.connect("test")).close()


@pytest.mark.any_server
async def test_an_old_server_is_refused(database_url: str, connection: Connection) -> None:
    """A PostgreSQL below 15 is refused with a sentence that says what is needed, whatever it could do."""
    version = connection.get_server_version().major
    async with proxying(socket_of(database_url)) as proxy:
        proxy.rewrite = (f"server_version\0{version}".encode(), b"server_version\x0014")
        with pytest.raises(DatabaseError, match=r"^PostgreSQL 14 is too old: hookd needs 15 or later$"):
            await Database(proxy.url(database_url), allow_unsafe=True).connect("test")
        proxy.rewrite = (f"server_version\0{version}".encode(), b"server_version\x0015")
        await (await Database(proxy.url(database_url)).connect("test")).close()


async def test_a_database_that_does_not_exist_is_one_sentence(server_url: str) -> None:
    """A wrong name in the URL is said, with what to do."""
    with pytest.raises(DatabaseError, match=r'"nowhere" does not exist: create it'):
        await Database(with_name(server_url, "nowhere")).connect("test")


async def test_a_url_that_cannot_be_read_is_one_sentence() -> None:
    """Nothing of it is quoted, for it may be a part of the password."""
    with pytest.raises(DatabaseError, match=r"^HOOKD_DATABASE_URL, or a PG… variable beside it, cannot be read$"):
        await Database("postgresql://me:hunt/er2@localhost/x").connect("test")


async def test_a_url_without_a_server_is_unavailable() -> None:
    """Where nobody listens, the database is away: waiting may help."""
    with pytest.raises(Unavailable, match="cannot be reached"):
        await Database("postgresql://nobody@127.0.0.1:1/x").connect("test")


async def test_connections_say_who_they_are(database: Database) -> None:
    """pg_stat_activity shows each connection's purpose, and it is kept alive."""
    connection = await database.connect("receiver 1 small")
    assert await connection.fetchval("SHOW application_name") == "hookd receiver 1 small"
    await connection.close()


async def test_a_link_opens_a_new_connection_when_its_own_was_ended(database: Database) -> None:
    """A terminated connection fails the work that is at it; the next has a new connection."""
    link = Link(database, "test")
    first = await link.run(ask, timeout=5)
    with pytest.raises(Unavailable):
        await link.run(
            lambda connection: connection.execute("SELECT pg_terminate_backend(pg_backend_pid())"), timeout=5
        )
    assert await link.run(ask, timeout=5) != first
    await link.close()


async def test_a_link_gives_up_in_time(database: Database, connection: Connection) -> None:
    """Work that takes too long ends at its time-out, its connection with it; the next work is not delayed by it."""
    link = Link(database, "test")
    slow = await link.run(ask, timeout=5)
    began = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable, match=r"within 0\.2 s"):
        await link.run(lambda connection: connection.execute("SELECT pg_sleep(60)"), timeout=0.2)
    assert await link.run(ask, timeout=5) != slow
    assert asyncio.get_running_loop().time() - began < 2
    await link.close()


async def test_data_errors_leave_the_connection_alone(database: Database) -> None:
    """An error about the data sent is passed on as it is, and the connection is used again."""
    link = Link(database, "test")
    before = await link.run(ask, timeout=5)
    with pytest.raises(Exception, match="invalid input syntax"):
        await link.run(lambda connection: connection.execute("SELECT 'x'::int"), timeout=5)
    assert await link.run(ask, timeout=5) == before
    await link.close()


@pytest.mark.parametrize(
    ("found", "needed", "said"), [("0001", "0001", None), ("0002", "0001", None), ("0001", "0002", "run hookd migrate")]
)
async def test_an_older_schema_is_refused_and_a_newer_one_taken(
    connection: Connection, found: str, needed: str, said: str | None
) -> None:
    """Each process checks the revision it finds: older than it needs is a clear end, newer will do."""
    await connection.execute("UPDATE hookd.schema_version SET version_num = $1", found)
    if said is None:
        await check_revision(connection, needed)
    else:
        with pytest.raises(DatabaseError, match=said):
            await check_revision(connection, needed)


async def test_a_database_without_a_schema_is_one_sentence(empty_database_url: str) -> None:
    """Before the first migration every process says what to run."""
    connection = await Database(empty_database_url).connect("test")
    with pytest.raises(DatabaseError, match="run hookd migrate"):
        await check_revision(connection, "0001")
    await connection.close()


async def test_the_offset_of_the_clocks_is_measured(connection: Connection) -> None:
    """On one machine the database's clock is ours."""
    assert abs(await clock_offset_seconds(connection)) < 0.5


async def test_a_role_without_rights_is_told_so(server_url: str, database_url: str, connection: Connection) -> None:
    """A role that was given nothing in schema hookd is told where rights come from."""
    await connection.execute("CREATE ROLE nothing_given NOLOGIN")
    try:
        await connection.execute("SET ROLE nothing_given")
        with pytest.raises(DatabaseError, match="hookd migrate --help"):
            await check_revision(connection, "0001")
        await connection.execute("RESET ROLE")
    finally:
        await execute(server_url, "DROP ROLE nothing_given")


async def test_one_that_is_not_answered_takes_all_with_it(database: Database) -> None:
    """Of a processor's connections: half-open ones would each be waited for in turn."""
    links = Links(database, "processor")
    all_of_them = (*links.claiming, *links.settling, links.side)
    before = [await links.run(link, ask) for link in all_of_them]
    with pytest.raises(TimedOut):
        await links.run(links.side, lambda connection: connection.execute("SELECT pg_sleep(60)"), timeout=0.1)
    after = [await links.run(link, ask) for link in all_of_them]
    assert len({*before, *after}) == 10
    await links.close()


@pytest.mark.any_server
async def test_opening_outlives_whoever_waits(database_url: str) -> None:
    """Far away a connection takes longer to open than a sender waits: it is opened all the same, for the next."""
    async with proxying(socket_of(database_url)) as proxy:
        proxy.delay_seconds = 0.1
        link = Link(Database(proxy.url(database_url)), "from afar")
        with pytest.raises(TimedOut):
            await link.run(select, timeout=0.6)
        async with asyncio.timeout(30):
            while True:
                with suppress(Unavailable):
                    await link.run(select, timeout=0.6)
                    break
        assert proxy.connections == 1
        await link.close()


async def select(connection: Connection) -> None:
    await connection.execute("SELECT 1")
