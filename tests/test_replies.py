"""Replies: who wants an answer in the request has it from a handler, and no event is lost for it, or waits for it."""

import asyncio
import contextlib
import json
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

import hookd
from chassis.database import Connection, Database
from ingest.settings import IngestSettings
from processor.handling.event import Event
from protocol.request import Request
from protocol.samples import Fault
from tests.born import hookd as hookd_process
from tests.databases import execute
from tests.factories import counts
from tests.processing import Gate, Watch, a_handler, an_app, processing
from tests.receiving import (
    MIB,
    PATIENCE_SECONDS,
    Answer,
    Proxy,
    head,
    hookd_ingest,
    in_time,
    row_of,
    stored,
)
from tests.registering import a_source, register, sent, wire
from tests.replying import a_hook, a_reply, replying

pytestmark = pytest.mark.any_server

HELD = "SELECT held_by IS NOT NULL FROM hookd.events"
WAITS = "status = 'new' AND held_by IS NULL"


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


def receipt(answer: Answer) -> UUID:
    """The row's id, of whoever got the usual answer."""
    assert answer.headers["content-type"] == "application/json"
    return answer.id


def delivered(provider: str, *, delivery: str = "0001", fault: Fault | None = None) -> Request:
    """The provider's sample, to a source of its name."""
    return replace(sent(provider, delivery=delivery, fault=fault), target=f"/{provider}")


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


# What never reaches a handler


async def test_what_is_told_to_come_again_is_no_duplicate(
    database: Database, connection: Connection, watch: Watch
) -> None:
    """An event whose handler answers 5xx has failed: what its sender sends again is handled."""
    await a_source(connection, "github")
    answers = iter([("not now", 503), "done"])

    async def reply(event: Event) -> object:
        return next(answers)

    async with replying(database, a_reply(reply, "github")) as receiver:
        first = await receiver.ask(wire(delivered("github")))
        assert list((await watch.settled()).values()) == [("failed", "answered 503")]
        again = await receiver.ask(wire(delivered("github")))
        assert list((await watch.settled()).values()) == [("failed", "answered 503"), ("processed", None)]
    assert [(answer.status, answer.body) for answer in (first, again)] == [(503, b"not now"), (200, b"done")]


async def test_forged_and_copied_requests_run_nothing(database: Database, connection: Connection, watch: Watch) -> None:
    """They are answered as usual; the event fails as unverified, or is processed as the duplicate it is."""
    await a_source(connection, "github")
    ran: list[UUID] = []

    async def reply(event: Event) -> str:
        ran.append(event.id)
        return "ran"

    async with replying(database, a_reply(reply, "github")) as receiver:
        first = await receiver.ask(wire(delivered("github")))
        copy = receipt(await receiver.ask(wire(delivered("github"))))
        forged = receipt(await receiver.ask(wire(delivered("github", delivery="0002", fault="bad-signature"))))
        settled = await watch.settled()
    assert first.body == b"ran"
    (owner,) = ran
    assert settled[owner] == ("processed", None)
    assert settled[copy] == ("processed", f"duplicate of {owner}")
    assert settled[forged][0] == "failed"
    assert (settled[forged][1] or "").startswith("unverified: ")


async def test_the_edge_refuses_before_a_handler_sees_it(database: Database, connection: Connection) -> None:
    """401 as without a reply; what is genuine is judged once, and answered by its handler."""
    await a_source(connection, "github", mode="edge")

    async def reply(event: Event) -> str:
        return "ran"

    async with replying(database, a_reply(reply, "github")) as receiver:
        assert (await receiver.ask(wire(delivered("github", fault="bad-signature")))).status == 401
        assert (await receiver.ask(wire(delivered("github", delivery="0002")))).body == b"ran"


async def test_a_changed_secret_counts_at_once(database: Database, connection: Connection, watch: Watch) -> None:
    """What is received after a change is judged by what the change says."""
    await a_source(connection, "github", secret="another")

    async def reply(event: Event) -> str:
        return "ran"

    async with replying(database, a_reply(reply, "github")) as receiver:
        receipt(await receiver.ask(wire(delivered("github"))))
        await connection.execute("DELETE FROM hookd.sources")
        await a_source(connection, "github")
        assert (await receiver.ask(wire(delivered("github", delivery="0002")))).body == b"ran"
        await watch.settled()


async def test_a_handler_that_does_not_reply_runs_in_no_receiver(database: Database, watch: Watch) -> None:
    """Where the same source has both, its row goes to a processor at once, with its attempt."""
    where: list[str] = []

    async def silent(event: Event) -> None:
        where.append("receiver")

    async def handle(event: Event) -> None:
        where.append(f"processor, attempt {event.attempt}")

    async def reply(event: Event) -> str:
        return "replied"

    handlers = (a_reply(reply, "slack", event_types=("command",)), a_reply(silent, "slack", replies=False))
    async with processing(database, a_handler(handle)), replying(database, *handlers) as receiver:
        event_id = receipt(await receiver.post("/slack"))
        assert await watch.settled() == {event_id: ("processed", None)}
    assert where == ["processor, attempt 1"]


async def test_what_is_handed_back_is_hinted(database: Database, connection: Connection) -> None:
    """A processor hears of it at once."""
    heard = asyncio.Event()
    await connection.add_listener("hookd", lambda *_: heard.set())

    async def silent(event: Event) -> None: ...

    async def reply(event: Event) -> None: ...

    handlers = (a_reply(reply, "slack", event_types=("command",)), a_reply(silent, "slack", replies=False))
    async with replying(database, *handlers) as receiver:
        receipt(await receiver.post("/slack"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await heard.wait()
    await connection.reset()


async def test_other_sources_pay_nothing(database: Database, connection: Connection) -> None:
    """Their rows wait for a processor, as ever."""

    async def reply(event: Event) -> str:
        return "replied"

    async with replying(database, a_reply(reply, "slack")) as receiver:
        row = await row_of(connection, await receiver.post("/github"))
    assert (row["claims"], row["attempts"], row["held_by"], row["status"]) == (0, 0, None, "new")


# Which requests are taken


async def test_a_rules_methods_are_taken(database: Database, connection: Connection) -> None:
    """Of a source that nobody registered GET is taken where a rule says so, and nowhere else."""

    async def show(payload: object, number: int) -> dict[str, object]:
        return {"number": number, "payload": payload}

    async with replying(database, a_hook(show, "/deploy/<int:number>", ("GET", "PUT"))) as receiver:
        assert (await receiver.get("/deploy/7")).body == b'{"number":7,"payload":null}'
        assert (await receiver.ask(head("/deploy/7/", method="PUT"))).status == 200
        before = await stored(connection)
        answer = await receiver.get("/deploy/x")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert (await receiver.get("/other/7")).status == 405
        assert (await receiver.ask(head("/deploy/7", method="DELETE"))).status == 405
        assert await stored(connection) == before


async def test_a_rule_of_any_source(database: Database) -> None:
    """A rule whose first segment is variable is heard everywhere, registered or not."""

    async def show(payload: object, name: str) -> str:
        return name

    async with replying(database, a_hook(show, "/<name>/ping", ("GET",))) as receiver:
        assert (await receiver.get("/github/ping")).body == b"github"
        assert (await receiver.get("/what-ever/ping")).body == b"what-ever"
        assert (await receiver.get("/what-ever")).status == 405


@pytest.mark.parametrize("unknown_sources", ["auto", "reject"])
async def test_the_sources_of_rules_are_known(database: Database, connection: Connection, unknown_sources: str) -> None:
    """Where unknown sources are refused, those that are replied to by name are not."""
    await register(connection, "other")

    async def reply(event: Event) -> str:
        return "known"

    handlers = (a_hook(lambda payload, rest: rest, "/mine/<path:rest>"), a_reply(reply, "slack"))
    async with replying(database, *handlers, unknown_sources=unknown_sources) as receiver:
        assert (await receiver.post("/mine/a/b")).body == b"a/b"
        assert (await receiver.post("/slack")).body == b"known"
        assert (await receiver.post("/theirs")).status == 404


async def test_what_was_registered_stands(database: Database, connection: Connection) -> None:
    """Its methods are those that were registered, whatever a rule says."""
    await register(connection, "mine")

    async def reply(payload: object) -> str:
        return "replied"

    async with replying(database, a_hook(reply, "/mine")) as receiver:
        assert (await receiver.post("/mine")).body == b"replied"
        answer = await receiver.get("/mine")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")


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


APP = """
@hookd.on("demo", reply=True)
async def reply(event):
    if event.attempt == 1 and event.body == b"wait":
        print("inside", flush=True)
        await asyncio.sleep(60)
    return f"attempt {event.attempt}"
"""


async def test_a_receiver_that_is_killed(
    database_url: str, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """kill -9 in the middle of the function: its lease runs out, and a processor handles the event."""
    app = an_app(tmp_path, APP)
    async with hookd_ingest(database_url, app=app, lease_seconds=1, reply_seconds=60) as receiver:
        asked = asyncio.create_task(receiver.post("/demo", b"wait"))
        assert receiver.hookd.process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await receiver.hookd.process.stdout.readline() == b"inside\n"
        receiver.hookd.kill()
        with contextlib.suppress(ConnectionError, EOFError):
            await asked
        await receiver.hookd.ended()
    async with hookd_process("processor", "--app", app, database_url=database_url, poll_seconds="0.05"):
        assert list((await watch.settled()).values()) == [("processed", None)]
    assert await connection.fetchval("SELECT attempts FROM hookd.events") == 2


async def test_a_receiver_that_is_told_to_stop(database: Database, connection: Connection, watch: Watch) -> None:
    """Running replies get the grace: their senders are answered, and their connections end with it."""
    gate = Gate()

    async def reply(event: Event) -> str:
        await gate.pass_through(event)
        return "answered"

    async with replying(database, reply, reply_seconds=10.0) as receiver:
        with capture_logs() as logged:
            asked = asyncio.create_task(receiver.post())
            await gate.entered()
            receiver.stop()
            await in_time(
                lambda: asyncio.sleep(0.01), lambda _: any(line["event"] == "ingest.stopping" for line in logged), 20
            )
            gate.open()
            answer = await asked
            await receiver.ended
    assert (answer.body, answer.closes) == (b"answered", True)
    assert await connection.fetchval("SELECT status FROM hookd.events") == "processed"


@pytest.mark.parametrize("in_thread", [False, True])
async def test_what_still_runs_when_the_grace_ends(
    database: Database, connection: Connection, *, in_thread: bool
) -> None:
    """It is handed back with its attempt, and is due at once."""
    gate, let_go = Gate(), threading.Event()

    def wait(event: Event) -> None:
        let_go.wait(PATIENCE_SECONDS)

    handler = wait if in_thread else gate.pass_through
    async with replying(database, handler, reply_seconds=10.0, grace_seconds=0.2) as receiver:
        asked = asyncio.create_task(receiver.post())
        await in_time(lambda: connection.fetchval(HELD), bool, PATIENCE_SECONDS)
        receiver.stop()
        with contextlib.suppress(ConnectionError, EOFError):
            await asked
        await receiver.ended
    let_go.set()
    row = await connection.fetchrow("SELECT status, attempts, held_by, due_at <= now() AS is_due FROM hookd.events")
    assert row is not None
    assert tuple(row) == ("new", 0, None, True)


async def test_sigterm(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """A thread that hangs does not keep the process: exit code 0, and its event waits for a processor."""
    async with hookd_ingest(
        database_url, app=an_app(tmp_path, HANGS), reply_seconds=0.2, grace_seconds=0.5
    ) as receiver:
        receipt(await receiver.post())
        receiver.signal(signal.SIGTERM)
        assert await receiver.hookd.ended() == 0
    row = await connection.fetchrow("SELECT status, held_by FROM hookd.events")
    assert row is not None
    assert tuple(row) == ("new", None)


HANGS = '@hookd.on("demo", reply=True)\ndef reply(event):\n    time.sleep(600)\n'


async def test_threads_that_hang_stop_no_storing(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """With every thread taken rows go to a processor at once, and the log says what is to be done."""
    app = an_app(tmp_path, HANGS)
    settings: dict[str, Any] = {"concurrency": 1, "handler_timeout_seconds": 0.1, "grace_seconds": 0.1}
    async with hookd_ingest(database_url, app=app, reply_seconds=0.3, **settings) as receiver:
        receipt(await receiver.post())
        await receiver.hookd.logged("replies.stuck")
        left = receipt(await receiver.post())
        done = f"SELECT {WAITS} AND attempts = 0 AND claims = 1 FROM hookd.events WHERE id = $1"
        await in_time(lambda: connection.fetchval(done, left), bool, PATIENCE_SECONDS)


async def test_threads_that_hang_have_a_supervised_receiver_replaced(
    database: Database, connection: Connection
) -> None:
    """It ends as SIGTERM would end it; what hung is a failed attempt, what waited for a thread is handed back."""
    let_go = threading.Event()

    def reply(event: Event) -> None:
        let_go.wait(PATIENCE_SECONDS)

    settings = {"concurrency": 1, "handler_timeout_seconds": 0.5}
    async with replying(database, reply, reply_seconds=2.0, processor=settings) as receiver:
        first, second = [receipt(answer) for answer in await asyncio.gather(receiver.post(), receiver.post())]
        await asyncio.wait_for(receiver.ended, PATIENCE_SECONDS)
    let_go.set()
    rows = await connection.fetch("SELECT id, held_by, attempts FROM hookd.events ORDER BY attempts")
    assert {row["id"] for row in rows} == {first, second}
    assert [(row["held_by"], row["attempts"]) for row in rows] == [(None, 0), (None, 1)]


# Around it


async def test_figures(database: Database, database_url: str, tmp_path: Path) -> None:
    """The receiver's page counts what was answered, what was too late, and what had no answer of its own."""
    code = """
@hookd.on("demo", reply=True)
async def reply(event):
    match event.body:
        case b"late": await asyncio.sleep(60)
        case b"fail": raise hookd.Reject("no")
"""
    port = await asyncio.to_thread(_free_port)
    async with hookd_ingest(
        database_url, app=an_app(tmp_path, code), metrics_port=port - 1, reply_seconds=0.3
    ) as receiver:
        for body in (b"late", b"fail", b"good", b"good"):
            await receiver.post("/demo", body)
        page = await in_time(lambda: _page(port), lambda text: "hookd_replies_total" in text, PATIENCE_SECONDS)
    for outcome, count in (("answered", 2), ("late", 1), ("unanswered", 1)):
        assert f'hookd_replies_total{{outcome="{outcome}",source="demo"}} {count}.0' in page
    assert 'hookd_received_total{source="demo"} 4.0' in page


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


async def _page(port: int) -> str:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return ""
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return text


async def test_not_ready_while_what_is_replied_to_cannot_be_written(database: Database, connection: Connection) -> None:
    """`/-/ready` says so: a proxy had better send it elsewhere."""

    async def reply(event: Event) -> None: ...

    async with replying(database, reply, commit_timeout_seconds=0.2) as receiver:
        await connection.execute(
            "CREATE FUNCTION public.broken() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION USING ERRCODE = '57000'; END $$;"
            "CREATE TRIGGER broken BEFORE INSERT ON hookd.events FOR EACH ROW WHEN (NEW.claims = 1)"
            " EXECUTE FUNCTION public.broken()"
        )
        assert (await receiver.post()).status == 503
        assert (await receiver.get("/-/ready")).status == 503
        await connection.execute("DROP TRIGGER broken ON hookd.events")
        await receiver.get_until(200, "/-/ready", seconds=PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_that_name", "does not import"),
        (
            "@hookd.on('x', reply=True)\nasync def reply(event, conn): ...",
            "reply=True and a connection exclude each other",
        ),
    ],
)
async def test_an_app_with_faults_is_refused(tmp_path: Path, database_url: str, code: str, said: str) -> None:
    """Exit code 2, and what is wrong with it; nothing is taken that could not be replied to."""
    async with hookd_process(
        "ingest", "--port", "0", "--app", an_app(tmp_path, code), database_url=database_url
    ) as one:
        assert await one.ended() == 2
    assert any(said in str(line.get("text")) for line in one.lines)


async def test_an_app_with_faults_stops_no_storing(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """Where the receiver only shares HOOKD_APP with a processor, the log says what is wrong, and all is stored."""
    async with hookd_ingest(database_url, app=an_app(tmp_path, "def broken(:")) as receiver:
        assert "SyntaxError" in (await receiver.hookd.logged("app.refused"))["reason"]
        assert (await row_of(connection, await receiver.post()))["status"] == "new"


async def test_workers_reply(database_url: str, tmp_path: Path) -> None:
    """Several receivers under a supervisor load the app, each for itself."""
    app = an_app(tmp_path, APP)
    async with hookd_ingest(database_url, workers=2, app=app) as receiver:
        answers = [await receiver.post() for _ in range(10)]
    assert {answer.body for answer in answers} == {b"attempt 1"}


async def test_an_app_that_does_not_reply(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """Its receiver stores, and opens no connection for replies."""
    app = an_app(tmp_path, '@hookd.on("demo")\nasync def handle(event): return "ignored"\n')
    async with hookd_ingest(database_url, app=app) as receiver:
        receipt(await receiver.post())
        count = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name LIKE 'hookd replier%' AND datname = current_database()"
        )
        assert await connection.fetchval(count) == 0
