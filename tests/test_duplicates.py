"""Duplicates: one delivery is handled once, decided after it was verified and before a handler runs."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest

import hookd as api
from chassis.database import Connection, Database
from hookd.store import Store as Front
from processor.outcome import Outcome
from processor.settling.store import Settlement
from processor.sifting.sieve import KEY_CHARACTERS_MAX, key_of
from processor.sifting.store import Contender
from processor.store import Store
from protocol.providers import PROVIDERS
from tests.factories import an_event, row_of
from tests.processing import Handled, Watch, a_handler, fail_once, parts_of, processing
from tests.registering import a_delivery, a_source, sent

WEEK_SECONDS = 7 * 86_400
EXPIRES_IN = "SELECT extract(epoch FROM expires_at - now())::float8 FROM hookd.deliveries"


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    store = Store(database, "a processor", lease_seconds=60)
    yield store
    await store.close()


async def replay(database: Database, event_id: UUID) -> None:
    """As `hookd replay` does."""
    store = Front(database, "test")
    assert await store.reset([event_id], datetime(9999, 1, 1, tzinfo=UTC)) == {event_id}
    await store.close()


async def keys(connection: Connection) -> dict[tuple[str, str], UUID]:
    rows = await connection.fetch("SELECT source, key, event_id FROM hookd.deliveries")
    return {(source, key): owner for source, key, owner in rows}


# What a duplicate is


async def test_a_copy(database: Database, connection: Connection, watch: Watch, handled: Handled) -> None:
    """Of copies claimed together, and one that comes later, only the first is handled; the others say whose."""
    await a_source(connection)
    first, second, other = [await a_delivery(connection, delivery=name) for name in ("a", "a", "b")]
    async with processing(database, handled.note):
        await watch.settled()
        third = await a_delivery(connection, delivery="a")
        settled = await watch.settled()
    duplicate = ("processed", f"duplicate of {first}")
    assert settled == {first: ("processed", None), second: duplicate, third: duplicate, other: ("processed", None)}
    assert sorted(handled.ids) == sorted([first, other])


async def test_a_forgery_suppresses_nothing(
    database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """A forged request with a guessed id owns nothing: the genuine one is handled, before or behind it."""
    await a_source(connection)
    forged = await a_delivery(connection, fault="bad-signature")
    genuine = await a_delivery(connection)
    async with processing(database, handled.note):
        await watch.settled()
        late = await a_delivery(connection, fault="bad-signature")
        settled = await watch.settled()
    assert handled.ids == [genuine]
    assert (settled[forged][0], settled[late][0]) == ("failed", "failed")


async def test_what_no_handler_wants_owns_nothing(
    database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """Neither what is ignored for its type, nor what nobody verified, takes part."""
    await a_source(connection)
    ignored = [await a_delivery(connection, event_type="star") for _ in range(2)]
    async with processing(database, a_handler(handled.note, "github", "push")):
        settled = await watch.settled()
    assert {settled[each][1] for each in ignored} == {"ignored: no handler for event type 'star'"}
    assert await keys(connection) == {}
    await connection.execute("UPDATE hookd.sources SET mode = 'off'")
    two = [await a_delivery(connection, delivery="0002") for _ in range(2)]
    async with processing(database, handled.note):
        await watch.settled()
    assert sorted(handled.ids) == sorted(two)
    assert await keys(connection) == {}


@pytest.mark.parametrize(("duplicates", "handlings"), [("all", 1), ("verified", 2), ("none", 2)])
async def test_what_the_source_says(
    duplicates: str, handlings: int, database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """A source may have all compared, verified or not; a source that is not verified has none, unless it says so."""
    await a_source(connection, "queue", "none", "off", duplicates=duplicates)
    for _ in range(2):
        await an_event(connection, source="queue", delivery_id="1")
    async with processing(database, handled.note):
        await watch.settled()
    assert len(handled.ids) == handlings


async def test_none_where_the_source_says_so(
    database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """A source whose duplicates are wanted has each verified copy handled."""
    await a_source(connection, duplicates="none")
    for _ in range(2):
        await a_delivery(connection)
    async with processing(database, handled.note):
        await watch.settled()
    assert len(handled.ids) == 2


async def test_a_derived_key(database: Database, connection: Connection, watch: Watch, handled: Handled) -> None:
    """Webex names no delivery: its key is derived from the body, and a redelivery is known by it."""
    await a_source(connection, "webex")
    first, again = await a_delivery(connection, "webex"), await a_delivery(connection, "webex")
    other = await a_delivery(connection, "webex", delivery="0002")
    async with processing(database, handled.note):
        settled = await watch.settled()
    assert settled[again] == ("processed", f"duplicate of {first}")
    assert settled[other] == ("processed", None)
    (derived,) = {(await row_of(connection, each))["delivery_id"] for each in (first, again)}
    assert derived == PROVIDERS["webex"].delivery_id_of(sent("webex"))


async def test_sources_are_apart(database: Database, connection: Connection, watch: Watch, handled: Handled) -> None:
    """The same id from two sources is two deliveries."""
    await a_source(connection)
    await a_source(connection, "mirror", "github")
    await a_delivery(connection)
    await a_delivery(connection, "mirror", "github")
    async with processing(database, handled.note):
        await watch.settled()
    assert len(handled.ids) == 2


# Failures, replays, windows


async def test_a_redelivery_after_a_failure(
    database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """A copy of an event that failed takes its delivery over, and is handled; the next one is its duplicate."""
    await a_source(connection)
    failed = await a_delivery(connection)

    async def reject(event: api.Event) -> None:
        raise api.Reject("a bug")

    async with processing(database, reject):
        await watch.settled()
    again, late = await a_delivery(connection), await a_delivery(connection)
    async with processing(database, handled.note):
        settled = await watch.settled()
    assert settled == {
        failed: ("failed", "a bug"),
        again: ("processed", None),
        late: ("processed", f"duplicate of {again}"),
    }
    assert handled.ids == [again]


async def test_the_same_event_again(database: Database, connection: Connection, watch: Watch) -> None:
    """A retry is not its own duplicate; a copy that comes while it waits is."""
    await a_source(connection)
    event_id = await a_delivery(connection)
    async with processing(database, fail_once):
        await watch.until("attempts = 1 AND held_by IS NULL AND verdict = 'verified'")
        copy = await a_delivery(connection)
        await watch.until("id = $1 AND status = 'processed'", copy)
        await connection.execute("UPDATE hookd.events SET due_at = now() WHERE status = 'new'")
        settled = await watch.settled()
    assert settled == {event_id: ("processed", None), copy: ("processed", f"duplicate of {event_id}")}


async def test_after_a_crash(database: Database, connection: Connection, watch: Watch, handled: Handled) -> None:
    """An event whose processor died after the decision is handled by the next one."""
    await a_source(connection)
    event_id = await a_delivery(connection, held_by="a dead one", attempts=1, claims=1, due="1 second ago")
    await connection.execute(
        "INSERT INTO hookd.deliveries VALUES ('github', $1, $2, now() + interval '1 day')",
        (await row_of(connection, event_id))["delivery_id"],
        event_id,
    )
    async with processing(database, handled.note):
        assert await watch.settled() == {event_id: ("processed", None)}
    assert handled.ids == [event_id]


async def test_a_replay_runs(database: Database, connection: Connection, watch: Watch, handled: Handled) -> None:
    """A replayed event runs, were it a duplicate or the original, and owns the delivery from then on."""
    await a_source(connection)
    first, copy = await a_delivery(connection), await a_delivery(connection)
    async with processing(database, handled.note):
        await watch.settled()
        for event_id in (copy, first, copy):
            await replay(database, event_id)
            settled = await watch.settled()
            assert settled[event_id] == ("processed", None)
        late = await a_delivery(connection)
        assert (await watch.settled())[late] == ("processed", f"duplicate of {copy}")
    assert handled.ids == [first, copy, first, copy]


async def test_replays_together(database: Database, connection: Connection, watch: Watch, handled: Handled) -> None:
    """Two copies that are replayed together are both run: somebody wanted both."""
    await a_source(connection)
    both = [await a_delivery(connection), await a_delivery(connection)]
    async with processing(database, handled.note):
        await watch.settled()
    for event_id in both:
        await replay(database, event_id)
    async with processing(database, handled.note):
        assert set((await watch.settled()).values()) == {("processed", None)}
    assert sorted(handled.ids[1:]) == sorted(both)


@pytest.mark.parametrize(("ends", "is_duplicate"), [("-1 second", False), ("1 minute", True)])
async def test_the_windows_end(
    ends: str, is_duplicate: bool, database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """Within the window a copy is a duplicate; after it, it is a delivery of its own."""
    await a_source(connection)
    await a_delivery(connection)
    async with processing(database, handled.note):
        await watch.settled()
        await connection.execute(f"UPDATE hookd.deliveries SET expires_at = now() + interval '{ends}'")
        late = await a_delivery(connection)
        await watch.settled()
    assert (late in handled.ids) is not is_duplicate
    assert await connection.fetchval(EXPIRES_IN) == pytest.approx(60 if is_duplicate else WEEK_SECONDS, abs=50)


@pytest.mark.parametrize(("window", "days"), [(9 * 86_400, 9), (60 * 86_400, 10)])
async def test_the_window_ends_with_the_retention(
    window: int, days: int, database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """A key is remembered for the source's window, but no longer than its event is kept."""
    await a_source(connection, window_seconds=window)
    await a_delivery(connection)
    async with processing(database, handled.note, retention_days=10):
        await watch.settled()
    assert await connection.fetchval(EXPIRES_IN) == pytest.approx(days * 86_400, abs=60)


@pytest.mark.parametrize(("length", "handlings"), [(199, 1), (200, 2)])
async def test_an_id_that_was_cut(
    length: int, handlings: int, database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """Ids that are alike as far as they are kept may be of two deliveries: each is handled, rather twice than never."""
    await a_source(connection)
    for _ in range(2):
        await a_delivery(connection, delivery_id="x" * length)
    async with processing(database, handled.note):
        await watch.settled()
    assert len(handled.ids) == handlings


def test_long_ids() -> None:
    """An id of 128 characters is its own key; of a longer one the hash is, so that an index can hold it."""
    assert key_of("x" * KEY_CHARACTERS_MAX) == "x" * KEY_CHARACTERS_MAX
    long = key_of("x" * (KEY_CHARACTERS_MAX + 1))
    assert len(long) < KEY_CHARACTERS_MAX
    assert long != key_of("x" * (KEY_CHARACTERS_MAX + 2))


# Two at once


async def test_two_processors(database: Database, connection: Connection, watch: Watch, handled: Handled) -> None:
    """Two copies of each of many deliveries, handled by two processors at once: each delivery exactly once."""
    await a_source(connection)
    names = [f"d{n}" for n in range(60)]
    async with connection.transaction():
        for _ in range(2):
            for name in names:
                await a_delivery(connection, delivery=name)
    first, second = (parts_of(database, handled.note) for _ in range(2))
    async with first.at_work(), second.at_work():
        settled = await watch.settled()
        for parts in (first, second):
            await parts.drain.stop(5.0, asyncio.Event())
    for parts in (first, second):
        await parts.store.close()
    assert len(handled.ids) == len(set(handled.ids)) == len(names)
    reasons = [reason for _, reason in settled.values() if reason]
    assert sorted(reasons) == sorted(f"duplicate of {event_id}" for event_id in handled.ids)


def a_contender(event_id: UUID, key: str = "k", *, insists: bool = False) -> Contender:
    return Contender("github", key, event_id, WEEK_SECONDS, insists)


async def test_the_second_waits_for_the_first(store: Store, database: Database, connection: Connection) -> None:
    """Who decides while another's decision is not committed waits for it, and goes by it."""
    first, second = await an_event(connection), await an_event(connection)
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO hookd.deliveries VALUES ('github', 'k', $1, now() + interval '1 day')", first
        )
        decision = asyncio.create_task(store.deliveries.decide([a_contender(second)]))
        done, _ = await asyncio.wait({decision}, timeout=0.2)
        assert not done
    assert await decision == {second: first}


async def test_deciders_in_any_order(database: Database, connection: Connection) -> None:
    """Processors that decide about the same keys in opposite orders never wait for each other in a circle."""
    stores = [Store(database, f"processor {n}", lease_seconds=60) for n in range(3)]
    ids = [await an_event(connection) for _ in range(3)]
    names = [f"k{n:03}" for n in range(300)]

    async def decide(store: Store, event_id: UUID, *, backwards: bool) -> dict[str, UUID]:
        ordered = names[::-1] if backwards else names
        owners: dict[str, UUID] = {}
        for start in range(0, 300, 100):
            part = ordered[start : start + 100]
            contenders = [a_contender(UUID(int=event_id.int + n), name) for n, name in enumerate(part)]
            owned = await store.deliveries.decide(contenders)
            owners |= {name: owned[UUID(int=event_id.int + n)] for n, name in enumerate(part)}
        return owners

    pairs = zip(stores, ids, (False, True, False), strict=True)
    said = await asyncio.gather(*(decide(store, event_id, backwards=back) for store, event_id, back in pairs))
    assert said[0] == said[1] == said[2]
    for store in stores:
        await store.close()


async def test_who_owns_it(store: Store, connection: Connection) -> None:
    """The least id of a batch; whoever had it; whoever insists; and a copy, once its owner failed."""
    a, b, c = sorted([await an_event(connection) for _ in range(3)])
    assert await store.deliveries.decide([a_contender(b), a_contender(a)]) == {a: a, b: a}
    assert await store.deliveries.decide([a_contender(b)]) == {b: a}
    assert await store.deliveries.decide([a_contender(a)], lane=0) == {a: a}
    assert await store.deliveries.decide([a_contender(a), a_contender(b, insists=True)], lane=1) == {a: b, b: b}
    claimed = await store.queue.claim(10, 1 << 20, None, asyncio.get_running_loop().time)
    (of_b,) = [each for each in claimed if each.id == b]
    await store.results.settle([Settlement(of_b, Outcome("failed", "broken"), False, "demo")])
    assert await store.deliveries.decide([a_contender(c), a_contender(b)]) == {b: b, c: b}


# The database away


async def test_the_database_leaves_at_the_decision(
    database: Database, database_url: str, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """When the decision cannot be made, its rows are handed back with their attempts, and handled once it can."""
    await a_source(connection)
    name = sent("github").header("X-GitHub-Delivery")
    owner = await an_event(connection, status="processed", source="github")
    waits = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND query LIKE '%hookd.deliveries%'"
    )
    another: Connection = await asyncpg.connect(database_url)
    async with processing(database, handled.note):
        async with another.transaction():
            await another.execute(
                "INSERT INTO hookd.deliveries VALUES ('github', $1, $2, now() - interval '1 day')", name, owner
            )
            event_id = await a_delivery(connection)
            async with asyncio.timeout(20):
                while (pid := await connection.fetchval(waits)) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await connection.fetchval("SELECT pg_terminate_backend($1)", pid)
        await another.close()
        settled = await watch.settled()
    assert settled[event_id] == ("processed", None)
    row = await row_of(connection, event_id)
    assert (row["attempts"], row["claims"], handled.ids) == (1, 2, [event_id])
