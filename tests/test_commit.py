"""Requests that travel together, and what becomes of them when the database goes, and comes back."""

import asyncio
from datetime import date

import pytest

from chassis.database import Connection, Database, DatabaseError
from tests.breaking import Proxy, away, locked, throw_out
from tests.databases import execute
from tests.receiving import Local, receiving
from tests.sending import KIB, MIB, Answer, Sender, post
from tests.storing import missing, row_of, stored
from tests.waiting import PATIENCE_SECONDS, in_time

any_server = pytest.mark.any_server


async def sent(receiver: Local, *requests: bytes) -> list[Sender]:
    """Senders whose requests the receiver has read by now."""
    senders = [await receiver.sender() for _ in requests]
    for sender, request in zip(senders, requests, strict=True):
        await sender.send(request)
    for _ in range(2):
        assert (await receiver.get("/-/live")).status == 200
    return senders


async def blocked(connection: Connection) -> None:
    """Return once somebody waits for a lock in this database."""
    here = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    find = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND {here}"
    await in_time(lambda: connection.fetchval(find), bool, PATIENCE_SECONDS)


async def test_what_waits_for_a_commit_is_committed_together(database_url: str, connection: Connection) -> None:
    """A hundred requests that wait while one write hangs are one transaction."""
    async with receiving(database_url, commit_timeout_seconds=10.0) as receiver:
        async with locked(connection):
            senders = await sent(receiver, post())
            await blocked(connection)
            senders += await sent(receiver, *[post("/demo", b"%d" % number) for number in range(100)])
        ids = [(await sender.answer()).id for sender in senders]
    assert await missing(connection, ids) == []
    assert await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM hookd.events") == 2


async def test_heads_count_for_a_batch_as_bodies_do(database_url: str, connection: Connection) -> None:
    """One ends at 8 MiB of both: small requests beside a thousand heads of 64 KiB would else wait for all of them."""
    async with receiving(database_url, commit_timeout_seconds=10.0) as receiver:
        async with locked(connection):
            senders = await sent(receiver, post())
            await blocked(connection)
            senders += await sent(receiver, *[post(headers=[(b"X-Any", b"a" * 60 * KIB)]) for _ in range(150)])
        for sender in senders:
            assert (await sender.answer()).status == 200
    assert await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM hookd.events") == 3


async def test_a_row_that_postgresql_refuses_is_503_alone(database_url: str, connection: Connection) -> None:
    """Its neighbours in the batch live."""
    await connection.execute("ALTER TABLE hookd.events ADD CONSTRAINT no_evil CHECK (source <> 'evil')")
    async with receiving(database_url, commit_timeout_seconds=10.0) as receiver:
        async with locked(connection):
            senders = await sent(receiver, post())
            await blocked(connection)
            senders += await sent(receiver, *[post(f"/{source}") for source in ("a", "b", "evil", "c", "d")])
        answers = [await sender.answer() for sender in senders]
    assert [answer.status for answer in answers] == [200, 200, 200, 503, 200, 200]
    assert "PostgreSQL refuses this row" in answers[3].error
    assert await missing(connection, [answer.id for answer in answers if answer.status == 200]) == []
    assert await stored(connection) == 5


HOLD = """
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF octet_length(NEW.payload) >= 1048576 THEN PERFORM pg_advisory_xact_lock_shared(1); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER hold BEFORE INSERT ON hookd.events FOR EACH ROW EXECUTE FUNCTION hold();
SELECT pg_advisory_lock(1);
"""


WHO_IS_HELD = """
SELECT application_name FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()
"""


@pytest.mark.parametrize(("size", "lane"), [(MIB, "small"), (MIB + 1, "large")])
async def test_bodies_over_1_mib_have_a_lane_of_their_own(
    database_url: str, connection: Connection, size: int, lane: str
) -> None:
    """And a connection of their own: while one of them is written, small ones are answered."""
    await connection.execute(HOLD)
    async with receiving(database_url, commit_timeout_seconds=10.0) as receiver:
        large = asyncio.create_task(receiver.post("/demo", b"a" * size))
        await blocked(connection)
        (behind,) = await sent(receiver, post())
        if lane == "large":
            await row_of(connection, await behind.answer())
        assert await connection.fetchval(WHO_IS_HELD) == f"hookd receiver 1 {lane}"
        await connection.execute("SELECT pg_advisory_unlock(1)")
        await row_of(connection, await large)
        if lane == "small":
            await row_of(connection, await behind.answer())


async def test_a_database_that_is_away_at_the_start_is_waited_for(
    server_url: str, database_url: str, connection: Connection
) -> None:
    """The receiver starts, answers 503 and when to come again, and works within 5 s of the database's return."""
    async with away(server_url, connection), receiving(database_url, commit_timeout_seconds=0.2) as receiver:
        answer = await receiver.post()
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.error.startswith("not known to be stored")
        assert (await receiver.get("/-/live")).status == 200
        assert (await receiver.get("/-/ready")).status == 503
    assert await stored(connection) == 0


async def test_a_database_that_goes_and_returns_is_found_again(
    server_url: str, database_url: str, connection: Connection
) -> None:
    """503 within the time-out while it is away, back within 5 s of its return, without a restart."""
    async with receiving(database_url, commit_timeout_seconds=0.5) as receiver:
        assert (await receiver.post()).status == 200
        async with away(server_url, connection):
            began = asyncio.get_running_loop().time()
            assert (await receiver.post()).status == 503
            assert asyncio.get_running_loop().time() - began < 1.0
        answer = await receiver.post_until(200)
        await row_of(connection, answer)
        await receiver.get_until(200, "/-/ready")


async def test_it_is_ready_again_without_being_asked_to_store_anything(
    server_url: str, database_url: str, connection: Connection
) -> None:
    """A load balancer sends nothing to a receiver that is not ready: it finds out by itself, within 5 s."""
    async with receiving(database_url, commit_timeout_seconds=0.2) as receiver:
        async with away(server_url, connection):
            assert (await receiver.post()).status == 503
            assert (await receiver.get("/-/ready")).status == 503
        await receiver.get_until(200, "/-/ready")


async def test_connections_that_end_under_load_lose_nothing(database_url: str, connection: Connection) -> None:
    """No 2xx without a row, and no request refused that could be tried again in time."""
    answers: list[Answer] = []

    async def load(receiver: Local) -> None:
        sender = await receiver.sender()
        for number in range(100):
            await sender.send(post("/demo", b"%d" % number))
            answers.append(await sender.answer())

    async with receiving(database_url) as receiver:
        loads = [asyncio.create_task(load(receiver)) for _ in range(8)]
        ended = 0
        for enough in (50, 200, 400, 600):
            await in_time(lambda: asyncio.sleep(0, len(answers)), lambda count: count >= enough, PATIENCE_SECONDS)  # noqa: B023
            ended += await throw_out(connection)
        await asyncio.gather(*loads)
    assert ended >= 4
    assert await missing(connection, [answer.id for answer in answers if answer.status == 200]) == []
    assert [answer.status for answer in answers] == [200] * 800
    assert await stored(connection) == 800


async def test_a_commit_that_takes_too_long_is_503(database_url: str, connection: Connection) -> None:
    """In time, for whoever is in the write and whoever waits behind it; once it goes again, it goes again."""
    async with receiving(database_url, commit_timeout_seconds=0.5) as receiver:
        assert (await receiver.post()).status == 200
        async with locked(connection):
            began = asyncio.get_running_loop().time()
            first, second = await sent(receiver, post(), post())
            assert [(await first.answer()).status, (await second.answer()).status] == [503, 503]
            assert 0.5 <= asyncio.get_running_loop().time() - began < 1.0
        await row_of(connection, await receiver.post_until(200))


async def test_a_commit_whose_outcome_is_unknown_is_one_row(database_url: str, connection: Connection) -> None:
    """Its answer lost, the same batch is sent again, and "already there" proves it: 200, exactly one row each."""
    async with Proxy(database_url) as proxy, receiving(proxy.url) as receiver:
        async with locked(connection):
            senders = await sent(receiver, post())
            await blocked(connection)
            senders += await sent(receiver, *[post("/demo", b"%d" % number) for number in range(10)])
            proxy.swallow(b"COPY 10\0")
        ids = [(await sender.answer()).id for sender in senders]
        assert proxy.swallowed.is_set()
    assert await missing(connection, ids) == []
    assert await stored(connection) == 11


async def test_a_half_open_connection_is_given_up_in_time(database_url: str, connection: Connection) -> None:
    """Nothing comes back and nobody says so: 503 within the time-out, back within 5 s."""
    async with Proxy(database_url) as proxy, receiving(proxy.url, commit_timeout_seconds=0.5) as receiver:
        assert (await receiver.post()).status == 200
        proxy.go_dark()
        began = asyncio.get_running_loop().time()
        assert (await receiver.post()).status == 503
        assert asyncio.get_running_loop().time() - began < 1.0
        proxy.light_up()
        await row_of(connection, await receiver.post_until(200))
        await receiver.get_until(200, "/-/ready")


async def test_a_server_that_is_read_only_is_as_good_as_away(
    server_url: str, database_url: str, connection: Connection
) -> None:
    """As a standby is after a fail-over: not ready, 503; back within 5 s of its taking writes."""
    name = await connection.fetchval("SELECT current_database()")
    async with receiving(database_url, commit_timeout_seconds=0.2) as receiver:
        assert (await receiver.get("/-/ready")).status == 200
        await execute(server_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await throw_out(connection)
        assert (await receiver.post()).status == 503
        await receiver.get_until(503, "/-/ready")
        await execute(server_url, f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await receiver.get_until(200, "/-/ready")
        await row_of(connection, await receiver.post())


FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.payload = 'last' THEN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON hookd.events FOR EACH ROW EXECUTE FUNCTION full_disk();
"""


async def test_a_full_disk_is_503_with_nothing_half_written(database_url: str, connection: Connection) -> None:
    """Not a row of the batch is there; with room again, all is well."""
    await connection.execute(FULL)
    async with receiving(database_url, commit_timeout_seconds=0.5) as receiver:
        assert (await receiver.post()).status == 200
        async with locked(connection):
            senders = await sent(receiver, post())
            await blocked(connection)
            senders += await sent(receiver, post(), post("/demo", b"last"))
        answers = [await sender.answer() for sender in senders]
        assert [answer.status for answer in answers] == [200, 503, 503]
        assert await stored(connection) == 2
        await connection.execute("DROP TRIGGER full_disk ON hookd.events")
        await receiver.get_until(200, "/-/ready")
        assert (await receiver.post("/demo", b"last")).status == 200


async def test_a_server_in_trouble_is_not_stormed_with_connections(database_url: str, connection: Connection) -> None:
    """A write that fails at once is tried again with back-off."""
    await connection.execute(FULL)
    async with Proxy(database_url) as proxy, receiving(proxy.url, commit_timeout_seconds=1.0) as receiver:
        assert (await receiver.post()).status == 200
        before = proxy.opened
        assert (await receiver.post("/demo", b"last")).status == 503
        assert proxy.opened - before < 10


async def test_a_day_without_partition_is_made_by_the_receiver(database_url: str, connection: Connection) -> None:
    """And the batch is sent again: nobody notices that maintenance did not run."""
    today = await drop_days(connection)
    async with receiving(database_url) as receiver:
        answers = await asyncio.gather(*[receiver.post("/demo", b"%d" % number) for number in range(20)])
    assert await missing(connection, [answer.id for answer in answers]) == []
    assert today in [row["day"] for row in await connection.fetch("SELECT day FROM hookd.days()")]


async def test_a_day_is_made_once_whoever_is_in_the_way_has_gone(database_url: str, connection: Connection) -> None:
    """A lock on the table is waited for in small steps, so that nobody waits behind the receiver."""
    await drop_days(connection)
    async with receiving(database_url) as receiver:
        async with connection.transaction():
            await connection.execute("LOCK TABLE hookd.events IN SHARE UPDATE EXCLUSIVE MODE")
            (sender,) = await sent(receiver, post())
            await connection.execute("SELECT pg_sleep(0.4)")
            assert await stored(connection) == 0
        await row_of(connection, await sender.answer())


async def drop_days(connection: Connection) -> date:
    """No day has a partition; today's date."""
    for row in await connection.fetch("SELECT hookd.day_name('events', day) AS name FROM hookd.days()"):
        await connection.execute(f"DROP TABLE hookd.{row['name']}, hookd.{row['name'].replace('events', 'attempts')}")
    today: date = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    return today


async def test_a_database_that_may_forget_is_refused(
    server_url: str, database_url: str, connection: Connection
) -> None:
    """With synchronous_commit off a 2xx could be lost: no start, and 503 where it is turned off later."""
    name = await connection.fetchval("SELECT current_database()")
    async with receiving(database_url, commit_timeout_seconds=0.2) as receiver:
        assert (await receiver.post()).status == 200
        await execute(server_url, f"ALTER DATABASE {name} SET synchronous_commit = off")
        await throw_out(connection)
        assert (await receiver.post()).status == 503
    with pytest.raises(DatabaseError, match="synchronous_commit is off"):
        async with receiving(database_url):
            pass
    async with receiving(Database(database_url, allow_unsafe=True)) as receiver:
        assert (await receiver.post()).status == 200


async def test_a_database_without_schema_is_refused(empty_database_url: str) -> None:
    """With a sentence that says what to do."""
    with pytest.raises(DatabaseError, match="hookd migrate"):
        async with receiving(empty_database_url):
            pass
