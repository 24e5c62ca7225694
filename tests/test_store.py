"""Claim, renew, settle: each one short statement, fenced, and sent twice without harm."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.database import Connection, Database, DatabaseError, Unavailable
from processor.claiming.store import listen
from processor.holding.claimed import Found
from processor.holding.store import Renewer
from processor.outcome import PROCESSED, RETURNED, Ending, Outcome, conclude, ended_with, gave_up, handed_back
from processor.settling.store import Settlement
from processor.store import Store
from rig import seed
from tests.breaking import Proxy
from tests.factories import an_event, counts, events, row_of
from tests.holding import LEASE_SECONDS, claim, ids, seconds_until, settlement

REPLAY = """
UPDATE hookd.events SET status = 'new', held_by = NULL, attempts = 0, reason = NULL, finished_at = NULL, due_at = now()
 WHERE id = $1 AND status <> 'new'
"""
FAILED = Outcome("failed", "RuntimeError: broken", traceback="Traceback …")
RETRIED = Outcome("new", "RuntimeError: broken", 3600.0, traceback="Traceback …")


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    store = Store(database, "a processor", lease_seconds=LEASE_SECONDS)
    yield store
    await store.close()


@pytest.fixture
async def renewer(database: Database) -> AsyncIterator[Renewer]:
    renewer = Renewer(database, lease_seconds=LEASE_SECONDS)
    yield renewer
    await renewer.close()


async def attempts(connection: Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in await connection.fetch("SELECT * FROM hookd.attempts ORDER BY claim")]


# Claim
# Renew


async def test_renewing_moves_the_lease(store: Store, renewer: Renewer, connection: Connection) -> None:
    """A renewal puts the lease forward to its full length from now, and says which leases hold."""
    await events(connection, 2)
    claimed = await claim(store)
    await connection.execute("UPDATE hookd.events SET due_at = now() + interval '5 s'")
    assert await renewer.renew(claimed) == set(ids(claimed))
    for event_id in ids(claimed):
        assert await seconds_until(connection, event_id) > LEASE_SECONDS - 10


async def test_renewing_passes_over_what_is_locked(store: Store, renewer: Renewer, connection: Connection) -> None:
    """A row that somebody has locked, a handler's own transaction say, holds up the renewal of no other."""
    await events(connection, 3)
    claimed = await claim(store)
    async with connection.transaction():
        await connection.execute("SELECT FROM hookd.events WHERE id = $1 FOR UPDATE", claimed[0].id)
        assert await renewer.renew(claimed) == set(ids(claimed[1:]))
    assert await renewer.renew(claimed) == set(ids(claimed))


async def test_another_holders_lease_is_not_renewed(
    store: Store, renewer: Renewer, database: Database, connection: Connection
) -> None:
    """Once a row was claimed by another, the former holder renews it no more."""
    await an_event(connection)
    former = await claim(store)
    await connection.execute("UPDATE hookd.events SET due_at = now() - interval '1 s'")
    other = Store(database, "another", lease_seconds=LEASE_SECONDS)
    (latter,) = await claim(other)
    assert await renewer.renew(former) == set()
    assert await renewer.renew([latter]) == {latter.id}
    await other.close()


# Settle


async def test_settling(store: Store, connection: Connection) -> None:
    """A settle writes status, reason, due time and the database's time of its end, and lets the row go."""
    for minutes in range(5, 0, -1):
        await an_event(connection, due=f"{minutes} minutes ago")
    good, bad, again, back, ignored = claimed = await claim(store)
    outcomes = [PROCESSED, FAILED, RETRIED, handed_back(30.0), Outcome("processed", "ignored: no handler")]
    settled = await store.results.settle([settlement(*pair) for pair in zip(claimed, outcomes, strict=True)])
    assert settled == set(ids(claimed))
    rows = [await row_of(connection, each.id) for each in claimed]
    assert [(row["status"], row["reason"], row["attempts"]) for row in rows] == [
        ("processed", None, 1),
        ("failed", "RuntimeError: broken", 1),
        ("new", "RuntimeError: broken", 1),
        ("new", None, 0),
        ("processed", "ignored: no handler", 1),
    ]
    assert {row["held_by"] for row in rows} == {None}
    assert {row["claims"] for row in rows} == {1}
    assert [row["finished_at"] is None for row in rows] == [False, False, True, True, False]
    assert await seconds_until(connection, again.id) == pytest.approx(3600, abs=10)
    assert await seconds_until(connection, back.id) == pytest.approx(30, abs=10)
    assert await counts(connection) == {("demo", "processed"): 2, ("demo", "failed"): 1}
    assert good.id != bad.id != ignored.id


async def test_a_settle_sent_twice(store: Store, connection: Connection) -> None:
    """A settle whose answer was lost is sent again, and does nothing: no refund, no count, no attempt twice."""
    for outcome in (PROCESSED, FAILED, RETRIED, handed_back(30.0)):
        event_id = await an_event(connection)
        (claimed,) = await claim(store)
        assert await store.results.settle([settlement(claimed, outcome)]) == {event_id}
        before = await row_of(connection, event_id), await counts(connection), await attempts(connection)
        assert await store.results.settle([settlement(claimed, outcome)]) == set()
        assert (await row_of(connection, event_id), await counts(connection), await attempts(connection)) == before
        assert before[0]["attempts"] == 1 - outcome.refund


async def test_a_settle_after_a_replay(store: Store, connection: Connection) -> None:
    """A settle that is sent again after somebody replayed the event does not undo the replay."""
    event_id = await an_event(connection)
    (claimed,) = await claim(store)
    await store.results.settle([settlement(claimed, FAILED)])
    await connection.execute(REPLAY, event_id)
    assert await store.results.settle([settlement(claimed, FAILED)]) == set()
    row = await row_of(connection, event_id)
    assert (row["status"], row["attempts"], row["claims"], row["held_by"]) == ("new", 0, 1, None)


async def test_a_late_settle_changes_nothing(store: Store, database: Database, connection: Connection) -> None:
    """A zombie that finishes after its lease ended matches no row: neither while another holds it nor afterwards."""
    event_id = await an_event(connection)
    (zombie,) = await claim(store)
    await connection.execute("UPDATE hookd.events SET due_at = now() - interval '1 s'")
    other = Store(database, "another", lease_seconds=LEASE_SECONDS)
    (alive,) = await claim(other)
    assert await store.results.settle([settlement(zombie, FAILED)]) == set()
    assert (await row_of(connection, event_id))["held_by"] == "another"
    await other.results.settle([settlement(alive, RETRIED)])
    assert await store.results.settle([settlement(zombie)]) == set()
    assert (await row_of(connection, event_id))["status"] == "new"
    assert await counts(connection) == {}
    await other.close()


async def test_a_settle_after_a_renewal(store: Store, renewer: Renewer, connection: Connection) -> None:
    """A renewal does not stand in a settle's way."""
    event_id = await an_event(connection)
    claimed = await claim(store)
    await renewer.renew(claimed)
    assert await store.results.settle([settlement(claimed[0])]) == {event_id}


async def test_a_renewal_after_a_settle(store: Store, renewer: Renewer, connection: Connection) -> None:
    """A renewal that was on its way while its row was settled does not destroy the back-off."""
    for outcome in (RETRIED, handed_back(30.0)):
        event_id = await an_event(connection)
        claimed = await claim(store)
        await store.results.settle([settlement(claimed[0], outcome)])
        assert await renewer.renew(claimed) == set()
        assert await seconds_until(connection, event_id) == pytest.approx(outcome.delay, abs=10)


async def test_settling_and_renewing_at_once(store: Store, renewer: Renewer, connection: Connection) -> None:
    """Renewals and settles of the same rows, in opposite orders, never wait for each other in a ring."""
    await events(connection, 60)
    claimed = await claim(store)
    batches = [claimed[start : start + 20] for start in range(0, 60, 20)]
    for batch in batches:
        settling = store.results.settle([settlement(each) for each in batch])
        renewing = [renewer.renew(batch[::-1]) for _ in range(3)]
        settled, *_ = await asyncio.gather(settling, *renewing)
        assert settled == set(ids(batch))


async def test_two_results_of_one_row(store: Store, connection: Connection) -> None:
    """Of two results of one claim in one batch one is taken, and counted once."""
    event_id = await an_event(connection)
    (claimed,) = await claim(store)
    assert await store.results.settle([settlement(claimed), settlement(claimed, FAILED)]) == {event_id}
    assert sum((await counts(connection)).values()) == 1


# What cannot be stored


async def test_a_result_that_cannot_be_recorded_fails_alone(store: Store, connection: Connection) -> None:
    """A batch refused for its data is halved down to the rows at fault: those fail, their neighbours live."""
    await events(connection, 9)
    claimed = await claim(store)
    outcomes = dict.fromkeys(ids(claimed), PROCESSED)
    bad = {claimed[2].id: "a\0b", claimed[7].id: "\ud800"}
    outcomes |= {event_id: Outcome("new", words, 5.0) for event_id, words in bad.items()}
    assert await store.results.settle([settlement(each, outcomes[each.id]) for each in claimed]) == set(ids(claimed))
    for event_id in bad:
        row = await row_of(connection, event_id)
        assert row["status"] == "failed"
        assert row["reason"].startswith("could not be recorded: ")
    assert await counts(connection) == {("demo", "processed"): 7, ("demo", "failed"): 2}


async def test_whatever_a_handler_raises_is_recorded(store: Store, connection: Connection) -> None:
    """NUL bytes, surrogates, a megabyte of words: the attempt is recorded, cut and cleaned."""
    words = ["a\0b", "\ud800", "x" * 1_000_000, "\U0001f600" * 20_000]
    await events(connection, len(words))
    claimed = await claim(store)
    outcomes = [conclude(ended_with(ValueError(each)), 10, 10) for each in words]
    settled = await store.results.settle([settlement(*pair) for pair in zip(claimed, outcomes, strict=True)])
    assert settled == set(ids(claimed))
    for each in claimed:
        row = await row_of(connection, each.id)
        assert row["status"] == "failed"
        assert row["reason"].startswith("gave up after 10 attempts: ValueError: ")
        assert len(row["reason"]) <= 500
    for attempt in await attempts(connection):
        assert attempt["error"].startswith("gave up after 10 attempts: ValueError: ")
        assert 0 < len(attempt["traceback"]) <= 16 * 1024


# Attempts and counts


async def test_failed_attempts_are_kept(store: Store, connection: Connection) -> None:
    """Each failed attempt has a row under its claim, also after a replay; other runs have none."""
    event_id = await an_event(connection)
    replayed = "UPDATE hookd.events SET due_at = now() WHERE id = $1", event_id
    for outcome in (RETRIED, handed_back(), FAILED):
        (claimed,) = await claim(store)
        await store.results.settle([settlement(claimed, outcome)])
        await connection.execute(*replayed)
    await connection.execute(REPLAY, event_id)
    for outcome in (RETRIED, PROCESSED):
        (claimed,) = await claim(store)
        await store.results.settle([settlement(claimed, outcome)])
        await connection.execute(*replayed)
    assert [(row["claim"], row["attempt"]) for row in await attempts(connection)] == [(1, 1), (3, 2), (4, 1)]
    assert {(row["event_id"], row["error"], row["traceback"]) for row in await attempts(connection)} == {
        (event_id, "RuntimeError: broken", "Traceback …")
    }


async def test_the_attempt_that_died_is_the_last(store: Store, connection: Connection) -> None:
    """An event whose process died on its last attempt fails with ten attempts, not eleven, and that one is kept."""
    event_id = await an_event(connection, held_by="a dead one", attempts=10, claims=12, due="1 second ago")
    (claimed,) = await claim(store)
    await store.results.settle([settlement(claimed, gave_up(claimed.row["attempts"], claimed.row["reason"]))])
    row = await row_of(connection, event_id)
    assert (row["status"], row["attempts"], row["claims"]) == ("failed", 10, 13)
    assert row["reason"] == "gave up after 10 attempts: the processor died while handling it"
    assert [(each["claim"], each["attempt"]) for each in await attempts(connection)] == [(13, 10)]


KINDS = st.sampled_from(["good", "raised", "reject", "back"])


def outcome_of(kind: str, attempts: int) -> Outcome:
    if kind == "back":
        return handed_back()
    return conclude(RETURNED if kind == "good" else Ending(kind, "why", after=0.0), attempts, 2)  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sources=st.lists(st.sampled_from(["github", "stripe", "other"]), min_size=1, max_size=6),
    rounds=st.lists(st.tuples(st.lists(KINDS, min_size=1, max_size=4), st.booleans()), min_size=1, max_size=6),
)
async def test_counts_are_what_the_table_says(
    store: Store, connection: Connection, sources: list[str], rounds: list[tuple[list[str], bool]]
) -> None:
    """The counters equal a count of the table, whatever was claimed, settled, settled late or sent twice."""
    await connection.execute("DELETE FROM hookd.events; DELETE FROM hookd.counts; DELETE FROM hookd.attempts")
    for number, source in enumerate(sources):
        await an_event(connection, source=source, received=f"{number % 2 * 24 + 1} hours ago")
    sent: list[Settlement] = []
    for kinds, is_late in rounds:
        claimed = await claim(store, len(kinds))
        batch = [settlement(each, outcome_of(kind, each.row["attempts"])) for each, kind in zip(claimed, kinds)]  # noqa: B905
        if is_late:  # its lease ends before, and another may have the row
            await connection.execute("UPDATE hookd.events SET due_at = now() WHERE status = 'new'")
            sent += [settlement(each) for each in await claim(store, 2)]
        sent += batch
        for start in range(0, len(sent), 5):
            await store.results.settle(sent[start : start + 5])
    table = await connection.fetch(
        "SELECT (received_at AT TIME ZONE 'UTC')::date, source, status, count(*) FROM hookd.events"
        " WHERE status <> 'new' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    )
    told = await connection.fetch("SELECT day, source, status, events FROM hookd.counts ORDER BY 1, 2, 3")
    assert [tuple(row) for row in told] == [tuple(row) for row in table]


# The database


async def test_a_database_that_is_away() -> None:
    """A database that cannot be reached is Unavailable to every caller, not an error of the driver's."""
    store = Store(Database("postgresql://localhost:1/nothing"), "me", lease_seconds=LEASE_SECONDS)
    with pytest.raises(Unavailable, match="PostgreSQL cannot be reached"):
        await store.check()
    with pytest.raises(Unavailable):
        await claim(store)


async def test_a_database_without_the_schema(empty_database_url: str) -> None:
    """A database that was not migrated is refused in a sentence that says what to run."""
    store = Store(Database(empty_database_url), "me", lease_seconds=LEASE_SECONDS)
    with pytest.raises(DatabaseError, match="run hookd migrate"):
        await store.check()
    await store.close()


async def test_a_connection_that_was_cut(store: Store, connection: Connection) -> None:
    """A connection that the server cut costs one call at most; the next one has a new connection."""
    event_id = await an_event(connection)
    (claimed,) = await claim(store)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'hookd processor%' AND datname = current_database()"
    )
    with contextlib.suppress(Unavailable):
        await claim(store)
    assert await claim(store) == []
    assert await store.results.settle([settlement(claimed)]) == {event_id}


async def test_one_drain_at_a_time(store: Store, database: Database) -> None:
    """Of several `--once` one drains; when it has gone, another may."""
    other = Store(database, "another", lease_seconds=LEASE_SECONDS)
    assert await store.queue.only_drain() is True
    assert await other.queue.only_drain() is False
    await store.close()
    async with asyncio.timeout(20):
        while not await other.queue.only_drain():
            pass
    await other.close()


async def test_what_was_found_is_written(store: Store, connection: Connection) -> None:
    """A settle writes the names and the verdict that were found, each to its own row, also where the row stays new."""
    for minutes in range(5, 0, -1):
        await an_event(connection, event_type="there", delivery_id="there", due=f"{minutes} minutes ago")
    claimed = await claim(store)
    founds = [
        Found(),
        Found("push", "a", "verified"),
        Found("push", "b", "verified"),
        Found(None, None, "signature: it does not fit"),
        Found("star"),
    ]
    for each, found in zip(claimed, founds, strict=True):
        each.learn(found)
    outcomes = [PROCESSED, PROCESSED, RETRIED, FAILED, handed_back()]
    settled = await store.results.settle([settlement(*pair) for pair in zip(claimed, outcomes, strict=True)])
    assert settled == set(ids(claimed))
    rows = [await row_of(connection, each.id) for each in claimed]
    assert [(row["event_type"], row["delivery_id"], row["verdict"]) for row in rows] == [
        ("there", "there", None),
        ("push", "a", "verified"),
        ("push", "b", "verified"),
        ("there", "there", "signature: it does not fit"),
        ("star", "there", None),
    ]
    assert [(each.row["event_type"], each.row["delivery_id"]) for each in claimed] == [
        (row["event_type"], row["delivery_id"]) for row in rows
    ]


async def test_a_verdict_outlives_the_next_claim(store: Store, connection: Connection) -> None:
    """A row that was handed back keeps its verdict when it is settled by one who found nothing."""
    event_id = await an_event(connection)
    (claimed,) = await claim(store)
    claimed.learn(Found(verdict="verified"))
    await store.results.settle([settlement(claimed, handed_back())])
    await store.results.settle([settlement(each) for each in await claim(store)])
    assert (await row_of(connection, event_id))["verdict"] == "verified"


# Plans


async def test_plans_made_while_the_day_was_empty(store: Store, renewer: Renewer, connection: Connection) -> None:
    """Every statement reads what it needs of an index and no more, also when planned while the day was empty.

    (An index may be read from one end to the other for each row, and be called an index scan all the same.)
    """
    await connection.execute("ANALYZE hookd.events")
    for _ in range(8):  # after the fifth time PostgreSQL may keep a plan
        assert await claim(store) == []
    rows = list(seed.rows(datetime.now(UTC), 0, 20_000))
    await connection.copy_records_to_table("events", schema_name="hookd", columns=seed.COLUMNS, records=rows)
    before = await entries_read(connection)
    for _ in range(8):
        claimed = await claim(store, 100)
        assert len(claimed) == 100
        assert await renewer.renew(claimed) == set(ids(claimed))
        assert await store.results.settle([settlement(each) for each in claimed]) == set(ids(claimed))
    await store.close()
    await renewer.close()  # a backend that ends tells its statistics
    # Entries of rows just claimed or settled are passed by until they are dead to all; a scan of the day reads 20,000
    # for each of the 800 rows.
    assert await entries_read(connection) - before < 8 * 100 * 100


async def entries_read(connection: Connection) -> int:
    """Index entries of events that all statements so far looked at."""
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    value: int = await connection.fetchval(
        "SELECT sum(idx_tup_read)::int FROM pg_stat_user_indexes WHERE relname LIKE 'events\\_2%'"
    )
    return value


# Hints


@pytest.mark.unmeasured
async def test_a_half_open_listener_is_found_out(database_url: str, connection: Connection) -> None:
    """Whoever listens asks every 5 s whether his connection lives, and opens another where nobody answers."""
    heard = asyncio.Event()
    async with Proxy(database_url) as proxy:
        listening = asyncio.create_task(listen(Database(proxy.url), heard.set))
        await asyncio.wait_for(heard.wait(), 20)
        proxy.go_dark()
        proxy.light_up()
        heard.clear()
        await asyncio.wait_for(heard.wait(), 20)  # hints may have been missed
        heard.clear()
        await connection.execute("NOTIFY hookd")
        await asyncio.wait_for(heard.wait(), 20)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
