"""How a connection behaves: what follows a request on it, and who is let in from where."""

import asyncio
from collections.abc import Callable

import pytest

from chassis.database import Connection
from tests.breaking import away
from tests.receiving import Local, a_listener, receiving
from tests.sending import Sender, chunked, head, one_by_one, post
from tests.storing import row_of, stored
from tests.waiting import PATIENCE_SECONDS

any_server = pytest.mark.any_server


@pytest.mark.any_server
async def test_a_connection_is_kept_for_the_next_request(receiver: Local, table: Connection) -> None:
    """With HTTP/1.1 unless the sender says close, with HTTP/1.0 only where it says keep-alive."""
    keep, close = [(b"Connection", b"keep-alive")], [(b"Connection", b"close")]
    kept = [post(), post(headers=keep), post(headers=keep, version="1.0")]
    sender = await receiver.sender()
    for each in kept * 2:
        await sender.send(each)
        answer = await sender.answer()
        await row_of(table, answer)
        assert not answer.closes
    for each in (
        post(headers=close),
        post(version="1.0"),
        head("/demo", version="1.0").replace(b"Host: hookd\r\n", b""),
    ):
        sender = await receiver.sender()
        await sender.send(each)
        answer = await sender.answer()
        await row_of(table, answer)
        assert answer.closes
        assert await sender.rest() == b""


@any_server
async def test_pipelined_requests_are_answered_in_their_order(receiver: Local, table: Connection) -> None:
    """Each with its own row, however many come at once, whole and one byte at a time."""
    count = 50
    whole = b"".join(post(f"/demo/{number}", b"%d" % number) for number in range(count))
    for parts in ([whole], one_by_one(whole)):
        sender = await receiver.sender()
        await sender.send(*parts)
        rows = [await row_of(table, await sender.answer()) for _ in range(count)]
        assert [row["payload"] for row in rows] == [b"%d" % number for number in range(count)]


@pytest.mark.any_server
async def test_a_post_that_offers_an_upgrade_is_a_post(receiver: Local, table: Connection) -> None:
    """The offer is declined in silence, and the next request on the connection is one like any other."""
    offer = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    for parts in ([post("/demo", b"abc", offer) + post()], [post("/demo", b"abc", offer), post()]):
        sender = await receiver.sender()
        await sender.send(*parts)
        assert (await row_of(table, await sender.answer()))["payload"] == b"abc"
        assert (await row_of(table, await sender.answer()))["payload"] == b"{}"


TRAILERS = [(b"X-GitHub-Event", b"forged"), (b"X-Hub-Signature", b"forged")]


@any_server
@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (chunked("/demo", [b"abc"], trailers=TRAILERS), 200),
        (chunked("/Demo", [b"abc"], trailers=TRAILERS), 400),
        (chunked("/demo", [b"abc"], trailers=TRAILERS).replace(b"POST", b"PUT"), 405),
        (chunked("/-/live", [b"abc"], trailers=TRAILERS).replace(b"POST", b"GET"), 200),
    ],
    ids=["accepted", "refused", "another method", "own page"],
)
async def test_a_chunked_request_s_connection_is_closed_after_its_answer(
    receiver: Local, table: Connection, request_bytes: bytes, status: int
) -> None:
    """No trailer becomes a header of the next request: whether sent behind it or at once, that is not served."""
    before = await stored(table)
    for parts in ([request_bytes], one_by_one(request_bytes), [request_bytes + post()]):
        sender = await receiver.sender()
        await sender.send(*parts)
        answer = await sender.answer()
        assert (answer.status, answer.closes) == (status, True)
        await sender.send(post())
        assert await sender.rest() == b""
    assert await stored(table) == before + (3 if b"id" in answer.body else 0)


@pytest.mark.any_server
async def test_trailers_are_not_headers(receiver: Local, table: Connection) -> None:
    """What comes behind the body is not stored, and names nothing."""
    row = await row_of(table, await receiver.ask(chunked("/github", [b"abc"], trailers=TRAILERS)))
    assert row["event_type"] is None
    assert "forged" not in row["headers"]


@pytest.mark.any_server
async def test_a_sender_that_left_after_its_body_was_complete_is_stored(
    database_url: str, connection: Connection
) -> None:
    """Whether it only stopped sending or is gone altogether: its commit goes on."""
    hints: asyncio.Queue[object] = asyncio.Queue()
    await connection.add_listener("hookd", lambda *_: hints.put_nowait(None))
    async with receiving(database_url) as receiver:
        for count, leave in enumerate((Sender.half_close, Sender.close), 1):
            for whole in (post("/demo", b"abc"), chunked("/demo", [b"abc"])):
                sender = await receiver.sender()
                await sender.send(whole)
                leave(sender)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await hints.get()
            assert await stored(connection) == 2 * count
    assert await connection.fetchval("SELECT count(DISTINCT payload) FROM hookd.events") == 1
    await connection.reset()


@any_server
@pytest.mark.parametrize("leave", [Sender.half_close, Sender.close, Sender.reset])
@pytest.mark.parametrize(
    "whole",
    [post("/demo", b"abc"), chunked("/demo", [b"abc"]), chunked("/demo", [b"abc"], trailers=TRAILERS)],
    ids=["by length", "in chunks", "with trailers"],
)
async def test_of_a_sender_that_left_before_nothing_is_stored(
    receiver: Local, table: Connection, whole: bytes, leave: Callable[[Sender], None]
) -> None:
    """Wherever its request was cut off; a truncated body never looks complete."""
    before = await stored(table)
    for place in (10, -1, -2, -len(whole) // 4):
        sender = await receiver.sender()
        await sender.send(whole[:place])
        leave(sender)
        if leave is Sender.half_close:
            assert b"200" not in await sender.rest()
    assert (await receiver.post()).status == 200
    assert await stored(table) == before + 1


async def register(connection: Connection, source: str) -> None:
    await connection.execute("INSERT INTO hookd.sources (name) VALUES ($1)", source)


async def test_any_source_is_stored_until_the_first_is_registered(database_url: str, connection: Connection) -> None:
    """From then on any other is 404, within 2 s and without a restart; a 404 is never stored."""
    async with receiving(database_url, unknown_sources="auto") as receiver:
        await row_of(connection, await receiver.post("/demo"))
        await register(connection, "github")
        unknown = await receiver.post_until(404, "/demo", seconds=2.5)
        assert "demo" in unknown.error
        before = await stored(connection)
        assert (await receiver.post("/demo")).status == 404
        assert await stored(connection) == before
        await row_of(connection, await receiver.post("/github"))


async def test_unknown_sources_can_be_rejected_from_the_start(database_url: str, connection: Connection) -> None:
    """Also while nobody registered one."""
    async with receiving(database_url, unknown_sources="reject") as receiver:
        assert (await receiver.post("/github")).status == 404
    await register(connection, "github")
    async with receiving(database_url, unknown_sources="reject") as receiver:
        await row_of(connection, await receiver.post("/github"))
        assert (await receiver.post("/demo")).status == 404
        assert (await receiver.post("/github-2")).status == 404


async def test_unknown_sources_can_be_stored_for_ever(database_url: str, connection: Connection) -> None:
    """Also beside registered ones."""
    await register(connection, "github")
    async with receiving(database_url, unknown_sources="store") as receiver:
        answer = await receiver.post("/demo")
        assert answer.status == 200
        assert (await row_of(connection, answer))["source"] == "demo"


async def test_no_source_is_unknown_before_anybody_could_ask(
    server_url: str, database_url: str, connection: Connection
) -> None:
    """With the database away at the start it is 503, never 404."""
    await register(connection, "github")
    async with away(server_url, connection), receiving(database_url, unknown_sources="reject") as receiver:
        assert (await receiver.post("/demo")).status == 503


@pytest.mark.any_server
async def test_what_waits_for_the_receiver_s_start_is_stored(database_url: str, connection: Connection) -> None:
    """A connection made while a worker restarts is not answered 503 because the new one knows nothing yet."""
    listener = a_listener()
    sender = await Sender.to(listener.getsockname()[1])
    await sender.send(post())
    async with receiving(database_url, listener, unknown_sources="auto") as receiver:
        receiver.senders.append(sender)
        answer = await sender.answer()
        assert answer.status == 200
        assert (await row_of(connection, answer))["source"] == "demo"
