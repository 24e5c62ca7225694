"""What a receiver says of itself: health, figures, hints."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

import hookd
from chassis.database import Connection, Database
from chassis.embedded import Embedded
from chassis.settings import CommonSettings
from hookd.configuration import Configuration
from hookd.replying.replier import Replier
from hookd.store import Store
from ingest.replying import Make
from ingest.settings import IngestSettings
from migrations.upgrade import upgrade
from processor.handling.dispatch import Dispatch
from processor.settings import ProcessorSettings
from rig.postgres import connected
from tests.commands import Hookd
from tests.databases import execute, server_parent
from tests.receiving import Local, a_listener, hookd_ingest, receiving
from tests.replying import a_reply
from tests.sending import Sender, head, post
from tests.storing import refused, stored
from tests.waiting import LOOKS_SECONDS, PATIENCE_SECONDS, in_time

any_server = pytest.mark.any_server


@pytest.mark.any_server
@pytest.mark.parametrize(("page", "said"), [("/-/live", {"live": True}), ("/-/ready", {"ready": True})])
async def test_health_is_asked_with_get_or_head(receiver: Local, page: str, said: dict[str, bool]) -> None:
    """200 in JSON, whatever the query; the body only for GET; on a connection that stays."""
    sender = await receiver.sender()
    for method, target in (("GET", page), ("HEAD", page), ("GET", f"{page}?x=1")):
        await sender.send(head(target, method=method))
        answer = await sender.answer(to_head=method == "HEAD")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.body == b"" if method == "HEAD" else json.loads(answer.body) == said
    refused = await receiver.post(page)
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.any_server
async def test_there_are_no_other_pages(receiver: Local, table: Connection) -> None:
    """404, for any method: below /-/ is no source."""
    for method in ("GET", "POST"):
        assert (await refused(receiver, table, head("/-/nothing", method=method))).status == 404


async def test_who_may_not_insert_is_not_ready(database_url: str, connection: Connection) -> None:
    """A COPY of no rows tells, and nothing need be stored to find out."""
    await connection.execute("REVOKE INSERT ON hookd.events FROM hookd_receiver")
    async with receiving(database_url + "&role=hookd_receiver", commit_timeout_seconds=0.2) as receiver:
        assert (await receiver.get("/-/ready")).status == 503
        assert (await receiver.get("/-/live")).status == 200
        assert (await receiver.post()).status == 503
        await connection.execute("SELECT hookd.make_roles()")
        await receiver.get_until(200, "/-/ready")
        assert (await receiver.post()).status == 200
    assert await stored(connection) == 1


async def test_each_commit_is_hinted(database_url: str, connection: Connection) -> None:
    """The first at once, and always one after the last: what listens finds the row there."""
    hints: asyncio.Queue[object] = asyncio.Queue()
    await connection.add_listener("hookd", lambda *_: hints.put_nowait(None))
    async with receiving(database_url) as receiver:
        sender = await receiver.sender()
        for count in (1, 2):
            await sender.send(post())
            assert (await sender.answer()).status == 200
            async with asyncio.timeout(1.0):
                await hints.get()
            assert await stored(connection) == count
    await connection.reset()


async def test_hints_are_at_least_10_ms_apart(database_url: str, connection: Connection) -> None:
    """Under load one stands for many commits."""
    hints: asyncio.Queue[object] = asyncio.Queue()
    await connection.add_listener("hookd", lambda *_: hints.put_nowait(None))
    clock = asyncio.get_running_loop().time
    async with receiving(database_url) as receiver:
        began = clock()
        sender = await receiver.sender()
        for _ in range(100):
            await sender.send(post())
            assert (await sender.answer()).status == 200
        took = clock() - began
    await connection.fetchval("SELECT 1")  # what was sent until now has arrived with its answer
    assert 1 <= hints.qsize() <= took / 0.010 + 2
    await connection.reset()


@pytest.fixture
def narrow_url() -> Iterator[str]:
    """A migrated database on a server whose queue of notifications is soon full."""
    with tempfile.TemporaryDirectory(dir=server_parent(), ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        embedded = Embedded(Path(name) / "data")
        with embedded.serve() as url:
            database = Database(url)
            upgrade(lambda: database.connect("migrate"), lambda: None)
            asyncio.run(execute(url, "ALTER SYSTEM SET max_notify_queue_pages = 64"))
        with embedded.serve() as url:
            yield url


async def test_a_full_queue_of_hints_costs_no_event(narrow_url: str) -> None:
    """Where the server takes no more notifications all is stored and answered, and hinted again once it takes some."""
    async with connected(narrow_url) as listener, connected(narrow_url) as other:
        await listener.execute("LISTEN other")
        await listener.execute("BEGIN; SELECT 1")
        with pytest.raises(asyncpg.ProgramLimitExceededError):
            await other.execute("SELECT pg_notify('other', repeat('x', 7900) || n) FROM generate_series(1, 1000) AS n")
        heard = asyncio.Event()
        with capture_logs() as logs:
            async with receiving(narrow_url) as receiver:
                await receiver.get_until(200, "/-/ready")
                for _ in range(3):
                    assert (await receiver.post()).status == 200
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        while "hints.refused" not in {line["event"] for line in logs}:  # noqa: ASYNC110 - a log tells nobody
                            await asyncio.sleep(LOOKS_SECONDS)
                assert await stored(other) == 3
                replay = Store(Database(narrow_url), "replay")
                await replay.hint()
                await replay.close()
                await listener.execute("ROLLBACK; UNLISTEN *")
                await other.add_listener("hookd", lambda *_: heard.set())
                assert (await receiver.post()).status == 200
                await asyncio.wait_for(heard.wait(), PATIENCE_SECONDS)
        assert [line["event"] for line in logs].count("hints.refused") == 1


@any_server
async def test_a_receiver_shows_its_figures(database_url: str, connection: Connection) -> None:
    """Worker 1 on the port after HOOKD_METRICS_PORT; sources beyond a hundred are `other`."""
    with a_listener() as free:
        port = free.getsockname()[1]
    async with hookd_ingest(database_url, metrics_port=port - 1) as receiver:
        sender = await receiver.sender()
        for number in range(102):
            await sender.send(post(f"/source-{number}", b"12345"))
            assert (await sender.answer()).status == 200
        assert (await receiver.post("/Nobody")).status == 400

        async def figures() -> dict[str, float]:
            shown = await Sender.to(port)
            receiver.senders.append(shown)
            await shown.send(head("/metrics", [(b"Connection", b"close")], method="GET"))
            lines = (await shown.rest()).decode().partition("\r\n\r\n")[2].splitlines()
            return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

        shown = await in_time(figures, lambda figures: figures["hookd_received_bytes_total"] == 510, 5.0)
    assert shown['hookd_received_total{source="source-0"}'] == 1
    assert shown['hookd_received_total{source="source-99"}'] == 1
    assert shown['hookd_received_total{source="other"}'] == 2
    assert shown['hookd_refused_total{reason="no_source",status="400"}'] == 1
    assert shown['hookd_commit_waiting{lane="small"}'] == 0
    assert 1 <= shown['hookd_commit_batches_total{lane="small"}'] <= 102


async def test_what_happens_often_is_a_number_in_the_log(database_url: str, connection: Connection) -> None:
    """Of refusals of a kind the first is a line; how many there were, and how much was stored, one for all."""
    with capture_logs() as lines:
        async with receiving(database_url) as receiver:
            for target, status in (("/demo", 200), ("/Demo", 400), ("/-/nothing", 404)):
                for _ in range(3):
                    assert (await receiver.post(target)).status == status
    assert [line["status"] for line in lines if line["event"] == "webhook.refused"] == [400, 404]
    [summary] = [line for line in lines if line["event"] == "ingest.summary"]
    assert summary.items() >= {"stored": 3, "refused": 6, "no_source": 3, "no_page": 3}.items()
    assert await stored(connection) == 3


class Broken(Replier):
    """A part of the receiver that has an error."""

    def replies(self, source: str, method: str, target: str) -> bool:
        raise ZeroDivisionError


async def test_an_error_of_its_own_is_500(database: Database, connection: Connection) -> None:
    """In JSON as every refusal; what broke is for the log alone, and the connection ends."""

    async def reply(event: hookd.Event) -> None: ...

    def make(common: CommonSettings, ingest: IngestSettings) -> Make:
        configuration = Configuration(common, ingest, ProcessorSettings())
        return partial(Broken, configuration, database, Dispatch([a_reply(reply)]), 1)

    with capture_logs() as lines:
        async with receiving(database, replying=make) as receiver:
            answer = await refused(receiver, connection, post())
    assert (answer.status, answer.closes, "ZeroDivision" in answer.error) == (500, True, False)
    [broke] = [line for line in lines if line["event"] == "request.broke"]
    assert isinstance(broke["exc_info"], ZeroDivisionError)


def test_a_parser_with_other_verdicts_is_refused(tmp_path: Path) -> None:
    """aiohttp's own in Python takes other bytes for a request: no start, and a line that says what to do."""
    without = Hookd(tmp_path, {"HOOKD_DATABASE_URL": "postgresql://127.0.0.1:1/nowhere", "AIOHTTP_NO_EXTENSIONS": "1"})
    with without.start("ingest", "--port", "0") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("Error: aiohttp runs on its pure-Python parser: ")
    assert err.count("\n") == 1
