"""Judging: what a source's sender did not send reaches no handler; and what is judged, when, by what."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import hookd as api
from chassis.database import Connection, Database
from hookd.store import Store
from processor.holding.claimed import BODY_INLINE_BYTES_MAX
from processor.sifting.sieve import YIELD_EVERY
from protocol.providers import PROVIDERS
from tests.commands import Hookd
from tests.factories import an_event, counts, events, row_of
from tests.processing import Gate, Watch, a_handler, an_app, fail_once, processing
from tests.registering import SAMPLE_SECRET, a_delivery, a_source, change_secret, sent

pytestmark = pytest.mark.any_server

NOT_VERIFIED = "signature: X-Hub-Signature-256 does not fit the secret"
DIED_TWICE: dict[str, Any] = {"held_by": "a dead one", "attempts": 2, "claims": 2, "due": "1 second ago"}
ANOTHER_KEY = "YW5vdGhlci1rZXktb2YtMzItYnl0ZXMtZm9yLXRlc3Q="


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


class Seen:
    """A handler that notes what it was given."""

    def __init__(self) -> None:
        self.events: list[api.Event] = []

    async def note(self, event: api.Event) -> None:
        self.events.append(event)

    @property
    def ids(self) -> list[UUID]:
        return [event.id for event in self.events]


@pytest.fixture
def seen() -> Seen:
    return Seen()


async def replay(database: Database, *ids: UUID) -> None:
    """As `hookd replay` does."""
    store = Store(database, "test")
    assert await store.reset(ids, datetime(9999, 1, 1, tzinfo=UTC)) == set(ids)
    await store.close()


# Modes


@pytest.mark.parametrize("mode", ["deferred", "edge"])
async def test_what_is_not_verified_fails(
    mode: str, database: Database, connection: Connection, watch: Watch, seen: Seen
) -> None:
    """Deferred, and at the edge where the receiver did not judge yet: the forged one fails without a handler."""
    await a_source(connection, mode=mode)
    good, forged = await a_delivery(connection), await a_delivery(connection, fault="bad-signature", delivery="0002")
    async with processing(database, seen.note):
        settled = await watch.settled()
    assert settled == {good: ("processed", None), forged: ("failed", f"unverified: {NOT_VERIFIED}")}
    assert seen.ids == [good]
    assert (await row_of(connection, good))["verdict"] == "verified"
    assert (await row_of(connection, forged))["verdict"] == NOT_VERIFIED
    assert await connection.fetchval("SELECT count(*) FROM hookd.attempts") == 0
    assert await counts(connection) == {("github", "processed"): 1, ("github", "failed"): 1}


async def test_monitored(database: Database, connection: Connection, watch: Watch, seen: Seen) -> None:
    """Monitor: the verdict is recorded, and a handler runs whatever it is."""
    await a_source(connection, mode="monitor")
    good, forged = await a_delivery(connection), await a_delivery(connection, fault="bad-signature", delivery="0002")
    async with processing(database, seen.note):
        settled = await watch.settled()
    assert settled == {good: ("processed", None), forged: ("processed", None)}
    assert (await row_of(connection, good))["verdict"] == "verified"
    assert (await row_of(connection, forged))["verdict"] == NOT_VERIFIED


async def test_off(database: Database, connection: Connection, watch: Watch, seen: Seen) -> None:
    """Off: nothing is judged, and the verdict stays null."""
    await a_source(connection, mode="off")
    forged = await a_delivery(connection, fault="bad-signature")
    async with processing(database, seen.note):
        assert await watch.settled() == {forged: ("processed", None)}
    assert (await row_of(connection, forged))["verdict"] is None


async def test_what_the_receiver_verified(database: Database, connection: Connection, watch: Watch, seen: Seen) -> None:
    """What the receiver verified at the edge is not judged again."""
    await a_source(connection, mode="edge")
    event_id = await a_delivery(connection, fault="bad-signature")
    await connection.execute("UPDATE hookd.events SET verdict = 'verified'")
    async with processing(database, seen.note):
        assert await watch.settled() == {event_id: ("processed", None)}


async def test_time_is_judged_by_the_receipt(
    database: Database, connection: Connection, watch: Watch, seen: Seen
) -> None:
    """What was signed just before its receipt is verified however late it is processed; what was old then is not."""
    await a_source(connection, "slack")
    fresh = await a_delivery(connection, "slack")
    old = await a_delivery(connection, "slack", fault="old", delivery="0002")
    async with processing(database, seen.note):
        settled = await watch.settled()
    assert settled[fresh] == ("processed", None)
    assert settled[old][0] == "failed"
    assert (settled[old][1] or "").startswith("unverified: timestamp: signed 864")


async def test_no_handler_is_told_later_than_no_sender(
    database: Database, connection: Connection, watch: Watch
) -> None:
    """A forged event fails as one, also where no handler takes its source."""
    await a_source(connection)
    forged = await a_delivery(connection, fault="bad-signature")
    async with processing(database):
        assert await watch.settled() == {forged: ("failed", f"unverified: {NOT_VERIFIED}")}


@pytest.mark.parametrize("name", [name for name, each in PROVIDERS.items() if each.sample and name != "aws-sns"])
async def test_every_provider(name: str, database: Database, connection: Connection, watch: Watch, seen: Seen) -> None:
    """Each provider's sample is verified and handled with its names; the same with a bad signature fails."""
    provider = PROVIDERS[name]
    mode = "deferred" if provider.credential else "off"
    await a_source(connection, f"my-{name}", name, mode)
    good = await a_delivery(connection, f"my-{name}", name)
    forged = await a_delivery(connection, f"my-{name}", name, delivery="0002", fault="bad-signature")
    async with processing(database, seen.note):
        settled = await watch.settled()
    assert settled[good] == ("processed", None)
    assert settled[forged][0] == ("failed" if provider.credential else "processed")
    request = sent(name)
    if provider.event_type_of(request) is not None:
        assert seen.events[0].event_type == provider.event_type_of(request)


# What is known when


async def test_replayed_once_the_secret_is_mended(
    database: Database, connection: Connection, watch: Watch, seen: Seen
) -> None:
    """What failed for a wrong secret is judged again by a replay, and handled once the secret is right."""
    await a_source(connection, secret="another")
    event_id = await a_delivery(connection)
    async with processing(database, seen.note):
        assert await watch.settled() == {event_id: ("failed", f"unverified: {NOT_VERIFIED}")}
        await replay(database, event_id)
        await watch.until("claims = 2 AND status = 'failed'")
        await change_secret(connection, "github", SAMPLE_SECRET)
        await replay(database, event_id)
        assert (await watch.settled()) == {event_id: ("processed", None)}
    row = await row_of(connection, event_id)
    assert (row["verdict"], row["replayed"], seen.ids) == ("verified", False, [event_id])


async def test_a_change_is_known_at_the_claim(
    database: Database, connection: Connection, watch: Watch, seen: Seen
) -> None:
    """A change of a source or a secret that was committed before the claim is what the event is judged by."""
    gate = Gate()
    await an_event(connection, source="busy", due="1 hour ago")
    async with processing(database, a_handler(gate.pass_through, "busy"), a_handler(seen.note), concurrency=2):
        await gate.entered()  # at work, and nothing was registered
        await a_source(connection, secret="wrong")
        first = await a_delivery(connection, delivery="0001")
        await watch.until("id = $1 AND status = 'failed'", first)
        await change_secret(connection, "github", SAMPLE_SECRET)
        second = await a_delivery(connection, delivery="0002")
        await watch.until("id = $1 AND status = 'processed'", second)
        await connection.execute("UPDATE hookd.sources SET mode = 'off'")
        third = await a_delivery(connection, delivery="0003", fault="bad-signature")
        await watch.until("id = $1 AND status = 'processed'", third)
        gate.open()
    assert seen.ids == [second, third]


async def test_what_was_verified_stays_so(database: Database, connection: Connection, watch: Watch) -> None:
    """An event in its back-off was verified already: that its secret is gone by then is no reason to fail it."""
    await a_source(connection)
    event_id = await a_delivery(connection)
    async with processing(database, fail_once):
        await watch.until("attempts = 1 AND held_by IS NULL AND verdict = 'verified'")
        await change_secret(connection, "github", "another")
        await connection.execute("UPDATE hookd.events SET due_at = now()")
        assert await watch.settled() == {event_id: ("processed", None)}


async def test_many_at_once(database: Database, connection: Connection, watch: Watch, seen: Seen) -> None:
    """A claim of many, some forged, some of sources that nobody registered: each becomes what it is."""
    await a_source(connection)
    async with connection.transaction():
        forged = {await a_delivery(connection, delivery=f"f{n}", fault="bad-signature") for n in range(YIELD_EVERY + 1)}
        good = {await a_delivery(connection, delivery=f"g{n}") for n in range(YIELD_EVERY + 1)}
        other = set(await events(connection, 20))
    async with processing(database, seen.note):
        settled = await watch.settled()
    assert {event_id for event_id, (status, _) in settled.items() if status == "failed"} == forged
    assert set(seen.ids) == good | other


# Names


async def test_names_in_the_body(database: Database, connection: Connection, watch: Watch, seen: Seen) -> None:
    """A type that stands in the body finds its handler, which sees it; the row says it, and the delivery's id."""
    await a_source(connection, "stripe")
    event_id = await a_delivery(connection, "stripe")
    provider, request = PROVIDERS["stripe"], sent("stripe")
    event_type, delivery_id = provider.event_type_of(request), provider.delivery_id_of(request)
    wrong = a_handler(Gate().pass_through, "stripe")
    async with processing(database, a_handler(seen.note, "stripe", event_type), wrong):
        assert await watch.settled() == {event_id: ("processed", None)}
    (event,) = seen.events
    assert (event.event_type, event.delivery_id) == (event_type, delivery_id)
    row = await row_of(connection, event_id)
    assert (row["event_type"], row["delivery_id"]) == (event_type, delivery_id)
    assert event_type
    assert delivery_id


async def test_an_unregistered_source_is_named(
    database: Database, connection: Connection, watch: Watch, seen: Seen
) -> None:
    """An unregistered `stripe` has Stripe's names, and nothing more: it is not judged, and two copies are handled."""
    first = await a_delivery(connection, "stripe", fault="bad-signature")
    second = await a_delivery(connection, "stripe")
    event_type = PROVIDERS["stripe"].event_type_of(sent("stripe"))
    async with processing(database, a_handler(seen.note, "stripe", event_type)):
        assert await watch.settled() == {first: ("processed", None), second: ("processed", None)}
    assert {(event.event_type, event.delivery_id) for event in seen.events} == {
        (event_type, PROVIDERS["stripe"].delivery_id_of(sent("stripe")))
    }
    assert (await row_of(connection, first))["verdict"] is None
    assert await connection.fetchval("SELECT count(*) FROM hookd.deliveries") == 0


async def test_a_name_nobody_can_hold(database: Database, connection: Connection, watch: Watch, seen: Seen) -> None:
    """A name with a NUL, or longer than anybody's, is made storable."""
    first = await a_delivery(connection, "stripe", body=b'{"type": "a\\u0000b\\ud800", "id": 7}')
    second = await a_delivery(connection, "stripe", body=b'{"type": "%s"}' % (b"x" * 5000))
    async with processing(database, seen.note):
        await watch.settled()
    assert (await row_of(connection, first))["event_type"] == "a\ufffdb\ufffd"
    assert (await row_of(connection, first))["delivery_id"] == "7"
    assert (await row_of(connection, second))["event_type"] == "x" * 200


async def test_rows_that_nobody_can_read(database: Database, connection: Connection, watch: Watch, seen: Seen) -> None:
    """A row whose headers are none fails alone: its neighbours and the processor live."""
    await a_source(connection, "stripe")
    bad = await a_delivery(connection, "stripe", headers=[1])
    good = await a_delivery(connection, "stripe")
    async with processing(database, seen.note, attempts_max=1):
        settled = await watch.settled()
    assert settled[good] == ("processed", None)
    assert settled[bad][0] == "failed"
    assert seen.ids == [good]


# Large bodies, suspects


@pytest.mark.parametrize("more", [0, 1])
async def test_large_bodies(more: int, database: Database, connection: Connection, watch: Watch, seen: Seen) -> None:
    """A body that does not come with the claim is judged and named before its handler as any other."""
    padding = b" " * (BODY_INLINE_BYTES_MAX + more)
    body = sent("stripe").body
    await a_source(connection, "stripe", mode="monitor")
    large = await a_delivery(connection, "stripe", body=body + padding[len(body) :])
    await a_source(connection, "github")
    forged = await a_delivery(connection, "github", body=padding)
    event_type = PROVIDERS["stripe"].event_type_of(sent("stripe"))
    async with processing(database, a_handler(seen.note, "stripe", event_type), a_handler(seen.note, "github")):
        settled = await watch.settled()
    assert settled == {large: ("processed", None), forged: ("failed", f"unverified: {NOT_VERIFIED}")}
    assert seen.ids == [large]
    assert ((await row_of(connection, large))["verdict"] or "").startswith("signature: ")


async def test_a_large_body_that_no_handler_wants(database: Database, connection: Connection, watch: Watch) -> None:
    """Where its type, found in a large body, has no handler, the event is ignored, and says of which type it was."""
    event_id = await a_delivery(connection, "stripe", body=b'{"type": "x"}' + b" " * BODY_INLINE_BYTES_MAX)
    async with processing(database, a_handler(Gate().pass_through, "stripe", "another")):
        settled = await watch.settled()
    assert settled == {event_id: ("processed", "ignored: no handler for event type 'x'")}


@pytest.mark.parametrize("padding", [b"", b" " * BODY_INLINE_BYTES_MAX])
async def test_suspects(
    padding: bytes, database: Database, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """A suspect is judged and named before it is tried alone; its child sees the names."""
    await a_source(connection, "github")
    forged = await a_delivery(connection, "github", fault="bad-signature", body=padding or None, **DIED_TWICE)
    named = await a_delivery(connection, "stripe", body=sent("stripe").body + padding, **DIED_TWICE)
    event_type = PROVIDERS["stripe"].event_type_of(sent("stripe"))
    code = 'open(os.path.dirname(__file__) + "/told", "w").write(f"{event.id} {event.event_type}")'
    app = an_app(tmp_path, f'@hookd.on("stripe", event="{event_type}")\ndef there(event): {code}')
    handlers = a_handler(Gate().pass_through, "stripe", event_type), a_handler(Gate().pass_through, "github")
    async with processing(database, *handlers, app=app):
        settled = await watch.settled()
    assert settled == {forged: ("failed", f"unverified: {NOT_VERIFIED}"), named: ("processed", None)}
    assert (tmp_path / "told").read_text() == f"{named} {event_type}"


# Probes; commands


async def test_probes(database: Database, connection: Connection, watch: Watch, seen: Seen) -> None:
    """What hookd doctor sends is judged and compared with earlier ones, and no handler runs."""
    await a_source(connection, is_probe=True)
    first, again = await a_delivery(connection), await a_delivery(connection)
    forged = await a_delivery(connection, delivery="0002", fault="bad-signature")
    async with processing(database, seen.note):
        settled = await watch.settled()
    assert settled == {
        first: ("processed", "probe: no handler runs"),
        again: ("processed", f"duplicate of {first}"),
        forged: ("failed", f"unverified: {NOT_VERIFIED}"),
    }
    assert seen.ids == []


async def test_the_verdict_is_shown(connection: Connection, database_url: str, tmp_path: Path) -> None:
    """`hookd event ID` shows the verdict."""
    event_id = await a_delivery(connection)
    await connection.execute("UPDATE hookd.events SET verdict = $1", NOT_VERIFIED)
    shown = Hookd(tmp_path, {"HOOKD_DATABASE_URL": database_url})("event", str(event_id))
    assert any(line.split(None, 1) == ["verdict", NOT_VERIFIED] for line in shown.lines)


async def test_a_type_that_is_found_late_decides_whose_it_is(
    database: Database, connection: Connection, watch: Watch, seen: Seen
) -> None:
    """Also where it was claimed before, by a process that died: what its row alone said of its handler is forgotten."""
    await a_source(connection, "stripe", mode="monitor")
    body = b'{"id": "evt_1", "type": "charge.refunded"}'.ljust(BODY_INLINE_BYTES_MAX + 1)
    again: dict[str, Any] = {"held_by": "a dead one", "attempts": 1, "claims": 1, "due": "1 second ago"}
    event_id = await a_delivery(connection, "stripe", body=body, **again)
    async with processing(database, a_handler(seen.note, "stripe", "charge.refunded")):
        assert await watch.settled() == {event_id: ("processed", None)}
    assert seen.ids == [event_id]
    assert seen.events[0].event_type == "charge.refunded"
