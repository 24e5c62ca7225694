"""A payload that kills takes no innocent neighbour with it: a row whose holder died twice runs alone, in a child."""

import asyncio
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

import hookd as api
from chassis.database import Connection, Database
from processor.outcome import DIED
from tests.born import hookd
from tests.factories import an_event, counts, events, row_of
from tests.processing import Gate, Watch, a_handler, an_app, processing

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]

# As a row stands when the process that held it for the second time has died.
DIED_TWICE: dict[str, Any] = {"held_by": "a dead one", "attempts": 2, "claims": 2, "due": "1 second ago"}
RETRIED = "id = $1 AND status = 'new' AND held_by IS NULL AND attempts = 3"
ELSEWHERE = "not run in the processor itself"


async def never_here(event: api.Event) -> None:
    raise AssertionError(ELSEWHERE)


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


KILLER = """
@hookd.on("*")
async def handle(event):
    if event.source == "killer":
        await asyncio.sleep(0.5)
        os._exit(1)
    if event.source == "slow" and event.attempt < 3:
        await asyncio.sleep(60)
"""


async def test_one_killer_among_five_hundred(
    database_url: str, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """500 rows claimed together, one of them a killer: 499 are processed, one fails, and its reason says why."""
    async with connection.transaction():
        await events(connection, 496, source="quick")
        await events(connection, 3, source="slow")  # in the middle of it, twice, when the process dies
        killer = await an_event(connection, source="killer")
    command = ("processor", "--app", an_app(tmp_path, KILLER))
    settings: dict[str, Any] = {"database_url": database_url, "concurrency": "500", "attempts_max": "4"}
    for death in (1, 2):
        async with hookd(*command, **settings) as processor:
            assert await processor.ended() == 1
        assert await connection.fetchval("SELECT count(*) FROM hookd.events WHERE claims = $1", death) >= 4
        assert await connection.fetchval("SELECT min(claims) FROM hookd.events") == 1
        # Their leases run out: an hour is nothing to a test.
        await connection.execute("UPDATE hookd.events SET due_at = now() WHERE held_by IS NOT NULL")
    async with hookd(*command, **settings) as processor:
        await watch.until("id = $1 AND held_by IS NULL AND attempts = 3", killer)
        await connection.execute("UPDATE hookd.events SET due_at = now() WHERE id = $1", killer)
        settled = await watch.settled()
        assert await processor.stop() == 0
    assert settled.pop(killer) == ("failed", f"gave up after 4 attempts: {DIED}")
    assert list(settled.values()) == [("processed", None)] * 499
    assert await counts(connection) == {
        ("quick", "processed"): 496,
        ("slow", "processed"): 3,
        ("killer", "failed"): 1,
    }
    assert await connection.fetchval("SELECT max(attempts) FROM hookd.events WHERE status = 'processed'") == 3


async def test_alone_from_the_third_try(
    database: Database, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """A row whose holder died once runs as any other; one whose holder died twice runs in a child of its own."""
    once = await an_event(connection, held_by="a dead one", attempts=1, claims=1, due="1 second ago")
    twice = await an_event(connection, **DIED_TWICE)
    ordinary = await an_event(connection, attempts=2, claims=2)
    seen: list[UUID] = []

    async def here(event: api.Event) -> None:
        seen.append(event.id)

    code = 'open(os.path.dirname(__file__) + "/pid", "w").write(f"{event.id} {event.attempt} {os.getppid()}")'
    app = an_app(tmp_path, f'@hookd.on("*")\ndef there(event): {code}')
    async with processing(database, here, app=app):
        assert set((await watch.settled()).values()) == {("processed", None)}
    assert sorted(seen) == sorted([once, ordinary])
    assert (tmp_path / "pid").read_text() == f"{twice} 3 {os.getpid()}"


ENDINGS = """
import subprocess

@hookd.on("good")
async def good(event):
    assert event.json() == {"a": 1} and event.header("x") == "y" and event.received_at.tzinfo and event.method == "POST"

@hookd.on("prints")
def prints(event):
    print('{"kind": "reject"}' * 20_000)

@hookd.on("forks")
def forks(event):
    subprocess.Popen(["sleep", "3"], close_fds=False)
    if os.fork() == 0:
        time.sleep(3)
        os._exit(0)

@hookd.on("large")
def large(event):
    assert event.body == b"x" * 2_000_000

@hookd.on("segfaults")
async def segfaults(event):
    os.kill(os.getpid(), signal.SIGSEGV)

@hookd.on("exits")
async def exits(event):
    sys.exit(0)

@hookd.on("raises")
async def raises(event):
    raise ValueError("\\0 \\ud800 " + "x" * 1_000_000)

@hookd.on("retries")
def retries(event):
    raise hookd.Retry("later", after=float("inf"))

@hookd.on("rejects")
async def rejects(event):
    raise hookd.Reject("never")

@hookd.on("own-timeout")
async def own_timeout(event):
    raise TimeoutError("the other side's")
"""

RETURNS = ("good", "prints", "forks", "large")
RAISES = {
    "segfaults": ("new", DIED),
    "exits": ("new", "SystemExit: 0"),
    "raises": ("new", "ValueError: \ufffd \ufffd " + "x" * 484),
    "retries": ("new", "later"),
    "rejects": ("failed", "never"),
    "own-timeout": ("new", "TimeoutError: the other side's"),
}


async def test_what_becomes_of_a_suspect(
    database: Database, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """What its child does is what its event becomes, whatever it prints, leaves behind, or dies of."""
    bodies = {"large": b"x" * 2_000_000, "good": b'{"a": 1}'}
    ids = {
        source: await an_event(
            connection, source=source, payload=bodies.get(source, b""), headers=[["X", "y"]], **DIED_TWICE
        )
        for source in (*RETURNS, *RAISES)
    }
    async with processing(database, never_here, app=an_app(tmp_path, ENDINGS)):
        await watch.until("NOT EXISTS (SELECT FROM hookd.events WHERE held_by IS NOT NULL OR claims < 3)")
    rows = {source: await row_of(connection, event_id) for source, event_id in ids.items()}
    told = {source: (row["status"], row["reason"]) for source, row in rows.items()}
    assert told == dict.fromkeys(RETURNS, ("processed", None)) | RAISES
    assert {row["attempts"] for row in rows.values()} == {3}
    days = await connection.fetchval(
        "SELECT extract(epoch FROM due_at - now())::float / 86400 FROM hookd.events WHERE source = 'retries'"
    )
    assert days == pytest.approx(7, abs=0.1)
    trace = await connection.fetchval("SELECT traceback FROM hookd.attempts WHERE event_id = $1", ids["raises"])
    assert "in raises\n" in trace


HANGS = """
@hookd.on("thread")
def thread(event):
    time.sleep(60)

@hookd.on("swallows")
async def swallows(event):
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@hookd.on("heeds")
async def heeds(event):
    await asyncio.sleep(60)
"""


async def test_a_suspect_that_hangs(database: Database, connection: Connection, watch: Watch, tmp_path: Path) -> None:
    """A suspect's child that hangs is ended at its time-out, whatever hangs in it; the innocent go on meanwhile."""
    ids = [await an_event(connection, source=source, **DIED_TWICE) for source in ("thread", "swallows", "heeds")]
    async with processing(
        database, Gate(is_open=True).pass_through, app=an_app(tmp_path, HANGS), handler_timeout_seconds=0.3
    ):
        innocent = await an_event(connection, source="innocent")
        await watch.until("id = $1 AND status = 'processed'", innocent)
        assert await connection.fetchval("SELECT count(*) FROM hookd.events WHERE held_by IS NOT NULL") >= 2
        for event_id in ids:
            await watch.until(RETRIED, event_id)
    assert {(await row_of(connection, event_id))["reason"] for event_id in ids} == {"timed out after 0.3 s"}


@pytest.mark.parametrize("count", [1, 2])
async def test_a_suspect_is_handed_back(
    database: Database, connection: Connection, watch: Watch, tmp_path: Path, count: int
) -> None:
    """Told to stop, it ends the suspect's child, and hands it back with its attempt: still known for a suspect."""
    ids = [await an_event(connection, source="thread", **DIED_TWICE) for _ in range(count)]
    with capture_logs() as logs:
        async with processing(database, never_here, app=an_app(tmp_path, HANGS), grace_seconds=0) as parts:
            await watch.until("(SELECT count(*) FROM hookd.events WHERE claims = 3) = $1", count)
            while not parts.suspects.running:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
    assert [line["event"] for line in logs] == ["suspect.tried_alone"]
    for event_id in ids:
        row = await row_of(connection, event_id)
        assert (row["status"], row["held_by"], row["attempts"], row["reason"]) == ("new", None, 2, DIED)
    await connection.execute("UPDATE hookd.events SET due_at = now()")
    code = '@hookd.on("*")\ndef there(event): pass'
    async with processing(database, never_here, app=an_app(tmp_path, code)):
        assert set((await watch.settled()).values()) == {("processed", None)}


async def test_a_suspect_whose_lease_is_lost(
    database: Database, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """A suspect whose lease is lost loses its child too, and its result is dropped."""
    event_id = await an_event(connection, source="thread", **DIED_TWICE)
    second = await an_event(connection, source="quick", received="1 minute ago", **{**DIED_TWICE, "due": "now"})
    app = an_app(tmp_path, HANGS + '@hookd.on("quick")\ndef quick(event): pass')
    async with processing(database, never_here, app=app, lease_seconds=1.0):
        await watch.until("id = $1 AND claims = 3", event_id)
        await connection.execute(
            "UPDATE hookd.events SET claims = 4, held_by = 'another', due_at = now() + interval '1 h' WHERE id = $1",
            event_id,
        )
        await watch.until("id = $1 AND status = 'processed'", second)
    row = await row_of(connection, event_id)
    assert (row["status"], row["held_by"], row["claims"]) == ("new", "another", 4)


async def test_a_suspect_without_a_handler(
    database: Database, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """A suspect that no handler takes has nothing to be tried with: it is ignored, or handed back, as any other."""
    ignored = await an_event(connection, source="github", event_type="star", **DIED_TWICE)
    unknown = await an_event(connection, source="stripe", **DIED_TWICE)
    async with processing(database, a_handler(never_here, "github", "push"), app=str(tmp_path / "gone.py")):
        assert await watch.settled() == {
            ignored: ("processed", "ignored: no handler for event type 'star'"),
            unknown: ("failed", "no handler for source 'stripe'"),
        }


async def test_an_app_that_changed_meanwhile(
    database: Database, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """An app that is broken when the child imports it is a failed attempt that says so, not a death."""
    app = tmp_path / "app.py"
    for code, said in (
        ("1 / 0", f"processor.handling.app.AppError: {app} does not import: ZeroDivisionError"),
        ('@hookd.on("another")\ndef function(event): pass', "its handler is gone from the app"),
    ):
        event_id = await an_event(connection, **DIED_TWICE)
        async with processing(database, never_here, app=an_app(tmp_path, code)):
            await watch.until(RETRIED, event_id)
        assert (await row_of(connection, event_id))["reason"].startswith(said)
