"""Replies: who wants an answer in the request has it from a handler, whose event is stored first."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

import hookd
from chassis.database import Connection, Database
from processor.handling.event import Event
from tests.factories import counts
from tests.processing import Gate, Watch, a_handler, processing
from tests.registering import a_source
from tests.replying import WAITS, a_reply, receipt, replying
from tests.sending import MIB
from tests.storing import stored
from tests.waiting import PATIENCE_SECONDS, in_time

pytestmark = pytest.mark.any_server


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


# What a handler returns


TEXT, JSON = "text/plain; charset=utf-8", "application/json"
ANSWERS: list[tuple[Any, int, str | None, bytes]] = [
    (None, 200, None, b""),
    ("", 200, None, b""),
    ("grüß <b>dich</b>", 200, TEXT, "grüß <b>dich</b>".encode()),
    (b"\xff\x00", 200, "application/octet-stream", b"\xff\x00"),
    ({}, 200, JSON, b"{}"),
    ({"text": "ok"}, 200, JSON, b'{"text":"ok"}'),
    ([1, None], 200, JSON, b"[1,null]"),
    (("gone", 410), 410, TEXT, b"gone"),
    (("<p>", 201, {"Content-Type": "text/html"}), 201, "text/html", b"<p>"),
    ((None, 302, [("Location", "/there")]), 302, None, b""),
    (("never sent", 204), 204, None, b""),
    (hookd.Response({"a": 1}, 202), 202, JSON, b'{"a":1}'),
]


@pytest.mark.any_server
@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize(("returned", "status", "content_type", "body"), ANSWERS)
async def test_what_a_handler_returns_is_the_answer(
    database: Database, returned: Any, status: int, content_type: str | None, body: bytes, *, in_thread: bool
) -> None:
    """Nothing, text, bytes, JSON, with a status and headers, from an `async def` and from a `def`."""

    async def reply(event: Event) -> Any:
        return returned

    def reply_in_thread(event: Event) -> Any:
        return returned

    async with replying(database, reply_in_thread if in_thread else reply) as receiver:
        answer = await receiver.post()
    assert (answer.status, answer.body, answer.headers.get("content-type")) == (status, body, content_type)


async def test_headers_of_the_answer(database: Database) -> None:
    """A handler's headers are sent, repeated ones too."""
    response = hookd.Response("x", headers=[("X-Powered-By", "Errbot"), ("Set-Cookie", "a=1")])

    async def reply(event: Event) -> hookd.Response:
        return response

    async with replying(database, reply) as receiver:
        answer = await receiver.post()
    assert (answer.headers["x-powered-by"], answer.headers["set-cookie"]) == ("Errbot", "a=1")


@pytest.mark.parametrize("in_thread", [False, True])
async def test_an_abort_is_an_answer(
    database: Database, connection: Connection, watch: Watch, *, in_thread: bool
) -> None:
    """The sender is answered so, the event is processed, and its reason says how it was answered."""

    async def reply(event: Event) -> None:
        hookd.abort(403)

    def reply_in_thread(event: Event) -> None:
        hookd.abort(403)

    async with replying(database, reply_in_thread if in_thread else reply) as receiver:
        answer = await receiver.post()
        assert list((await watch.settled()).values()) == [("processed", "answered 403")]
    assert (answer.status, answer.body) == (403, b"Forbidden")
    assert await connection.fetchval("SELECT count(*) FROM hookd.attempts") == 0


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (7, "WrongReply: a handler with reply=True returned int"),
        (("x", 99), "a reply's status is 99"),
        (("x", 200, [("Content-Length", "7")]), "header 'Content-Length' is the receiver's own"),
        (("x", 200, [("X-A", "b\r\nX-C: d")]), "header 'X-A': a name, and a value of visible"),
        ({"a": object()}, "a reply's dict cannot be sent"),
        ("\ud800", "a reply's str cannot be sent"),
    ],
)
async def test_what_cannot_be_an_answer(
    database: Database, connection: Connection, watch: Watch, returned: Any, said: str
) -> None:
    """It is a failed attempt: the sender has the usual answer, and the event is tried again."""

    async def reply(event: Event) -> Any:
        return returned

    async with replying(database, reply) as receiver:
        event_id = receipt(await receiver.post())
        await watch.until(WAITS)
    row = await connection.fetchrow("SELECT * FROM hookd.events WHERE id = $1", event_id)
    assert row is not None
    assert (row["attempts"], said in row["reason"]) == (1, True), row["reason"]


# Stored first


async def test_the_row_is_committed_and_held_before_its_handler_runs(
    database: Database, connection: Connection, watch: Watch
) -> None:
    """Another connection sees it, held by this receiver for a lease, as its first attempt; processors pass it by."""
    seen: list[Any] = []

    async def reply(event: Event) -> str:
        row = await connection.fetchrow("SELECT *, due_at - now() AS lease FROM hookd.events WHERE id = $1", event.id)
        seen.append(row)
        return "ok"

    gate = Gate(is_open=True)
    async with (
        processing(database, a_handler(gate.pass_through)),
        replying(database, reply, processor={"lease_seconds": 30.0}) as receiver,
    ):
        assert (await receiver.post("/demo/x?y=1", b"\x00\xff")).body == b"ok"
        await watch.settled()
    (row,) = seen
    assert (row["status"], row["attempts"], row["claims"], row["held_by"] is None) == ("new", 1, 1, False)
    assert 20 < row["lease"].total_seconds() <= 30
    assert (row["target"], row["payload"], str(row["remote"])) == ("/demo/x?y=1", b"\x00\xff", "127.0.0.1")
    assert gate.ended == []
    settled = await connection.fetchrow("SELECT * FROM hookd.events")
    assert settled is not None
    assert (settled["status"], settled["reason"], settled["held_by"]) == ("processed", None, None)
    assert await counts(connection) == {("demo", "processed"): 1}


async def test_what_the_handler_is_given(database: Database) -> None:
    """The event as a processor would give it: names, headers, body, first attempt."""
    given: list[Event] = []

    async def reply(event: Event) -> None:
        given.append(event)

    async with replying(database, a_reply(reply, "github")) as receiver:
        await receiver.post("/github", b'{"a":1}', [(b"X-GitHub-Event", b"push"), (b"X-Any", b"\xe9")])
    (event,) = given
    assert isinstance(event.id, UUID)
    assert (event.source, event.event_type, event.attempt, event.json()) == ("github", "push", 1, {"a": 1})
    assert event.header("x-any") == "é"


async def test_large_bodies_are_replied_to(database: Database, connection: Connection, watch: Watch) -> None:
    """Over a lane of their own, judged beside the event loop, byte for byte."""
    await a_source(connection, "slack", "token", secret="secret")
    body = b'{"x":"' + b"y" * (2 * MIB) + b'"}'

    async def reply(event: Event) -> dict[str, Any]:
        return {"bytes": len(event.body), "same": event.body == body}

    async with replying(database, a_reply(reply, "slack")) as receiver:
        answer = await receiver.post("/slack", body, [(b"Authorization", b"secret")])
        assert json.loads(answer.body) == {"bytes": len(body), "same": True}
        assert list((await watch.settled()).values()) == [("processed", None)]
    row = await connection.fetchrow("SELECT verdict, payload FROM hookd.events")
    assert row is not None
    assert (row["verdict"], row["payload"]) == ("verified", body)


async def test_many_at_once(database: Database, connection: Connection, watch: Watch) -> None:
    """Requests that come together are committed together, and each has its own answer."""
    gate = asyncio.Event()

    async def reply(event: Event) -> str:
        await gate.wait()
        return event.text()

    async with replying(database, reply) as receiver:
        asking = [asyncio.create_task(receiver.post("/demo", b"%d" % number)) for number in range(50)]
        await in_time(lambda: stored(connection), lambda count: count == 50, PATIENCE_SECONDS)
        gate.set()
        answers = [await each for each in asking]
        await watch.settled()
    assert [answer.body for answer in answers] == [b"%d" % number for number in range(50)]
    assert await counts(connection) == {("demo", "processed"): 50}
