"""Claims pass by what was settled while somebody holds a snapshot, and nothing that is due for longer than a second."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hookd
from chassis.database import Connection, Database
from processor.claiming.store import oldest_due
from processor.claiming.watermark import ALL_SECONDS, SLACK, Since, Watermark, least_id
from processor.holding.claimed import Claimed
from processor.outcome import PROCESSED
from processor.settling.store import Settlement
from processor.store import Store
from rig import seed
from rig.postgres import connected
from tests.factories import an_event, at, events, row_of
from tests.processing import Gate, Watch, parts_of, processing
from tests.test_store import entries_read

PLENTY = 1 << 20
CLAIMERS = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'hookd processor %'
"""
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
AN_HOUR = timedelta(hours=1)
FROM_NOON = Since(NOON - SLACK, least_id(NOON - AN_HOUR))
ANY_ID = UUID(int=0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    store = Store(database, "a processor", lease_seconds=60)
    yield store
    await store.close()


async def claim(store: Store, since: Since | None = None, rows: int = 100) -> list[Claimed]:
    return await store.queue.claim(rows, PLENTY, None, time.monotonic, 0, since)


# When a claim looks at all there is


def test_all_is_looked_at_once_a_second() -> None:
    """The first claim looks at all there is, those of the next second from the oldest on it saw; then one again."""
    clock = Clock()
    watermark = Watermark(clock)
    assert watermark.begin() is None
    watermark.saw(NOON, least_id(NOON))
    for seconds in (0, 0.5, 0.999):
        clock.now = 1000.0 + seconds
        assert watermark.begin() == FROM_NOON
        assert watermark.seconds_until_all == pytest.approx(1 - seconds)
    clock.now = 1000.0 + ALL_SECONDS
    assert watermark.seconds_until_all == 0
    assert watermark.begin() is None
    assert watermark.begin() == FROM_NOON  # while that one is under way


def test_a_look_at_all_that_failed_is_made_again() -> None:
    """Where it failed, the next claim makes it; until one did, every claim does."""
    watermark = Watermark(Clock())
    assert [watermark.begin(), watermark.begin()] == [None, None]
    watermark.saw(NOON, least_id(NOON))
    assert watermark.begin() == FROM_NOON
    watermark.forget()
    assert watermark.begin() is None


@given(
    rows=st.lists(st.tuples(st.floats(0, 10), st.floats(-100, 10), st.floats(-200_000, 10)), max_size=30),
    pauses=st.lists(st.floats(0, 0.4), min_size=1, max_size=60),
)
def test_nothing_is_passed_by_for_longer_than_a_second(
    rows: list[tuple[float, float, float]], pauses: list[float]
) -> None:
    """Whatever turns up when, due and received whenever: a claim takes it that begins a second after it was due."""
    clock = Clock()
    watermark = Watermark(clock)
    waiting = [
        (shown, NOON + timedelta(seconds=due), least_id(NOON + timedelta(seconds=received)))
        for shown, due, received in rows
    ]
    for pause in pauses:
        clock.now += pause
        now = clock.now - 1000.0
        moment = NOON + timedelta(seconds=now)
        since = watermark.begin()
        there = [row for row in waiting if row[0] <= now and row[1] <= moment]
        taken = [row for row in there if since is None or (row[1] >= since.due_at and row[2] >= since.id)]
        if since is None:
            least = min((received for _, _, received in taken), default=least_id(moment))
            watermark.saw(min((due for _, due, _ in taken), default=moment), least)
        for shown, due, _ in set(there) - set(taken):
            assert now - max(shown, (due - NOON).total_seconds()) < ALL_SECONDS
        waiting = [row for row in waiting if row not in taken]


# What a claim passes by


async def test_a_claim_from_a_watermark_on(store: Store, connection: Connection) -> None:
    """A claim from a watermark on takes what was due from that very moment on, and nothing that was due before."""
    before = await an_event(connection, due="2 hours ago")
    there = await an_event(connection, due="1 hour ago")
    since = Since((await row_of(connection, there))["due_at"], ANY_ID)
    assert (await store.queue.next_due(since)).due_at == since.due_at
    assert [each.id for each in await claim(store, since)] == [there]
    assert await claim(store, since) == []
    assert (await store.queue.next_due(since, 50)).due_at is None
    due = await store.queue.next_due(since, 61)
    assert due.seconds == pytest.approx(60, abs=10)  # the lease of the one that is held
    assert due.oldest == due.now
    assert (await store.queue.next_due()).due_at == (await row_of(connection, before))["due_at"]
    assert [each.id for each in await claim(store)] == [before]


async def test_a_claim_from_an_id_on(store: Store, connection: Connection) -> None:
    """A claim passes by what was received before that id, and so does the look at what is due next."""
    before, there = [await an_event(connection, received=received) for received in ("3 hours ago", "1 hour ago")]
    since = Since(await at(connection, "1 day ago"), there)
    assert [each.id for each in await claim(store, since)] == [there]
    await connection.execute("UPDATE hookd.events SET due_at = now() WHERE id = $1", before)
    due = await store.queue.next_due(since)
    assert due.seconds == pytest.approx(60, abs=10)  # the lease of the one that is held
    assert await claim(store, since) == []
    assert [each.id for each in await claim(store)] == [before]


SCANS_OF_OLD_DAYS = """
SELECT sum(idx_scan)::int FROM pg_stat_user_indexes
 WHERE schemaname = 'hookd' AND relname ~ '^events_[0-9]{8}$'
   AND to_date(right(relname, 8), 'YYYYMMDD') < (now() AT TIME ZONE 'UTC')::date - 2
"""


async def test_days_that_hold_nothing_are_passed_by(database: Database, connection: Connection) -> None:
    """From a watermark on neither a claim nor the look at what is due next reads the index of a day before it."""
    for days in range(3, 9):
        await connection.execute("SELECT hookd.add_day((now() AT TIME ZONE 'UTC')::date - $1::int)", days)
    scans: dict[str, int] = {}
    for name in ("all", "watermark"):
        store = Store(database, "a processor", lease_seconds=60)
        await an_event(connection)
        due = await store.queue.next_due()
        since = None if name == "all" else Since(due.oldest, due.least_id)
        await store.close()
        await has_left(connection)
        before = await connection.fetchval(SCANS_OF_OLD_DAYS)
        store = Store(database, "a processor", lease_seconds=60)
        await claim(store, since)
        await store.queue.next_due(since, 1.0)
        await store.close()
        await has_left(connection)
        scans[name] = await connection.fetchval(SCANS_OF_OLD_DAYS) - before
    assert scans["all"] >= 2 * 6
    assert scans["watermark"] == 0


async def test_a_claim_says_since_when_its_oldest_was_due(store: Store, connection: Connection) -> None:
    """Also where others were due at the same moment, and where not all of them fitted in."""
    moment = await at(connection, "1 hour ago")
    await events(connection, 5, due=moment)
    await an_event(connection, due="1 minute ago")
    assert oldest_due(await claim(store, rows=3)) == moment
    assert oldest_due(await store.queue.claim(10, 0, None, time.monotonic)) == moment


async def test_what_is_due_next_where_nothing_is(store: Store) -> None:
    """Of an empty table the next claims need look from now on only."""
    due = await store.queue.next_due()
    assert (due.due_at, due.seconds, due.oldest) == (None, None, due.now)


LATECOMERS = {
    "it is replayed": "held_by = NULL",
    "its retry is due": "reason = 'again'",
    "its lease ended": "held_by = 'a'",
}
TURNS_UP = "UPDATE hookd.events SET status = 'new', attempts = 0, finished_at = NULL, due_at = $2, {} WHERE id = $1"


@pytest.mark.parametrize("how", LATECOMERS)
async def test_what_turns_up_before_the_watermark(database: Database, connection: Connection, how: str) -> None:
    """An event that comes to be due long before all others is handled soon, though nobody tells and nobody polls."""
    watch = await Watch.over(connection)
    ran: list[UUID] = []

    async def note(event: hookd.Event) -> None:
        ran.append(event.id)

    event_id = await an_event(connection)
    async with processing(database, note, poll_seconds=3600) as parts:
        await watch.settled()
        for number in range(2):
            await an_event(connection)
            parts.claimer.ring()
            await watch.settled()
            moment = await at(connection, f"{number + 5} hours ago")
            await connection.execute(TURNS_UP.format(LATECOMERS[how]), event_id, moment)
            parts.claimer.ring()  # that one may look from the watermark on: the next, which nobody rings for, does not
            await watch.settled()
    assert ran.count(event_id) == 3


async def test_what_comes_while_nothing_waits(database: Database, connection: Connection) -> None:
    """An event that nobody hints at and no schedule rings for is found all the same, by the claimer's own clock."""
    watch = await Watch.over(connection)
    async with processing(database, Gate(is_open=True).pass_through) as parts:
        async with asyncio.timeout(20):
            while not parts.claimer.exhausted:  # noqa: ASYNC110 - a claimer tells nobody
                await asyncio.sleep(0.01)
        event_id = await an_event(connection)
        assert await watch.settled() == {event_id: ("processed", None)}


async def test_a_drain_that_ends_looks_at_all_before(database: Database, connection: Connection) -> None:
    """`--once` has drained all when a claim that looked at all there is found nothing, and waits for nothing before."""
    parts = parts_of(database, Gate().pass_through, poll_seconds=3600)
    await an_event(connection)
    parts.claimer.due_until = await parts.store.queue.now()
    assert await parts.claimer.claim() == 1
    await an_event(connection, due="5 hours ago")
    while not parts.claimer.exhausted:
        assert await parts.claimer._claim_or_wait() == 0 or parts.claimer.exhausted
    assert len(parts.leases) == 2
    await parts.store.close()


# The price


async def test_claims_stay_flat_beside_a_held_snapshot(
    database: Database, connection: Connection, database_url: str
) -> None:
    """From the first entry on, each claim reads all that was settled since; from the watermark on, next to nothing."""
    read: dict[str, int] = {}
    count, claims = 3000, 20
    async with (
        connected(database_url) as reader,
        reader.transaction(isolation="repeatable_read", readonly=True),
    ):
        await reader.fetchval("SELECT count(*) FROM hookd.counts")
        began = datetime.now(UTC) - timedelta(minutes=5)
        await connection.execute("SELECT hookd.add_day(($1::timestamptz AT TIME ZONE 'UTC')::date)", began)
        rows = list(seed.rows(began, 0, count))
        await connection.copy_records_to_table("events", schema_name="hookd", columns=seed.COLUMNS, records=rows)
        store = Store(database, "a processor", lease_seconds=60)
        settled = 0
        while claimed := await claim(store, rows=1000):
            settled += len(await store.results.settle([Settlement(each, PROCESSED, False, "a") for each in claimed]))
        due = await store.queue.next_due()
        since = Since(due.oldest, due.least_id)
        await store.close()
        await has_left(connection)
        assert settled == count
        for name, watermark in (("all", None), ("watermark", since)):
            store = Store(database, "a processor", lease_seconds=60)
            before = await entries_read(connection)
            for _ in range(claims):
                assert await claim(store, watermark) == []
                await store.queue.next_due(watermark, None if watermark is None else 1.0)
            await store.close()
            await has_left(connection)
            read[name] = await entries_read(connection) - before
    assert read["all"] >= 3 * claims * count  # the look at what is due next finds their leases too
    assert read["watermark"] < claims * 10


async def has_left(connection: Connection) -> None:
    """Return once the store's connections have ended: then they have told what they read."""
    async with asyncio.timeout(20):
        while await connection.fetchval(CLAIMERS):
            pass
