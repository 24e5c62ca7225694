"""Replies: the receiver around them, killed, told to stop, left without threads, watched, given an app."""

import asyncio
import contextlib
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from chassis.database import Connection, Database
from processor.handling.event import Event
from tests.born import hookd as hookd_process
from tests.processing import Gate, Watch, an_app
from tests.receiving import hookd_ingest
from tests.replying import HELD, WAITS, receipt, replying
from tests.storing import row_of
from tests.waiting import PATIENCE_SECONDS, in_time

pytestmark = pytest.mark.any_server


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


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
