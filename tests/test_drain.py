"""Drain: what is claimed is run, what was run is settled; whatever a handler does, and whatever happens meanwhile."""

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

import hookd
from chassis.database import Connection, Database
from processor.claiming.pace import Pace
from processor.running.watchdog import CANCELLED_MAX
from processor.store import Store
from rig import seed
from tests.factories import an_event, counts, events, row_of
from tests.processing import PATIENCE_SECONDS, Gate, Watch, a_handler, parts_of, processing

WAITS_FOR_ITS_RETRY = "status = 'new' AND held_by IS NULL AND attempts = $1"
IN_TRANSACTION = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'hookd %' AND state LIKE 'idle in transaction%'
"""
CLAIMERS = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'hookd processor claim%'
"""
AGE = "UPDATE hookd.events SET due_at = now() WHERE status = 'new' AND held_by IS NULL"


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


# What a handler does, and what becomes of its event


async def test_what_a_handler_is_given(database: Database, connection: Connection, watch: Watch) -> None:
    """A handler is given the webhook as it was sent; what it returns is ignored, and its event is processed."""
    body = b'{"repository": {"full_name": "a/b"}}'
    given: list[hookd.Event] = []
    event_id = await an_event(
        connection,
        source="github",
        event_type="push",
        delivery_id="72d3162e",
        target="/github/x?y=%20z",
        headers=[["X-GitHub-Event", "push"], ["Cookie", "a"], ["cookie", "b"]],
        payload=body,
    )

    async def deploy(event: hookd.Event) -> str:
        given.append(event)
        return "ignored"

    async with processing(database, a_handler(deploy, "github", "push")):
        assert await watch.settled() == {event_id: ("processed", None)}
    (event,) = given
    row = await row_of(connection, event_id)
    assert (event.id, event.source, event.event_type, event.delivery_id) == (event_id, "github", "push", "72d3162e")
    assert (event.received_at, event.attempt, event.method) == (row["received_at"], 1, "POST")
    assert (event.target, event.body) == ("/github/x?y=%20z", body)
    assert event.headers == [("X-GitHub-Event", "push"), ("Cookie", "a"), ("cookie", "b")]
    assert event.header("x-github-event") == "push"
    assert (event.text(), event.json()["repository"]["full_name"]) == (body.decode(), "a/b")
    assert row["finished_at"] is not None
    assert await counts(connection) == {("github", "processed"): 1}


async def test_a_handler_that_keeps_failing(database: Database, connection: Connection, watch: Watch) -> None:
    """An exception is tried again by the schedule, and fails the event with the last attempt."""
    event_id = await an_event(connection)
    tried: list[int] = []

    async def fail(event: hookd.Event) -> None:
        tried.append(event.attempt)
        raise KeyError("repository")

    async with processing(database, fail, attempts_max=3):
        for attempt, wait in ((1, 5), (2, 300)):
            await watch.until(WAITS_FOR_ITS_RETRY, attempt)
            row = await row_of(connection, event_id)
            assert (row["reason"], row["finished_at"]) == ("KeyError: 'repository'", None)
            due_in = await connection.fetchval("SELECT extract(epoch FROM due_at - now())::float FROM hookd.events")
            assert wait * 0.8 - 2 < due_in <= wait * 1.2
            await connection.execute(AGE)
        assert await watch.settled() == {event_id: ("failed", "gave up after 3 attempts: KeyError: 'repository'")}
    assert tried == [1, 2, 3]
    kept = await connection.fetch("SELECT attempt, traceback FROM hookd.attempts ORDER BY claim")
    assert [row["attempt"] for row in kept] == [1, 2, 3]
    assert all("in fail\n" in row["traceback"] for row in kept)


async def test_retry_and_reject(database: Database, connection: Connection, watch: Watch) -> None:
    """Retry comes again when the handler said, without a bell: the drain wakes by itself. Reject fails at once."""
    later = await an_event(connection, source="later")
    never = await an_event(connection, source="never")

    async def retry(event: hookd.Event) -> None:
        if event.attempt < 3:
            raise hookd.Retry("not yet", after=0.2)

    def reject(event: hookd.Event) -> None:
        raise hookd.Reject("no such customer")

    async with processing(database, a_handler(retry, "later"), a_handler(reject, "never"), poll_seconds=3600):
        settled = await watch.settled()
    assert settled == {later: ("processed", None), never: ("failed", "no such customer")}
    assert (await row_of(connection, later))["attempts"] == 3
    assert (await row_of(connection, never))["attempts"] == 1


class Panic(BaseException):
    """What extension modules raise when they give up."""


async def exits(event: hookd.Event) -> None:
    sys.exit(3)


async def stops(event: hookd.Event) -> None:
    raise StopIteration


async def panics(event: hookd.Event) -> None:
    raise Panic("at the disco")


async def cancels_itself(event: hookd.Event) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


async def raises_cancelled(event: hookd.Event) -> None:
    raise asyncio.CancelledError("by hand")


def exits_in_thread(event: hookd.Event) -> None:
    sys.exit(3)


def stops_in_thread(event: hookd.Event) -> None:
    raise StopIteration


def interrupts(event: hookd.Event) -> None:
    raise KeyboardInterrupt


def forgets_async(event: hookd.Event) -> Awaitable[None]:
    return stops(event)


REASONS: dict[Callable[[hookd.Event], Any], str] = {
    exits: "SystemExit: 3",
    stops: "RuntimeError: coroutine raised StopIteration",
    panics: "tests.test_drain.Panic: at the disco",
    cancels_itself: "asyncio.exceptions.CancelledError",
    raises_cancelled: "asyncio.exceptions.CancelledError: by hand",
    exits_in_thread: "SystemExit: 3",
    stops_in_thread: "StopIteration",
    interrupts: "KeyboardInterrupt",
    forgets_async: "TypeError: forgets_async returned a coroutine: declare it with async def",
}


async def test_whatever_a_handler_raises(database: Database, connection: Connection, watch: Watch) -> None:
    """Exits, interrupts, panics, cancellations: each is its own event's failure, and the only worker works on."""
    handlers = [a_handler(function, f"s{number}") for number, function in enumerate(REASONS)]
    ids = [await an_event(connection, source=handler.source) for handler in handlers]
    last = await an_event(connection, source="good", due="5 minutes ago")

    async def good(event: hookd.Event) -> None: ...

    async with processing(database, *handlers, a_handler(good, "good"), concurrency=1, attempts_max=2):
        await watch.until("NOT EXISTS (SELECT FROM hookd.events WHERE held_by IS NOT NULL OR claims = 0)")
        await connection.execute(AGE)
        settled = await watch.settled()
    assert settled.pop(last) == ("processed", None)
    assert settled == {
        event_id: ("failed", f"gave up after 2 attempts: {reason}")
        for event_id, reason in zip(ids, REASONS.values(), strict=True)
    }


# Time


async def test_an_async_handler_is_cancelled_at_its_time_out(
    database: Database, connection: Connection, watch: Watch
) -> None:
    """An `async def` is cancelled at its time-out: a failed attempt, whether it heeds the cancelling or swallows it."""
    await an_event(connection, source="heeds")
    await an_event(connection, source="swallows")
    gate = Gate()

    async def swallow(event: hookd.Event) -> None:
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    handlers = a_handler(gate.pass_through, "heeds"), a_handler(swallow, "swallows")
    async with processing(database, *handlers, handler_timeout_seconds=0.1):
        await watch.until(WAITS_FOR_ITS_RETRY + " AND source = 'heeds'", 1)
        await watch.until(WAITS_FOR_ITS_RETRY + " AND source = 'swallows'", 1)
    assert [end for _, end in gate.ended] == ["cut"]
    reasons = await connection.fetch("SELECT reason FROM hookd.events")
    assert all(row["reason"].startswith("timed out after 0.") for row in reasons)


async def test_a_thread_keeps_its_event_until_it_ends(database: Database, connection: Connection, watch: Watch) -> None:
    """A `def` over its time-out cannot be cancelled: its row stays held and renewed, and is settled when it ends."""
    event_id = await an_event(connection)
    release, began = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(event: hookd.Event) -> None:
        loop.call_soon_threadsafe(began.set)
        release.wait(20)

    rival = Store(database, "a rival", lease_seconds=60)
    async with processing(database, hang, handler_timeout_seconds=0.1, lease_seconds=1.0):
        try:
            await began.wait()
            lease_end = (await row_of(connection, event_id))["due_at"]
            for _ in range(4):  # renewed each third of a second, so past the end of its first lease
                await watch.until("due_at > $1", lease_end)
                lease_end = (await row_of(connection, event_id))["due_at"]
                assert await rival.queue.claim(1, 1 << 20, None, time.monotonic) == []
            row = await row_of(connection, event_id)
            assert (row["status"], row["attempts"], row["claims"]) == ("new", 1, 1)
            assert row["held_by"] is not None
        finally:
            release.set()
        await watch.until(WAITS_FOR_ITS_RETRY, 1)
    assert (await row_of(connection, event_id))["reason"].startswith("timed out after 1.")
    await rival.close()


@pytest.mark.parametrize(("concurrency", "stuck_threads_max"), [(4, 2), (2, 16)])
async def test_too_many_stuck_threads(
    database: Database, connection: Connection, concurrency: int, stuck_threads_max: int
) -> None:
    """Threads stuck beyond the limit, or on all of its workers, make a processor give itself up."""
    await events(connection, 5)
    release = threading.Event()

    def hang(event: hookd.Event) -> None:
        release.wait(20)

    with capture_logs() as logs:
        async with processing(
            database,
            hang,
            concurrency=concurrency,
            stuck_threads_max=stuck_threads_max,
            handler_timeout_seconds=0.1,
            grace_seconds=0,
        ) as parts:
            await asyncio.wait_for(parts.watchdog.stuck.wait(), 20)
    release.set()
    told = [line for line in logs if line["event"] == "thread.stuck"]
    assert len({line["id"] for line in told}) == len(told) >= 2
    assert all(line["handler"].endswith("hang") and 0 <= line["over_seconds"] < 20 for line in told)
    # What hangs has had an attempt, or it would be tried for ever; the rest is handed over.
    rows = await connection.fetch("SELECT held_by, attempts, reason FROM hookd.events WHERE status = 'new'")
    assert {row["held_by"] for row in rows} == {None}
    hung = [row for row in rows if (row["reason"] or "").startswith("timed out after")]
    assert len(rows) == 5
    assert len(hung) >= min(stuck_threads_max, concurrency)
    assert [row["attempts"] for row in hung] == [1] * len(hung)
    assert sum(row["attempts"] for row in rows) == len(hung)


async def test_a_coroutine_that_will_not_be_cancelled_is_told(
    database: Database, connection: Connection, watch: Watch
) -> None:
    """An `async def` that swallows each cancellation keeps its worker, and is named in the log once."""
    event_id = await an_event(connection, source="shop")
    release = asyncio.Event()

    async def cling(event: hookd.Event) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    with capture_logs() as logs:
        async with processing(database, cling, concurrency=1, handler_timeout_seconds=0.1) as parts:
            (worker,) = parts.runner.workers.workers
            async with asyncio.timeout(PATIENCE_SECONDS):
                while worker.cancelled < 2 * CANCELLED_MAX:  # noqa: ASYNC110 - a worker tells nobody
                    await asyncio.sleep(0.01)
            release.set()
            await watch.until(WAITS_FOR_ITS_RETRY, 1)
    (told,) = [line for line in logs if line["event"] == "coroutine.stuck"]
    assert (told["id"], told["source"]) == (str(event_id), "shop")
    assert told["handler"].endswith("cling")
    assert 0 < told["over_seconds"] < PATIENCE_SECONDS
    assert (await row_of(connection, event_id))["reason"].startswith("timed out after")


async def test_too_many_stuck_coroutines(database: Database, connection: Connection) -> None:
    """On all of its workers, or beyond the limit, coroutines that will not end make a processor give itself up too."""
    await events(connection, 3)
    release = asyncio.Event()

    async def cling(event: hookd.Event) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    async with processing(database, cling, concurrency=2, handler_timeout_seconds=0.1, grace_seconds=0) as parts:
        await asyncio.wait_for(parts.watchdog.stuck.wait(), PATIENCE_SECONDS)
        release.set()
    rows = await connection.fetch("SELECT held_by, attempts FROM hookd.events WHERE status = 'new' ORDER BY attempts")
    assert [tuple(row) for row in rows] == [(None, 0), (None, 1), (None, 1)]


async def test_a_coroutine_that_tidies_up_is_not_told(database: Database, connection: Connection, watch: Watch) -> None:
    """What is cut off and ends, if a little later, is a failed attempt like any other."""
    await an_event(connection)

    async def tidy_up(event: hookd.Event) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    with capture_logs() as logs:
        async with processing(database, tidy_up, handler_timeout_seconds=0.1):
            await watch.until(WAITS_FOR_ITS_RETRY, 1)
    assert "coroutine.stuck" not in {line["event"] for line in logs}


# No handler


async def test_no_handler_for_its_type(database: Database, connection: Connection, watch: Watch) -> None:
    """Handlers for the source but none for this type: processed, and its reason says what was ignored."""
    star = await an_event(connection, source="github", event_type="star")
    nameless = await an_event(connection, source="github")
    async with processing(database, a_handler(stops, "github", "push")):
        assert await watch.settled() == {
            star: ("processed", "ignored: no handler for event type 'star'"),
            nameless: ("processed", "ignored: no handler for event type None"),
        }
    assert await connection.fetch("SELECT FROM hookd.attempts") == []


async def test_no_handler_for_its_source(database: Database, connection: Connection, watch: Watch) -> None:
    """No handler for the source at all: handed back until it is ten minutes old, then failed."""
    young = await an_event(connection, source="stripe", received="9 minutes ago")
    old = await an_event(connection, source="stripe", received="11 minutes ago")
    async with processing(database, a_handler(stops, "github")):
        await watch.until("status = 'failed'")
        await watch.until("held_by IS NULL AND claims = 1 AND status = 'new'")
    row = await row_of(connection, old)
    assert (row["status"], row["reason"]) == ("failed", "no handler for source 'stripe'")
    row = await row_of(connection, young)
    assert (row["status"], row["reason"], row["attempts"]) == ("new", None, 0)
    due_in = await connection.fetchval(
        "SELECT extract(epoch FROM due_at - now())::float FROM hookd.events WHERE id = $1", young
    )
    assert 25 < due_in <= 30


async def test_attempts_used_up(database: Database, connection: Connection, watch: Watch) -> None:
    """A claim that finds the attempts used up settles without running, and says why."""
    dead = {"held_by": "a dead one", "attempts": 10, "claims": 10, "due": "1 second ago"}
    died = await an_event(connection, **dead)  # type: ignore[arg-type]
    lowered = await an_event(connection, attempts=12, claims=12, reason="KeyError: 'x'")
    ran: list[UUID] = []

    async def note(event: hookd.Event) -> None:
        ran.append(event.id)

    async with processing(database, note):
        assert await watch.settled() == {
            died: ("failed", "gave up after 10 attempts: the processor died while handling it"),
            lowered: ("failed", "gave up after 12 attempts: KeyError: 'x'"),
        }
    assert ran == []


async def test_good_attempts_are_recorded_on_demand(database: Database, connection: Connection, watch: Watch) -> None:
    """HOOKD_RECORD_ATTEMPTS=all keeps the good attempts too."""
    event_id = await an_event(connection)
    async with processing(database, Gate(is_open=True).pass_through, record_attempts="all"):
        await watch.settled()
    row = await connection.fetchrow("SELECT * FROM hookd.attempts")
    assert row is not None
    assert (row["event_id"], row["claim"], row["attempt"], row["error"]) == (event_id, 1, 1, None)


# How much at once


async def test_handlers_at_once(database: Database, connection: Connection, watch: Watch) -> None:
    """No more handlers run at once than allowed, and so many do."""
    await events(connection, 10)
    gate = Gate()
    async with processing(database, gate.pass_through, concurrency=3) as parts:
        await gate.entered(3)
        assert parts.runner.workers.running == 3
        # No transaction is open while they run.
        assert await connection.fetchval(IN_TRANSACTION) == 0
        # Of the rest it holds no more than can start soon: a burst of three is no pace.
        assert await connection.fetchval("SELECT count(*) FROM hookd.events WHERE held_by IS NOT NULL") <= 6
        gate.open()
        await watch.settled()
    assert gate.most_inside == 3
    assert len(gate.ended) == 10


def test_no_more_is_held_than_can_start_soon() -> None:
    """It holds as many rows as it started within the last third of a lease, and no fewer than it has workers."""
    pace = Pace(4, horizon_seconds=20.0)
    assert pace.rows(0) == 4
    assert pace.rows(4) == 4
    assert 100 < pace.rows(104) <= 104
    assert pace.rows(5000) == 4000  # a limit of its own
    short = Pace(4, horizon_seconds=0.001)
    short.rows(500)
    time.sleep(0.02)
    assert short.rows(500) == 4


async def test_what_is_held_starts_within_a_third_of_the_lease(
    database: Database, connection: Connection, watch: Watch
) -> None:
    """Of 200 a second at most those are held that a second will see, where a lease is three; a burst's share beyond."""
    await events(connection, 700)
    held: list[int] = []

    async def briefly(event: hookd.Event) -> None:
        held.append(len(parts.leases))
        await asyncio.sleep(0.02)

    async with processing(database, briefly, concurrency=4, lease_seconds=3.0) as parts:
        assert len(await watch.settled()) == 700
    assert 4 < max(held) <= 300


async def test_a_backlog_is_claimed_by_two(database: Database, connection: Connection) -> None:
    """While there is a backlog a second claim goes on beside the first; each event is handled once for all that."""
    await seed.backlog(database.url, 10_000)
    ran: list[UUID] = []

    async def note(event: hookd.Event) -> None:
        ran.append(event.id)

    async with asyncio.timeout(60), processing(database, note) as parts:
        while parts.tally.total["processed"] < 10_000:  # noqa: ASYNC110 - a tally tells nobody
            await asyncio.sleep(0.01)
        claimers = await connection.fetchval(CLAIMERS)
    assert claimers == 2
    assert len(ran) == len(set(ran)) == 10_000


async def test_bodies_in_memory_are_bounded(database: Database, connection: Connection, watch: Watch) -> None:
    """What is held is bounded in bytes, not only in rows: half of HOOKD_HELD_BYTES_MAX, and one row more."""
    for _ in range(30):
        await an_event(connection, payload=b"x" * 60_000)
    inside: list[UUID] = []
    most = 0

    async def linger(event: hookd.Event) -> None:
        nonlocal most
        inside.append(event.id)
        most = max(most, len(inside))
        await asyncio.sleep(0.02)
        inside.remove(event.id)

    async with processing(database, linger, concurrency=20, held_bytes_max=1 << 20):
        await watch.settled()
    assert 2 <= most <= (1 << 19) // 60_000 + 1


async def test_large_bodies_are_fetched_as_there_is_room(
    database: Database, connection: Connection, watch: Watch
) -> None:
    """A body over 64 KiB is fetched when its handler starts and there is room; one always fits, however large.

    What waits for a worker behind it does not keep it out.
    """
    for hours, source in ((3, "small"), (2, "large"), (1, "small")):
        for _ in range(20 if source == "small" else 3):
            size = 60_000 if source == "small" else 1_500_000
            await an_event(connection, source=source, payload=b"x" * size, due=f"{hours} hours ago")
    at_once: list[int] = []
    most = 0

    async def large(event: hookd.Event) -> None:
        nonlocal most
        at_once.append(len(event.body))
        most = max(most, sum(at_once))
        await asyncio.sleep(0.01)
        at_once.pop()

    async def small(event: hookd.Event) -> None: ...

    handlers = a_handler(large, "large"), a_handler(small, "small")
    async with processing(database, *handlers, concurrency=2, held_bytes_max=1 << 20):
        assert set((await watch.settled()).values()) == {("processed", None)}
    assert most == 1_500_000


async def test_a_full_queue_asks_for_one_row_more(database: Database, connection: Connection) -> None:
    """A pace that slows down under a full queue still asks for a row, never for less than none."""
    await events(connection, 4)
    parts = parts_of(database, Gate().pass_through, concurrency=1)
    assert [await parts.claimer.claim() for _ in range(4)] == [1, 1, 1, 1]
    await parts.store.close()


# Logs and figures


async def test_failures_are_logged(database: Database, connection: Connection, watch: Watch) -> None:
    """A failure is one line, with what a person needs; a flood of them is a number in the summary."""
    await events(connection, 30, source="github")

    async def reject(event: hookd.Event) -> None:
        raise hookd.Reject("no such customer")

    with capture_logs() as logs:
        async with processing(database, reject) as parts:
            await watch.settled()
        parts.tally.summarize()
    failed = [line for line in logs if line["event"] == "event.failed"]
    assert len(failed) == 20
    assert failed[0] == {
        "event": "event.failed",
        "log_level": "error",
        "id": failed[0]["id"],
        "source": "github",
        "attempt": 1,
        "reason": "no such customer",
    }
    assert {"event": "processor.summary", "log_level": "info", "failed": 30} in logs
    settled = next(metric for metric in parts.tally.collect() if metric.name == "hookd_settled")
    assert settled.values == {("github", "failed"): 30}
