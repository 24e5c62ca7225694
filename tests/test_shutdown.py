"""A receiver that is told to stop serves whoever is connected to the end; one that is killed takes nothing with it."""

import asyncio
import contextlib
import json
import signal
import time

import pytest

from chassis.database import Connection
from rig.load import Load
from tests.receiving import Receiver, Remote, hookd_ingest, receiving
from tests.sending import Sender, chunked, head, post
from tests.storing import row_of, stored
from tests.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]


async def served(receiver: Receiver) -> Sender:
    """A sender whose first request was answered, and whose connection stays."""
    sender = await receiver.sender()
    await sender.send(post())
    answer = await sender.answer()
    assert (answer.status, answer.closes) == (200, False)
    return sender


async def told_to_stop(receiver: Remote) -> None:
    """Return once it has heard, while somebody is connected."""
    receiver.signal(signal.SIGTERM)
    await receiver.hookd.logged("ingest.stopping")


async def nobody_listens(receiver: Receiver) -> None:
    """Return once it has heard, while somebody is connected."""
    with contextlib.suppress(ConnectionRefusedError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                (await receiver.sender()).close()


async def test_open_connections_are_served_to_their_end(database_url: str, connection: Connection) -> None:
    """After SIGTERM a request on one is stored, its answer says Connection: close; then the process exits with 0."""
    async with hookd_ingest(database_url) as receiver:
        used, unused = await served(receiver), await receiver.sender()
        await receiver.get("/-/live")  # so that both were accepted
        await told_to_stop(receiver)
        for sender in (used, unused):
            await sender.send(post("/late", b"late"))
            answer = await sender.answer()
            assert (await row_of(connection, answer))["payload"] == b"late"
            assert answer.closes
            assert await sender.rest() == b""
        assert await receiver.hookd.ended() == 0
    assert await stored(connection) == 3


async def test_an_upload_in_flight_is_finished_and_stored(database_url: str, connection: Connection) -> None:
    """Its head came before SIGTERM, its body after."""
    async with hookd_ingest(database_url) as receiver:
        announced, in_chunks = await receiver.sender(), await receiver.sender()
        whole, parts = post("/demo", b"a" * 100_000), chunked("/demo", [b"a" * 50_000] * 2)
        await announced.send(whole[:1000])
        await in_chunks.send(parts[:1000])
        await receiver.get("/-/live")
        await told_to_stop(receiver)
        await announced.send(whole[1000:])
        await in_chunks.send(parts[1000:])
        for sender in (announced, in_chunks):
            answer = await sender.answer()
            assert (await row_of(connection, answer))["payload"] == b"a" * 100_000
            assert answer.closes
        assert await receiver.hookd.ended() == 0


async def test_who_comes_after_sigterm_finds_nobody(database_url: str) -> None:
    """It listens no more: another receiver may take the port."""
    async with hookd_ingest(database_url) as receiver:
        sender = await served(receiver)
        await told_to_stop(receiver)
        with pytest.raises(ConnectionRefusedError):
            await receiver.sender()
        sender.close()
        assert await receiver.hookd.ended() == 0


async def test_it_is_alive_but_not_ready_while_it_stops(database_url: str) -> None:
    """So that whoever balances the load sends no more; refusals close the connection too."""
    async with receiving(database_url) as receiver:
        senders = [await served(receiver) for _ in range(4)]
        receiver.stop()
        await nobody_listens(receiver)
        asked = ["/-/live", "/-/ready", "/-/nothing", "/demo"]
        for sender, page in zip(senders, asked, strict=True):
            await sender.send(head(page, method="GET"))
        answers = [await sender.answer() for sender in senders]
        assert [answer.status for answer in answers] == [200, 503, 404, 405]
        assert all(answer.closes for answer in answers)
        assert json.loads(answers[1].body) == {"ready": False, "error": "stopping"}


async def test_pipelined_requests_behind_the_last_answer_are_not_served(
    database_url: str, connection: Connection
) -> None:
    """The sender knows from Connection: close that they were not, and sends them again."""
    async with receiving(database_url) as receiver:
        sender = await served(receiver)
        receiver.stop()
        await nobody_listens(receiver)
        await sender.send(post() + post() + post())
        assert (await sender.answer()).closes
        assert await sender.rest() == b""
        await receiver.ended
    assert await stored(connection) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_without_connections_it_exits_at_once(database_url: str, number: signal.Signals) -> None:
    """With 0, and PostgreSQL hears a goodbye."""
    async with hookd_ingest(database_url) as receiver:
        assert (await receiver.post()).status == 200
        began = time.monotonic()
        receiver.signal(number)
        assert await receiver.hookd.ended() == 0
        assert time.monotonic() - began < 3
        assert receiver.hookd.lines[-1]["event"] == "ingest.stopped"


async def test_connections_that_never_end_are_cut_when_the_grace_does(database_url: str) -> None:
    """HOOKD_GRACE_SECONDS after SIGTERM, idle or in the middle of a body; exit 0 all the same."""
    async with hookd_ingest(database_url, grace_seconds=0.5) as receiver:
        idle, stuck = await served(receiver), await receiver.sender()
        await stuck.send(post("/demo", b"abc")[:-1])
        await receiver.get("/-/live")
        began = time.monotonic()
        await told_to_stop(receiver)
        assert await idle.rest() == b""
        assert b"200 OK" not in await stuck.rest()
        assert await receiver.hookd.ended() == 0
        assert 0.5 <= time.monotonic() - began < 5


async def test_a_second_signal_ends_it_at_once(database_url: str) -> None:
    """Whoever presses Ctrl-C twice waits for nobody."""
    async with hookd_ingest(database_url) as receiver:
        await served(receiver)
        await told_to_stop(receiver)
        began = time.monotonic()
        receiver.signal(signal.SIGINT)
        assert await receiver.hookd.ended() == 0
        assert time.monotonic() - began < 5


async def test_workers_are_replaced_one_by_one_and_no_request_is_lost(
    database_url: str, connection: Connection
) -> None:
    """SIGHUP under load: each successor listens before its predecessor stops; every request is answered 200."""
    async with hookd_ingest(database_url, workers=2) as receiver:
        load, stop = Load(f"http://127.0.0.1:{receiver.port}", senders=4), asyncio.Event()
        loading = asyncio.create_task(load.run_until(stop))
        receiver.signal(signal.SIGHUP)
        await receiver.hookd.logged("ingest.stopped", 2)
        stop.set()
        await loading
        receiver.signal(signal.SIGTERM)
        assert await receiver.hookd.ended() == 0
    assert (set(load.statuses), load.cut) == ({200}, 0)
    await load.assert_stored(connection)


async def test_workers_end_with_their_supervisor(database_url: str, connection: Connection) -> None:
    """Killed with -9 it tells nobody; its workers notice, serve open connections to the end, and leave."""
    async with hookd_ingest(database_url, workers=2) as receiver:
        sender = await served(receiver)
        receiver.hookd.kill()
        await receiver.hookd.logged("ingest.stopping")
        await sender.send(post("/late"))
        answer = await sender.answer()
        await row_of(connection, answer)
        assert answer.closes
        assert await receiver.hookd.ended() == -signal.SIGKILL  # heard when the last of them has gone
        with pytest.raises(ConnectionRefusedError):
            await receiver.sender()
