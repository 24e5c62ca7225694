"""Claims: one short statement that holds what is due, the oldest first, bounded in rows and bytes."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from chassis.database import Connection, Database
from processor.holding.claimed import BODY_INLINE_BYTES_MAX
from processor.outcome import DIED, handed_back
from processor.store import Store
from tests.factories import an_event, at, events, row_of
from tests.holding import LEASE_SECONDS, PLENTY, claim, ids, seconds_until, settlement


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    store = Store(database, "a processor", lease_seconds=LEASE_SECONDS)
    yield store
    await store.close()


async def test_a_claim_holds_the_row(store: Store, connection: Connection) -> None:
    """A claim counts the attempt and the claim, names the holder, and moves the due time to the end of the lease."""
    event_id = await an_event(connection, source="github", event_type="push", payload=b"body", headers=[["A", "b"]])
    (claimed,) = await claim(store)
    row = await row_of(connection, event_id)
    assert (row["status"], row["held_by"], row["attempts"], row["claims"]) == ("new", "a processor", 1, 1)
    assert LEASE_SECONDS - 10 < await seconds_until(connection, event_id) <= LEASE_SECONDS
    assert 0 < claimed.lease_until - time.monotonic() <= LEASE_SECONDS
    told = claimed.row
    assert (told["source"], told["event_type"], told["payload"], told["headers"]) == (
        "github", "push", b"body", '[["A", "b"]]'
    )  # fmt: skip
    assert (told["attempts"], told["claims"], told["died"], told["bytes"]) == (1, 1, False, 4)
    assert told["age_seconds"] == pytest.approx(2 * 3600, abs=60)
    assert await claim(store) == []


async def test_oldest_due_first(store: Store, connection: Connection) -> None:
    """What has been due for the longest is claimed first, whenever it was received."""
    third = await an_event(connection, received="3 hours ago", due="1 minute ago")
    first = await an_event(connection, received="1 hour ago", due="3 hours ago")
    second = await an_event(connection, received="2 days ago", due="2 hours ago")
    assert ids(await claim(store, 2)) == [first, second]
    assert ids(await claim(store, 2)) == [third]


async def test_only_what_is_due_is_claimed(store: Store, connection: Connection) -> None:
    """What is not due, parked or settled is never claimed."""
    await an_event(connection, due="1 minute")
    await an_event(connection, due="infinity")
    await an_event(connection, status="processed")
    await an_event(connection, status="failed")
    assert await claim(store) == []
    assert await store.queue.seconds_until_due() == pytest.approx(60, abs=5)
    await connection.execute("DELETE FROM hookd.events WHERE due_at < 'infinity'")
    assert await store.queue.seconds_until_due() is None


async def test_a_claim_is_bounded_in_rows(store: Store, connection: Connection) -> None:
    """A claim takes no more rows than it was asked for."""
    await events(connection, 5)
    assert [len(await claim(store, 2)) for _ in range(4)] == [2, 2, 1, 0]


async def test_a_claim_is_bounded_in_bytes(store: Store, connection: Connection) -> None:
    """A claim takes no more bytes of bodies than there is room for, but always one row."""
    for minutes in range(5, 0, -1):
        await an_event(connection, payload=b"x" * 1000, due=f"{minutes} minutes ago")
    assert len(await claim(store, bytes_max=2999)) == 2
    assert len(await claim(store, bytes_max=2000)) == 2
    assert len(await claim(store, bytes_max=0)) == 1


async def test_a_large_body_does_not_come_with_the_claim(store: Store, connection: Connection) -> None:
    """A body up to 64 KiB comes with the claim; a larger one costs the claim nothing and is fetched later."""
    small, large = b"s" * BODY_INLINE_BYTES_MAX, b"l" * (BODY_INLINE_BYTES_MAX + 1)
    await an_event(connection, payload=small, due="2 minutes ago")
    event_id = await an_event(connection, payload=large, due="1 minute ago")
    first, second = await claim(store, bytes_max=len(small))
    assert (first.row["payload"], first.row["bytes"]) == (small, len(small))
    assert (second.row["payload"], second.row["bytes"]) == (None, len(large))
    assert await store.bodies.fetch(event_id) == large


async def test_a_claim_up_to_a_time(store: Store, connection: Connection) -> None:
    """`--once` claims what was due when it started: nothing that became due since."""
    early = await an_event(connection, due="2 minutes ago")
    await an_event(connection, due="1 minute ago")
    claimed = await store.queue.claim(10, PLENTY, await at(connection, "90 seconds ago"), time.monotonic)
    assert ids(claimed) == [early]


async def test_an_expired_lease_is_claimed_again(store: Store, connection: Connection) -> None:
    """A row whose lease ended is claimed by the same statement: its holder died, and the reason says so meanwhile."""
    event_id = await an_event(connection, held_by="a dead one", attempts=1, claims=1, due="1 second ago")
    (claimed,) = await claim(store)
    assert (claimed.row["died"], claimed.row["attempts"], claimed.row["claims"]) == (True, 2, 2)
    row = await row_of(connection, event_id)
    assert (row["held_by"], row["reason"]) == ("a processor", DIED)
    await store.results.settle([settlement(claimed)])
    assert (await row_of(connection, event_id))["reason"] is None


async def test_a_death_is_remembered_when_the_row_is_handed_back(store: Store, connection: Connection) -> None:
    """A row whose holder died, and which is then handed over, is still known for that; any other is not."""
    dead = await an_event(connection, held_by="a dead one", attempts=2, claims=2, due="1 second ago")
    await an_event(connection)
    await store.results.settle([settlement(each, handed_back()) for each in await claim(store)])
    assert {each.id: each.row["died"] for each in await claim(store)}[dead] is True
    assert sum(each.row["died"] for each in await claim(store)) == 0


async def test_claimers_never_share_a_row(database: Database, connection: Connection) -> None:
    """Processors that claim at the same time get different rows, and together all."""
    every = await events(connection, 300)
    stores = [Store(database, f"processor {n}", lease_seconds=LEASE_SECONDS) for n in range(3)]

    async def take_all(store: Store) -> list[UUID]:
        taken: list[UUID] = []
        while some := await claim(store, 7):
            taken += ids(some)
        return taken

    first = [ids(some) for some in await asyncio.gather(*(claim(store, 7) for store in stores))]
    taken = await asyncio.gather(*map(take_all, stores))
    # One that found nothing while the others had the rest locked has left early: so the last round is one by one.
    for store in stores:
        taken.append(await take_all(store))
        await store.close()
    assert [len(some) for some in first] == [7, 7, 7]
    assert sorted(event_id for some in (*first, *taken) for event_id in some) == sorted(every)


async def test_a_locked_row_is_passed_over(store: Store, connection: Connection) -> None:
    """A row that somebody has locked makes no claim wait."""
    locked, free = await events(connection, 2)
    async with connection.transaction():
        await connection.execute("SELECT FROM hookd.events WHERE id = $1 FOR UPDATE", locked)
        assert ids(await claim(store)) == [free]


async def test_what_comes_with_a_claim(store: Store, connection: Connection) -> None:
    """A claim says at which revision of the registry it was made, and what is known of the event's judgement."""
    event_id = await an_event(connection)
    await connection.execute("UPDATE hookd.events SET verdict = 'verified', replayed = true")
    await connection.execute("INSERT INTO hookd.sources (name) VALUES ('demo')")
    revision = await connection.fetchval("SELECT revision FROM hookd.registry")
    (claimed,) = await claim(store)
    told = claimed.row
    assert (told["id"], told["revision"], told["verdict"], told["replayed"]) == (event_id, revision, "verified", True)
    assert (await store.sources.read())[0] == revision > 0
