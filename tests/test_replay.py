"""`hookd replay`: settled events are new again, each once, and the counters follow."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click import ClickException
from click.testing import CliRunner

from chassis.database import Connection, Database
from hookd import cli
from hookd.commands.replay import Tally, work
from hookd.store import IDS_A_BATCH, Store, Wanted
from tests.commands import Hookd
from tests.factories import an_attempt, an_event, counts, events, row_of

RESET = ("status", "attempts", "held_by", "finished_at", "reason")
AS_NEW = ("new", 0, None, None, None)


@pytest.fixture
def hookd(database_url: str, tmp_path: Path) -> Hookd:
    return Hookd(tmp_path, {"HOOKD_DATABASE_URL": database_url})


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    store = Store(database, "test")
    yield store
    await store.close()


async def replay(
    store: Store, ids: Sequence[Any] = (), *, since: timedelta | None = None, dry_run: bool = False, **wanted: Any
) -> Tally:
    tally = Tally()
    await work(store, [each.hex for each in ids], Wanted(**wanted), since, tally, dry_run=dry_run)
    return tally


async def test_a_settled_event_is_new_again(hookd: Hookd, connection: Connection) -> None:
    """A replayed event waits for its first attempt, due now; how often it was claimed stays, for the fence."""
    event_id = await an_event(connection, status="failed", attempts=10, claims=12, due="5 hours ago")
    await an_attempt(connection, event_id)
    done = hookd("replay", str(event_id)[:18])
    assert (done.code, done.out, done.err) == (0, "replayed 1 event\n", "")
    row = await row_of(connection, event_id)
    assert tuple(row[name] for name in RESET) == AS_NEW
    assert row["claims"] == 12
    assert await connection.fetchval("SELECT now() - due_at < interval '1 minute' FROM hookd.events")
    assert await connection.fetchval("SELECT count(*) FROM hookd.attempts") == 1


@pytest.mark.parametrize(
    ("verdict", "after", "replayed"),
    [(None, None, True), ("verified", "verified", True), ("signature: it does not fit", None, False)],
)
async def test_what_was_judged(
    verdict: str | None, after: str | None, replayed: bool, store: Store, connection: Connection
) -> None:
    """What was refused is judged again, as if it had just come; anything else runs again, whoever has its delivery."""
    event_id = await an_event(connection, status="failed")
    await connection.execute("UPDATE hookd.events SET verdict = $1, replayed = true", verdict)
    await replay(store, [event_id])
    row = await row_of(connection, event_id)
    assert (row["verdict"], row["replayed"]) == (after, replayed)


async def test_a_replay_tells_the_processors(store: Store, connection: Connection) -> None:
    """A replay sends the hint that a receiver sends."""
    heard = asyncio.Event()
    await connection.add_listener("hookd", lambda *_: heard.set())
    await replay(store, [await an_event(connection, status="processed")])
    async with asyncio.timeout(10):
        await heard.wait()


async def test_an_event_that_is_new_is_left_alone(hookd: Hookd, connection: Connection) -> None:
    """Of events named, those still new are reported and not touched, whoever holds them."""
    settled = await an_event(connection, status="failed")
    waiting = await an_event(connection, attempts=3, due="5 hours", reason="Retry: later")
    held = await an_event(connection, attempts=1, held_by="host 1", due="30 seconds")
    before = [await row_of(connection, each) for each in (waiting, held)]
    done = hookd("replay", str(settled), str(waiting), str(held))
    assert (done.code, done.out) == (0, "replayed 1 event\n")
    assert all(f"{each} is new already" in done.err for each in (waiting, held))
    assert [await row_of(connection, each) for each in (waiting, held)] == before
    again = hookd("replay", str(settled), "--json")
    assert (again.code, again.json) == (
        1,
        [{"dry_run": False, "matched": 0, "replayed": 0, "already_new": [str(settled)]}],
    )


async def test_an_unknown_id_stops_it_before_anything_is_replayed(store: Store, connection: Connection) -> None:
    """One unknown id among several is named, and nothing is replayed."""
    event_id = await an_event(connection, status="failed")
    unknown = type(event_id)(int=1 << 120)
    with pytest.raises(ClickException, match=f"^no event {unknown.hex}$"):
        await replay(store, [event_id, unknown])
    assert (await row_of(connection, event_id))["status"] == "failed"


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--since 1h",
        "--source demo",
        "--reason x",
        "01a1b2c3 --status failed",
        "01a1b2c3 --source demo",
        "--status new",
    ],
)
def test_everything_is_never_replayed_by_accident(arguments: str) -> None:
    """Without an id or a status to replay, or with both, it is wrong usage."""
    assert CliRunner().invoke(cli.hookd, ["replay", *arguments.split()]).exit_code == 2


async def test_a_replay_by_query_takes_what_matches(store: Store, connection: Connection) -> None:
    """--status, --source, --type, --since and words of the reason narrow it; new events never match."""
    wanted: dict[str, Any] = {"source": "github", "event_type": "push", "received": "1 hour ago"}
    match = await an_event(connection, status="failed", reason="TimeoutError: 100% [late]", **wanted)
    others = [
        await an_event(connection, status="failed", reason="ValueError: no", **wanted),
        await an_event(connection, status="failed", reason="100% [late]", **{**wanted, "source": "gitlab"}),
        await an_event(connection, status="failed", reason="100% [late]", **{**wanted, "event_type": None}),
        await an_event(connection, status="failed", reason="100% [late]", **{**wanted, "received": "3 hours ago"}),
        await an_event(connection, status="processed", reason="100% [late]", **wanted),
        await an_event(connection, reason="100% [late]", **wanted),
    ]
    before = [await row_of(connection, each) for each in others]
    narrow: dict[str, Any] = {"state": "failed", "source": "github", "event_type": "push", "reason": "100% [late]"}
    tally = await replay(store, since=timedelta(hours=2), **narrow)
    assert (tally.matched, tally.replayed) == (1, 1)
    assert (await row_of(connection, match))["status"] == "new"
    assert [await row_of(connection, each) for each in others] == before


async def test_a_dry_run_changes_nothing(hookd: Hookd, connection: Connection) -> None:
    """--dry-run tells how many would be replayed and shows the newest five."""
    ids = [await an_event(connection, status="failed", received=f"{n} hours ago") for n in range(1, 8)]
    before = [await row_of(connection, each) for each in ids]
    done = hookd("replay", "--status", "failed", "--dry-run")
    assert done.lines[0] == "would replay 7 events"
    assert [line.split()[0] for line in done.lines[2:7]] == [str(each) for each in ids[:5]]
    assert done.lines[7] == "… and 2 more"
    assert [await row_of(connection, each) for each in ids] == before


async def test_what_fails_again_meanwhile_is_not_replayed_twice(store: Store, connection: Connection) -> None:
    """Only what was settled before the command began is replayed: of two that failed, not the one that just did."""
    event_id = await an_event(connection, status="failed", finished="1 minute")
    tally = await replay(store, state="failed")
    assert (tally.matched, tally.replayed) == (0, 0)
    assert (await row_of(connection, event_id))["status"] == "failed"
    assert await store.reset([event_id], await store.now()) == set()


async def test_counters_follow(store: Store, connection: Connection) -> None:
    """What is replayed is taken off its counter: of its day, source and status, in the same statement."""
    for status, received in (("failed", "1 hour ago"), ("failed", "3 days ago"), ("processed", "3 days ago")):
        await events(connection, 2, status=status, received=received)
    await an_event(connection, source="kept", status="failed")
    await replay(store, state="failed", source="demo", since=timedelta(days=1))
    assert await counts(connection) == {("demo", "failed"): 2, ("demo", "processed"): 2, ("kept", "failed"): 1}
    await replay(store, state="failed", source="demo")
    await replay(store, state="processed")
    assert await counts(connection) == {("kept", "failed"): 1}


async def test_a_source_that_was_counted_as_other(store: Store, connection: Connection) -> None:
    """Events of a source beyond the hundredth are taken off `other`, also where some were counted by its own name."""
    await an_event(connection, source="late", status="failed")
    await events(connection, 2, source="late", status="failed", label="other")
    await an_event(connection, source="later", status="failed", label="other")
    await replay(store, state="failed", source="late")
    assert await counts(connection) == {("other", "failed"): 1}
    await replay(store, state="failed")
    assert await counts(connection) == {}


async def test_many_are_replayed_in_batches(hookd: Hookd, connection: Connection) -> None:
    """More than a batch on a terminal shows a bar, and every one is replayed once."""
    await events(connection, 2 * IDS_A_BATCH + 1, status="failed")
    done = hookd.on_terminal("replay", "--status", "failed")
    assert done.code == 0
    assert "replaying" in done.out
    assert re.search(r"replayed 1,001 events\r\n$", done.out)
    assert await connection.fetchval("SELECT count(*) FROM hookd.events WHERE status = 'new'") == 1001
    assert await counts(connection) == {}


async def test_two_at_once_replay_each_event_once(database: Database, connection: Connection) -> None:
    """Two replays of the same events share them, and the counters end where one would have left them."""
    await events(connection, 700, status="failed")
    stores = [Store(database, "test") for _ in range(2)]
    tallies = await asyncio.gather(*(replay(store, state="failed") for store in stores))
    assert sum(tally.replayed for tally in tallies) == 700
    assert await counts(connection) == {}
    for store in stores:
        await store.close()


async def test_ctrl_c_tells_how_far_it_came(hookd: Hookd, connection: Connection) -> None:
    """A replay that is interrupted says how many events are new again; those are committed."""
    ids = sorted(await events(connection, IDS_A_BATCH + 1, status="failed"))
    async with connection.transaction():
        await connection.execute("SELECT FROM hookd.events WHERE id = $1 FOR UPDATE", ids[-1])
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
        with hookd.start("replay", "--status", "failed") as child:
            while not await connection.fetchval(waiting):
                assert child.poll() is None
            os.killpg(child.pid, signal.SIGINT)
            _, err = child.communicate()
        assert await connection.fetchval("SELECT count(*) FROM hookd.events WHERE status = 'new'") == 500
    assert child.returncode == 130
    assert err.strip().splitlines() == ["replayed at least 500 of 501 events before this:", "", "stopped"]
