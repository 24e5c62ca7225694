"""Replies: no event is lost, and no sender waits, for a handler that fails or takes long, or a database that leaves."""

import asyncio
import threading

import pytest

import hookd
from chassis.database import Connection, Database
from ingest.settings import IngestSettings
from processor.handling.event import Event
from tests.breaking import Proxy
from tests.databases import execute
from tests.processing import Gate, Watch, a_handler, processing
from tests.replying import HELD, WAITS, a_reply, receipt, replying
from tests.sending import head
from tests.storing import stored
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.any_server


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


# Failing, and taking too long


async def test_a_failing_handler(database: Database, connection: Connection, watch: Watch) -> None:
    """The sender has the usual answer, and a processor tries the event again when its time has come."""
    attempts: list[tuple[str, int]] = []

    async def reply(event: Event) -> str:
        attempts.append(("receiver", event.attempt))
        raise hookd.Retry("not yet", after=0.1)

    async def again(event: Event) -> None:
        attempts.append(("processor", event.attempt))

    async with processing(database, a_handler(again, "demo")), replying(database, reply) as receiver:
        event_id = receipt(await receiver.post())
        assert await watch.settled() == {event_id: ("processed", None)}
    assert attempts == [("receiver", 1), ("processor", 2)]
    assert await connection.fetchval("SELECT error FROM hookd.attempts") == "not yet"


async def test_what_a_handler_says_of_its_attempts_counts_here_too(database: Database, watch: Watch) -> None:
    """Reject fails the event at once; so does the first failure where retries are none."""

    async def reject(event: Event) -> None:
        raise hookd.Reject("never")

    async def fail(event: Event) -> None:
        raise KeyError("x")

    handlers = (a_reply(reject, "one"), a_reply(fail, "two", retries=0))
    async with replying(database, *handlers) as receiver:
        ids = [receipt(await receiver.post(f"/{source}")) for source in ("one", "two")]
        settled = await watch.settled()
    assert [settled[each] for each in ids] == [
        ("failed", "never"),
        ("failed", "gave up after 1 attempts: KeyError: 'x'"),
    ]


async def test_a_handler_that_takes_too_long(database: Database, connection: Connection, watch: Watch) -> None:
    """It is cancelled, the sender has the usual answer, and the event a failed attempt and a second one later."""
    gate = Gate()
    async with replying(database, gate.pass_through, reply_seconds=0.3) as receiver:
        event_id = receipt(await receiver.post())
        await watch.until(WAITS)
    assert gate.ended == [(event_id, "cut")]
    row = await connection.fetchrow("SELECT attempts, reason, due_at > now() AS backs_off FROM hookd.events")
    assert row is not None
    assert (row["attempts"], row["reason"][:15], row["backs_off"]) == (1, "timed out after", True)


async def test_a_sender_that_waits_three_seconds_is_answered(
    database: Database, connection: Connection, watch: Watch
) -> None:
    """As Slack does: by then it has its answer, whatever the handler does; and what a body takes counts too."""
    assert IngestSettings().reply_seconds == 2.5
    gate = Gate()
    async with replying(database, gate.pass_through, reply_seconds=1.0) as receiver:
        sender = await receiver.sender()
        body = b"x" * 100
        async with asyncio.timeout(3):
            await sender.send(head("/demo", [(b"Content-Length", b"100")]), body[:50])
            await asyncio.sleep(0.5)
            await sender.send(body[50:])
            receipt(await sender.answer())
        await watch.until(WAITS)
        ran_seconds = float((await connection.fetchval("SELECT reason FROM hookd.events")).split()[3])
        assert ran_seconds < 0.95


async def test_a_request_that_comes_too_slowly_to_be_replied_to(
    database: Database, connection: Connection, watch: Watch
) -> None:
    """Its handler is not even begun: the row goes to a processor at once, with its attempt."""
    gate = Gate(is_open=True)
    async with replying(database, gate.pass_through, reply_seconds=0.1) as receiver:
        sender = await receiver.sender()
        await sender.send(head("/demo", [(b"Content-Length", b"2")]))
        await asyncio.sleep(0.3)
        await sender.send(b"{}")
        receipt(await sender.answer())
        await watch.until(WAITS + " AND attempts = 0 AND due_at <= now()")
    assert gate.ended == []


@pytest.mark.parametrize("fails", [False, True])
async def test_a_thread_that_takes_too_long(
    database: Database, connection: Connection, watch: Watch, *, fails: bool
) -> None:
    """Its sender has the usual answer; its row stays held until it ends, and what it did counts: nothing runs twice."""
    gate = threading.Event()

    def reply(event: Event) -> str:
        gate.wait(PATIENCE_SECONDS)
        if fails:
            raise ValueError("after all")
        return "too late"

    async with replying(database, reply, reply_seconds=0.2) as receiver:
        event_id = receipt(await receiver.post())
        assert await connection.fetchval(HELD)
        gate.set()
        await watch.until(WAITS if fails else "status = 'processed'")
    row = await connection.fetchrow("SELECT attempts, reason FROM hookd.events WHERE id = $1", event_id)
    assert row is not None
    assert tuple(row) == ((1, "ValueError: after all") if fails else (1, None))


async def test_a_thread_that_hangs_is_renewed(database: Database, connection: Connection, watch: Watch) -> None:
    """No processor takes its row while it runs, however often its lease would have ended."""
    gate, ran = threading.Event(), Gate(is_open=True)

    def reply(event: Event) -> None:
        gate.wait(PATIENCE_SECONDS)

    async with (
        processing(database, a_handler(ran.pass_through)),
        replying(database, reply, reply_seconds=0.1, processor={"lease_seconds": 4.0}) as receiver,
    ):
        receipt(await receiver.post())
        due_at = await connection.fetchval("SELECT due_at FROM hookd.events")
        for _ in range(2):
            await watch.until("due_at > $1", due_at)
            due_at = await connection.fetchval("SELECT due_at FROM hookd.events")
        gate.set()
        await watch.settled()
    assert ran.ended == []


# When something breaks


async def test_a_database_that_is_away(
    server_url: str, database: Database, connection: Connection, watch: Watch
) -> None:
    """503 within the time-out, and nothing has run; back when it is."""
    ran = Gate(is_open=True)
    name = await connection.fetchval("SELECT current_database()")
    async with replying(database, ran.pass_through, commit_timeout_seconds=0.3) as receiver:
        await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await throw_out(connection)
        answer = await receiver.post()
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert ran.ended == []
        await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert (await receiver.post_until(200)).body == b""
        await watch.settled()


async def throw_out(connection: Connection) -> None:
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name ~ '^hookd re(ceiver|plier)' AND datname = current_database()"
    )


async def test_a_database_that_leaves_while_a_handler_runs(
    server_url: str, database: Database, connection: Connection, watch: Watch
) -> None:
    """The answer does not wait for it; what became of the event is written when it is back."""
    name = await connection.fetchval("SELECT current_database()")

    async def reply(event: Event) -> str:
        await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await throw_out(connection)
        return "answered"

    async with replying(database, reply) as receiver:
        assert (await receiver.post()).body == b"answered"
        await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert list((await watch.settled()).values()) == [("processed", None)]


async def test_a_commit_whose_outcome_is_unknown(database_url: str, connection: Connection, watch: Watch) -> None:
    """It is tried again with the same id, found to be there, and handled once."""
    ran = Gate(is_open=True)
    async with Proxy(database_url) as proxy, replying(Database(proxy.url), ran.pass_through) as receiver:
        proxy.swallow(b"INSERT 0 1")
        assert (await receiver.post()).status == 200
        await watch.settled()
        assert proxy.swallowed.is_set()
    assert len(ran.ended) == 1
    assert await stored(connection) == 1


async def test_a_row_that_postgresql_refuses(database: Database, connection: Connection) -> None:
    """It alone is 503; whoever came with it is answered."""
    await connection.execute("ALTER TABLE hookd.events ADD CONSTRAINT tried CHECK (payload <> 'bad')")

    async def reply(event: Event) -> str:
        return event.text()

    async with replying(database, reply) as receiver:
        answers = await asyncio.gather(*(receiver.post("/demo", body) for body in (b"a", b"bad", b"b")))
    assert [answer.status for answer in answers] == [200, 503, 200]


async def test_a_day_that_is_missing_is_made(database: Database, connection: Connection) -> None:
    """The receiver that misses it makes it, as for any row."""
    for (day,) in await connection.fetch("SELECT to_char(day, 'YYYYMMDD') FROM hookd.days()"):
        await connection.execute(f"DROP TABLE hookd.events_{day}, hookd.attempts_{day}")

    async def reply(event: Event) -> str:
        return "made"

    async with replying(database, reply) as receiver:
        assert (await receiver.post()).body == b"made"
