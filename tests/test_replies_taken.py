"""Replies: which requests a handler is asked about, and which never reach it."""

import asyncio
from uuid import UUID

import pytest

from chassis.database import Connection, Database
from processor.handling.event import Event
from tests.processing import Watch, a_handler, processing
from tests.registering import a_source, register, wire
from tests.replying import a_hook, a_reply, delivered, receipt, replying
from tests.sending import head
from tests.storing import row_of, stored
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.any_server


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


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
