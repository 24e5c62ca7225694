"""A replier may what a receiver may, and hold and settle what it inserts; it reads no body, and deletes nothing."""

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

import hookd
from chassis.database import Connection, Database, DatabaseError
from processor.handling.event import Event
from tests.factories import an_event
from tests.processing import Watch
from tests.registering import a_source, wire
from tests.replying import a_reply, delivered, replying
from tests.sending import MIB
from tests.test_processor_role import a_login


@pytest.fixture
async def replier_url(connection: Connection, database_url: str) -> AsyncIterator[str]:
    async for url in a_login(connection, database_url, "hookd_replier"):
        yield url


@pytest.fixture
async def receiver_url(connection: Connection, database_url: str) -> AsyncIterator[str]:
    async for url in a_login(connection, database_url, "hookd_receiver"):
        yield url


async def reply(event: Event) -> str:
    if event.event_type == "fail":
        raise hookd.Retry("later", after=60)
    return "replied"


async def test_the_role_is_all_that_replying_needs(receiver_url: str, replier_url: str, connection: Connection) -> None:
    """Beside a receiver with its own role: it makes a missing day, stores, judges, decides, runs, retries, settles."""
    watch = await Watch.over(connection)
    await a_source(connection, "github")
    await a_source(connection, "shop", "token", secret="secret")
    for (day,) in await connection.fetch("SELECT to_char(day, 'YYYYMMDD') FROM hookd.days()"):
        await connection.execute(f"DROP TABLE hookd.events_{day}, hookd.attempts_{day}")
    handlers = (a_reply(reply, "github"), a_reply(reply, "shop"))
    async with replying(Database(receiver_url), *handlers, reply_database=Database(replier_url)) as receiver:
        assert (await receiver.ask(wire(delivered("github")))).body == b"replied"
        copy = (await receiver.ask(wire(delivered("github")))).id
        forged = (await receiver.ask(wire(delivered("github", delivery="0002", fault="bad-signature")))).id
        large = await receiver.post("/shop", b"x" * 2 * MIB, [(b"Authorization", b"secret")])
        assert large.body == b"replied"
        await watch.until("source = 'shop' AND status = 'processed'")
        await watch.until("id = $1 AND reason LIKE 'duplicate of %'", copy)
        await watch.until("id = $1 AND status = 'failed'", forged)
        plain = (await receiver.post("/demo")).id
    assert isinstance(plain, UUID)


async def test_a_failed_attempt_is_recorded(replier_url: str, connection: Connection) -> None:
    """With the role alone, for a receiver that has it as its only one."""
    watch = await Watch.over(connection)
    async with replying(Database(replier_url), a_reply(reply, "github")) as receiver:
        failed = (await receiver.post("/github", b"{}", [(b"X-GitHub-Event", b"fail")])).id
        await watch.until("id = $1 AND reason = 'later' AND held_by IS NULL", failed)
    assert await connection.fetchval("SELECT error FROM hookd.attempts WHERE event_id = $1", failed) == "later"


async def test_a_role_that_may_not_reply_is_refused_with_a_sentence(receiver_url: str) -> None:
    """At the start: a receiver that has handlers which reply, and no right to, says what to do."""
    with pytest.raises(DatabaseError, match="HOOKD_REPLY_DATABASE_URL"):
        async with replying(Database(receiver_url), reply):
            pass


FORBIDDEN = [
    "SELECT payload FROM hookd.events",
    "SELECT headers FROM hookd.events",
    "SELECT target FROM hookd.events",
    "SELECT * FROM hookd.attempts",
    "SELECT * FROM hookd.secrets",
    "SELECT * FROM hookd.refused",
    "UPDATE hookd.events SET payload = ''",
    "UPDATE hookd.events SET headers = '[]'",
    "UPDATE hookd.events SET source = 'other'",
    "UPDATE hookd.events SET replayed = true",
    "UPDATE hookd.events SET id = gen_random_uuid()",
    "INSERT INTO hookd.events (id, source, method, target, headers, payload, status, finished_at) VALUES"
    " (gen_random_uuid(), 'demo', 'POST', '/demo', '[]', '', 'processed', now())",
    "DELETE FROM hookd.events",
    "DELETE FROM hookd.deliveries",
    "DELETE FROM hookd.counts",
    "UPDATE hookd.registry SET revision = 0",
    "INSERT INTO hookd.sources (name) VALUES ('demo')",
    "INSERT INTO hookd.maintenance VALUES ('days', now())",
    "SELECT hookd.drop_day(current_date - 1)",
    "SELECT hookd.forget_refused('0 s', 1)",
    "SELECT hookd.make_roles()",
    "CREATE TABLE hookd.mine ()",
    "DROP TABLE hookd.events",
    "SET ROLE hookd_processor",
]


async def test_the_role_may_do_nothing_else(replier_url: str, connection: Connection) -> None:
    """It reads no webhook that is there, forges none as settled, deletes nothing, and alters no schema."""
    await an_event(connection)
    mine: Connection = await asyncpg.connect(replier_url)
    for statement in FORBIDDEN:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await mine.execute(statement)
    await mine.close()
