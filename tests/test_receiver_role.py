"""A receiver may insert what it received, and nothing else: whoever takes it over reads and changes no event."""

import asyncio
import os
import pwd
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from chassis.database import Connection, Database, DatabaseError
from chassis.embedded import Embedded
from migrations.upgrade import upgrade
from tests.databases import execute
from tests.receiving import receiving
from tests.registering import register
from tests.storing import row_of, stored
from tests.waiting import PATIENCE_SECONDS

ROLES = """
CREATE ROLE receiver LOGIN IN ROLE hookd_receiver;
CREATE ROLE nobody LOGIN;
"""


@pytest.fixture(scope="module")
def owner_url(server_programs: Path | None) -> Iterator[str]:
    """A server of this chapter's own beside the usual one: its roles may log in."""
    with tempfile.TemporaryDirectory(prefix="hookd-") as name:
        Path(name).chmod(0o755)  # as root the server runs as another user
        data = Path(name) / "data"
        with Embedded(data, server_programs).serve() as url:
            let_in(data / "postgres", "receiver", "nobody", "hookd_receiver")
            yield url


def let_in(data: Path, *roles: str) -> None:
    """This user of the machine may log in as any of these."""
    with (data / "pg_hba.conf").open("a") as rules:
        rules.writelines(f"local all {role} peer map=hookd\n" for role in roles)
    with (data / "pg_ident.conf").open("a") as names:
        names.writelines(f'hookd "{pwd.getpwuid(os.geteuid()).pw_name}" {role}\n' for role in roles)


@pytest.fixture(scope="module")
async def owner(owner_url: str) -> AsyncIterator[Connection]:
    """The owner's connection to a migrated database with both roles."""
    await asyncio.to_thread(upgrade, lambda: Database(owner_url).connect("migrate"), lambda: None)
    await execute(owner_url, "SELECT pg_reload_conf()")
    await execute(owner_url, ROLES)
    connection: Connection = await asyncpg.connect(owner_url)
    yield connection
    await connection.close()


def url_of(role: str, owner_url: str) -> str:
    return urlsplit(owner_url)._replace(netloc=f"{role}@").geturl()


@pytest.fixture
def receiver_url(owner: Connection, owner_url: str) -> str:
    """What a careful administrator gives the receiver."""
    return url_of("receiver", owner_url)


@asynccontextmanager
async def logged_in(url: str) -> AsyncIterator[Connection]:
    connection: Connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


async def test_the_role_is_all_a_receiver_needs(receiver_url: str, owner: Connection) -> None:
    """It starts, is ready, stores, hints, and makes the day that is missing."""
    hints: asyncio.Queue[object] = asyncio.Queue()
    await owner.add_listener("hookd", lambda *_: hints.put_nowait(None))
    for day in await owner.fetch("SELECT to_char(day, 'YYYYMMDD') AS name FROM hookd.days()"):
        await owner.execute(f"DROP TABLE hookd.events_{day['name']}, hookd.attempts_{day['name']}")
    async with receiving(receiver_url) as receiver:
        assert (await receiver.get("/-/ready")).status == 200
        row = await row_of(owner, await receiver.post("/github", b"abc", [(b"X-GitHub-Event", b"push")]))
        assert (row["payload"], row["event_type"], str(row["remote"])) == (b"abc", "push", "127.0.0.1")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await hints.get()
    users = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'hookd receiver%' AND usename <> 'receiver'"
    )
    assert await owner.fetchval(users) == 0
    await owner.reset()


async def test_the_role_knows_the_registered_sources(receiver_url: str, owner: Connection) -> None:
    """And refuses the others."""
    await owner.execute("INSERT INTO hookd.sources (name) VALUES ('github')")
    before = await stored(owner)
    async with receiving(receiver_url, unknown_sources="reject") as receiver:
        await row_of(owner, await receiver.post("/github"))
        assert (await receiver.post("/demo")).status == 404
    assert await stored(owner) == before + 1
    await owner.execute("DELETE FROM hookd.sources")


async def test_the_role_judges_greets_and_keeps(receiver_url: str, owner: Connection) -> None:
    """With the secrets of those sources that need it: a sealed one of any other it does not even see."""
    await register(owner, "shop", "token", "secret", mode="edge")
    await register(owner, "chat", "slack", "secret", mode="deferred")
    await register(owner, "code", "github", "secret", mode="deferred")
    async with logged_in(receiver_url) as connection:
        seen = await connection.fetch("SELECT name FROM hookd.receiver_sources WHERE secrets IS NOT NULL ORDER BY 1")
    assert [row["name"] for row in seen] == ["chat", "shop"]
    before = await stored(owner)
    async with receiving(receiver_url, unknown_sources="auto") as receiver:
        row = await row_of(owner, await receiver.post("/shop", b"", [(b"Authorization", b"secret")]))
        assert row["verdict"] == "verified"
        assert (await receiver.post("/shop")).status == 401
        assert (await receiver.post("/chat", b'{"type":"url_verification","challenge":"c"}')).status == 401
        assert (await receiver.post("/demo")).status == 404
        await row_of(owner, await receiver.post("/code"))
    assert await stored(owner) == before + 3
    assert await owner.fetchval("SELECT count(*) FROM hookd.refused") == 1
    await owner.execute("DELETE FROM hookd.sources")


async def test_the_role_keeps_only_what_an_edge_source_refused(receiver_url: str, owner: Connection) -> None:
    """Whoever takes a receiver over writes no failed events for other sources, and none as verified."""
    await register(owner, "shop", "token", "secret", mode="edge")
    await register(owner, "code", "github", "secret", mode="deferred")
    row = "gen_random_uuid(), '{}', null, null, now(), 'POST', '/', '[]', null, '', '{}', {}"
    async with logged_in(receiver_url) as connection:
        for source, verdict, rows_max in (
            ("code", "x", 9),
            ("demo", "x", 9),
            ("shop", "verified", 9),
            ("shop", "x", 0),
        ):
            keep = f"SELECT hookd.keep_refused({row.format(source, verdict, rows_max)})"
            assert await connection.fetchval(keep) is False
    await owner.execute("DELETE FROM hookd.sources")


COLUMNS = "id, source, method, target, headers, payload"
VALUES = "gen_random_uuid(), 'demo', 'POST', '/demo', '[]', ''"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM hookd.events",
        "SELECT id FROM hookd.events",
        "SELECT count(*) FROM hookd.events",
        "COPY hookd.events TO STDOUT",
        "UPDATE hookd.events SET status = 'new'",
        "UPDATE hookd.events SET payload = ''",
        "DELETE FROM hookd.events",
        "TRUNCATE hookd.events",
        "BEGIN; LOCK TABLE hookd.events IN ACCESS EXCLUSIVE MODE",
        f"INSERT INTO hookd.events ({COLUMNS}) VALUES ({VALUES}) RETURNING id",
        *(
            f"INSERT INTO hookd.events ({COLUMNS}, {column}) VALUES ({VALUES}, {value})"
            for column, value in {
                "status": "'processed'",
                "finished_at": "now()",
                "due_at": "now()",
                "held_by": "'somebody'",
                "attempts": "1",
                "claims": "1",
                "reason": "'because'",
                "replayed": "true",
            }.items()
        ),
        "SELECT * FROM hookd.attempts",
        "SELECT * FROM hookd.deliveries",
        "SELECT * FROM hookd.counts",
        "SELECT * FROM hookd.maintenance",
        "INSERT INTO hookd.attempts (event_id, claim, attempt) VALUES (gen_random_uuid(), 1, 1)",
        "INSERT INTO hookd.deliveries VALUES ('demo', 'a', gen_random_uuid(), now())",
        "INSERT INTO hookd.counts VALUES (current_date, 'demo', 'failed', 1)",
        "SELECT * FROM hookd.secrets",
        "SELECT sealed FROM hookd.secrets",
        "SELECT * FROM hookd.sources",
        "SELECT provider FROM hookd.sources",
        "SELECT options FROM hookd.sources",
        "SELECT * FROM hookd.processor_sources",
        "SELECT * FROM hookd.refused",
        "DELETE FROM hookd.refused",
        "SELECT hookd.forget_refused('0 s', 1)",
        "UPDATE hookd.registry SET revision = 0",
        "UPDATE hookd.receiver_sources SET mode = 'off'",
        "INSERT INTO hookd.secrets (source, sealed) VALUES ('demo', 'x')",
        "INSERT INTO hookd.sources VALUES ('demo')",
        "DELETE FROM hookd.sources",
        "UPDATE hookd.schema_version SET version_num = '0000'",
        "SELECT hookd.drop_day(current_date - 1)",
        "SELECT hookd.make_roles()",
        "CREATE TABLE hookd.mine ()",
        "DROP TABLE hookd.events",
        "ALTER TABLE hookd.events DISABLE TRIGGER ALL",
        "SET ROLE hookd_processor",
    ],
)
async def test_the_role_may_do_nothing_else(receiver_url: str, statement: str) -> None:
    """No event is read, changed or deleted; none is born settled, held or late; nothing of others' is touched."""
    async with logged_in(receiver_url) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_a_role_without_rights_is_refused_with_a_sentence(owner: Connection, owner_url: str) -> None:
    """At the start, where somebody reads it."""
    with pytest.raises(DatabaseError, match="no rights in schema hookd"):
        async with receiving(url_of("nobody", owner_url)):
            pass


async def test_a_role_that_may_not_log_in_is_refused_with_a_sentence(owner: Connection, owner_url: str) -> None:
    """hookd_receiver itself is for granting, not for logging in."""
    with pytest.raises(DatabaseError, match="PostgreSQL refuses the log-in"):
        async with receiving(url_of("hookd_receiver", owner_url)):
            pass
