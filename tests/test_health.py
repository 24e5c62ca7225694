"""What a receiver says of itself: health, figures, hints."""

import asyncio
import json

import pytest

from chassis.database import Connection
from tests.receiving import Local, a_listener, hookd_ingest, receiving
from tests.sending import Sender, head, post
from tests.storing import refused, stored
from tests.waiting import in_time

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
