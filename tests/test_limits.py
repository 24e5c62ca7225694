"""What a sender may cost: time, bytes, connections; each limit from both sides."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from chassis.database import Connection
from chassis.sockets import raise_open_files_limit
from ingest.connection import Server, answer_bytes
from tests.breaking import locked
from tests.needs import needs
from tests.receiving import Local, a_listener, hookd_ingest, receiving
from tests.sending import KIB, MIB, Sender, chunked, cut, head, one_by_one, post
from tests.storing import refused, row_of, stored
from tests.waiting import PATIENCE_SECONDS

HEAD_BYTES_MAX = 64 * KIB
PROC = Path("/proc/self/status")
any_server = pytest.mark.any_server
reads_memory = needs(PROC.exists(), "reads a process's memory from /proc")


@pytest.fixture(scope="module")
async def small(url: str) -> AsyncIterator[Local]:
    """A receiver that takes bodies of 1 KiB."""
    async with receiving(url, body_bytes_max=KIB) as receiver:
        yield receiver


@any_server
@pytest.mark.parametrize(("size", "status"), [(KIB - 1, 200), (KIB, 200), (KIB + 1, 413), (100 * KIB, 413)])
async def test_a_body_over_the_limit_is_413(small: Local, table: Connection, size: int, status: int) -> None:
    """By its announced length and by its chunks, whole and one byte at a time."""
    body = b"a" * size
    before = await stored(table)
    for whole in (post("/demo", body), chunked("/demo", [body]), chunked("/demo", one_by_one(body)[: 2 * KIB])):
        assert (await small.ask(whole)).status == status
        assert (await small.ask(*one_by_one(whole)[: 3 * KIB], whole[3 * KIB :])).status == status
    assert await stored(table) == before + (6 if status == 200 else 0)


@pytest.mark.any_server
async def test_an_announced_length_over_the_limit_is_refused_before_the_body(small: Local) -> None:
    """Nothing of it need be sent."""
    assert (await small.ask(head("/demo", [(b"Content-Length", b"%d" % (KIB + 1))]))).status == 413
    assert (await small.ask(head("/demo", [(b"Content-Length", b"9" * 18)]))).status == 413


@pytest.mark.any_server
async def test_too_many_chunks_are_refused_before_the_last(small: Local) -> None:
    """A body without end is refused while it comes."""
    never_ending = head("/demo", [(b"Transfer-Encoding", b"chunked")]) + b"200\r\n" + b"a" * 512 + b"\r\n"
    more = b"1ff\r\n" + b"a" * 511 + b"\r\n"
    sender = await small.sender()
    await sender.send(never_ending, more, b"1\r\na\r\n")
    await sender.send(b"1\r\na\r\n")
    assert (await sender.answer()).status == 413


@pytest.mark.any_server
@pytest.mark.parametrize(
    ("whole", "status"),
    [
        (post("/demo", b"a" * 2 * MIB), 413),
        (chunked("/demo", [b"a" * 16 * KIB] * 128), 413),
        (post("/Demo", b"a" * 2 * MIB), 400),
    ],
    ids=["by length", "in chunks", "for what it asks"],
)
async def test_a_refused_body_is_read_on_until_its_sender_has_the_answer(
    small: Local, whole: bytes, status: int
) -> None:
    """One answer, whatever of the body is still on its way: none of it is taken for another head."""
    sender = await small.sender()
    await sender.send(*cut(whole, range(0, len(whole), 32 * KIB)))
    assert (await sender.answer()).status == status
    assert await sender.rest() == b""


EXPECT = [(b"Expect", b"100-Continue")]


@pytest.mark.any_server
@pytest.mark.parametrize(
    "whole",
    [post("/demo", b"abc", EXPECT), chunked("/demo", [b"abc"], EXPECT)],
    ids=["by length", "in chunks"],
)
async def test_expect_100_continue_is_answered_once_the_head_is_accepted(
    small: Local, table: Connection, whole: bytes
) -> None:
    """The body is asked for, then stored."""
    read, end, body = whole.partition(b"\r\n\r\n")
    sender = await small.sender()
    await sender.send(read + end)
    assert await sender.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await sender.send(body)
    assert (await row_of(table, await sender.answer()))["payload"] == b"abc"


@pytest.mark.any_server
@pytest.mark.parametrize(
    ("target", "length", "status"), [("/demo", KIB + 1, 413), ("/Demo", 3, 400), ("/demo#x", 3, 400)]
)
async def test_a_refused_head_is_not_told_to_continue(small: Local, target: str, length: int, status: int) -> None:
    """The first answer is the refusal, and no body need be sent."""
    answer = await small.ask(head(target, [(b"Content-Length", b"%d" % length), (b"Expect", b"100-continue")]))
    assert (answer.status, answer.closes) == (status, True)


@pytest.mark.any_server
async def test_an_http_1_0_client_is_not_told_to_continue(small: Local) -> None:
    """It would take that for the answer."""
    sender = await small.sender()
    await sender.send(head("/demo", [(b"Content-Length", b"3"), (b"Expect", b"100-continue")], version="1.0"))
    await small.post()  # by now the head was read
    await sender.send(b"abc")
    assert (await sender.answer()).status == 200


def a_head_of(size: int, lines: int = 10) -> bytes:
    """A request without a body, so many bytes long."""
    bare = head("/demo", [(b"Content-Length", b"0")])
    room = size - len(bare)
    sizes = [room // lines] * (lines - 1) + [room - room // lines * (lines - 1)]
    whole = head("/demo", [(b"X", b"a" * (each - 5)) for each in sizes] + [(b"Content-Length", b"0")])
    assert len(whole) == size
    return whole


@any_server
@pytest.mark.parametrize(
    ("size", "status"), [(HEAD_BYTES_MAX, 200), (HEAD_BYTES_MAX + 3, 431), (10 * HEAD_BYTES_MAX, 431)]
)
async def test_a_head_over_64_kib_is_431(receiver: Local, table: Connection, size: int, status: int) -> None:
    """In one segment, trickled, and as the second on its connection; the empty line at its end may count or not."""
    whole = a_head_of(size, 11)
    for parts in ([whole], [*cut(whole[:-3], range(0, size, KIB)), *one_by_one(whole[-3:])]):
        before = await stored(table)
        assert (await receiver.ask(*parts)).status == status
        sender = await receiver.sender()
        await sender.send(post())
        assert (await sender.answer()).status == 200
        await sender.send(*parts)
        assert (await sender.answer()).status == status
        assert await stored(table) == before + (3 if status == 200 else 1)


@pytest.mark.any_server
async def test_a_single_line_over_64_kib_is_431(receiver: Local, table: Connection) -> None:
    """A header's or the target's: both are part of the head."""
    for whole in (head("/demo", [(b"X-Any", b"a" * 70 * KIB)]), head("/demo/" + "a" * 70 * KIB)):
        assert (await refused(receiver, table, whole)).status == 431


@pytest.mark.any_server
async def test_more_than_100_headers_are_431(receiver: Local) -> None:
    """Each costs far more than its bytes."""
    bare = head("/demo", [(b"X", b"")] * 99 + [(b"Content-Length", b"0")])
    assert (await receiver.ask(bare.replace(b"X: \r\n", b"", 1))).status == 200
    assert (await receiver.ask(bare)).status == 431


@any_server
async def test_what_comes_behind_a_request_waits_until_that_is_answered(
    database_url: str, connection: Connection
) -> None:
    """A head is bounded there as anywhere: in size, and from then on in time."""
    async with receiving(database_url, commit_timeout_seconds=10.0, head_timeout_seconds=0.2) as receiver:
        too_large, too_slow = [await receiver.sender() for _ in range(2)]
        async with locked(connection):
            parts = cut(a_head_of(10 * HEAD_BYTES_MAX, 50), range(0, 10 * HEAD_BYTES_MAX, 16 * KIB))
            sending = asyncio.create_task(too_large.send(post(), *parts))
            await too_slow.send(post(), head("/demo", [(b"X-Any", b"a")])[:-4])
            assert (await receiver.get("/-/live")).status == 200
        for sender, status in ((too_large, 431), (too_slow, 408)):
            assert (await sender.answer()).status == 200
            assert (await sender.answer()).status == status
        await sending
    assert await stored(connection) == 2


@any_server
async def test_a_slow_head_is_408(database_url: str, connection: Connection) -> None:
    """Whether it stands still or trickles, on a new connection or behind an answer; one that idles is left alone."""
    async with receiving(database_url, head_timeout_seconds=0.2) as receiver:
        still, trickling, second, idle, new = [await receiver.sender() for _ in range(5)]
        for used in (second, idle):
            await used.send(post())
            assert (await used.answer()).status == 200
        for begun in (still, trickling, second):
            await begun.send(head("/demo", [(b"X-Any", b"a")])[:-4])
        trickle = asyncio.create_task(slowly(trickling, one_by_one(b"a" * 1000), 0.05))
        for late in (still, trickling, second):
            answer = await late.answer()
            assert (answer.status, answer.closes) == (408, True)
            assert "head" in answer.error
            assert await late.rest() == b""
        trickle.cancel()
        for quiet in (idle, new):
            await quiet.send(post())
            assert (await quiet.answer()).status == 200
    assert await stored(connection) == 4


async def slowly(sender: Sender, parts: Sequence[bytes], seconds: float) -> None:
    """Send with a pause after each part, until the receiver hangs up."""
    with contextlib.suppress(OSError):
        for part in parts:
            await sender.send(part)
            await asyncio.sleep(seconds)


@any_server
async def test_a_body_that_stands_still_or_crawls_is_408(database_url: str, connection: Connection) -> None:
    """No progress for so long, or slower than 64 KiB/s over all; one that keeps that pace may take its time."""
    announced = [(b"Content-Length", b"%d" % MIB)]
    async with receiving(database_url, body_timeout_seconds=0.4) as receiver:
        still, crawling, in_chunks, steady = [await receiver.sender() for _ in range(4)]
        await still.send(head("/demo", announced) + b"a")
        await in_chunks.send(head("/demo", [(b"Transfer-Encoding", b"chunked")]) + b"5\r\nab")
        await crawling.send(head("/demo", announced))
        await steady.send(head("/demo", announced))
        crawl = asyncio.create_task(slowly(crawling, one_by_one(b"a" * 1000), 0.02))
        pace = asyncio.create_task(slowly(steady, [b"a" * 64 * KIB] * 16, 0.07))
        for late in (still, crawling, in_chunks):
            answer = await late.answer()
            assert (answer.status, answer.closes) == (408, True)
            assert "body" in answer.error
            late.close()
        assert len((await row_of(connection, await steady.answer()))["payload"]) == MIB
        await pace
        crawl.cancel()
    assert await stored(connection) == 1


async def taken(opened: socket.socket, size: int) -> int:
    """How much of so many bytes comes."""
    left = size
    async with asyncio.timeout(PATIENCE_SECONDS):
        while left and (received := await asyncio.get_running_loop().sock_recv(opened, min(left, MIB))):
            left -= len(received)
    return size - left


async def test_who_takes_no_answers_is_hung_up_on() -> None:
    """Not before they stood still for as long as a connection may idle; a slow sender gets the whole of its own."""
    size, loop = 16 * MIB, asyncio.get_running_loop()

    async def receive(_: web.BaseRequest) -> web.StreamResponse:
        return answer_bytes(200, b"a" * size, close=False)

    server = Server(receive, connections_max=10, refused=None)
    async with contextlib.AsyncExitStack() as leaving:
        leaving.push_async_callback(server.shutdown, 0.5)
        listener, deaf, slow = [
            leaving.enter_context(each) for each in (a_listener(), socket.socket(), socket.socket())
        ]
        leaving.callback((await loop.create_server(server, sock=listener)).close)
        for opened in (deaf, slow):
            opened.setblocking(False)
            await loop.sock_connect(opened, listener.getsockname())
            await loop.sock_sendall(opened, post())
            assert await taken(opened, KIB) == KIB
        for _ in range(2):
            server.sweep(10.0)
        assert await taken(slow, size * 3 // 4) == size * 3 // 4
        server.sweep(10.0, -1.0)
        assert await taken(slow, size // 4 - KIB) == size // 4 - KIB
        for _ in range(2):
            server.sweep(10.0, -1.0)
        with contextlib.suppress(ConnectionResetError):
            assert await taken(deaf, size - KIB) < size - KIB


def memory_kib(pid: int, name: str = "VmRSS") -> int:
    """What a process holds in memory, or (VmHWM) ever held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


@any_server
@reads_memory
@pytest.mark.parametrize(
    ("senders", "size", "lines", "kib_each"), [(1000, 800 * KIB, 100, 64), (1000, 60 * KIB, 95, 180)]
)
async def test_unfinished_heads_cost_little(
    database_url: str, senders: int, size: int, lines: int, kib_each: int
) -> None:
    """A thousand senders with heads without end are cut off; one below the limit costs a few times its bytes."""
    raise_open_files_limit()
    parts = cut(a_head_of(size, lines)[:-2], range(0, size, 32 * KIB))
    async with hookd_ingest(database_url, is_bare=True) as receiver:
        pid = receiver.hookd.process.pid
        before = memory_kib(pid)
        for sender in [await receiver.sender() for _ in range(senders)]:
            await sender.send(*parts)
        assert (await receiver.get("/-/live")).status == 200
        assert memory_kib(pid) - before <= senders * kib_each


@any_server
@reads_memory
async def test_an_upload_without_end_costs_no_memory(database_url: str, connection: Connection) -> None:
    """300 MB in chunks against a limit of 1 MiB: refused, and the process stays as small as it was."""
    async with hookd_ingest(database_url, is_bare=True, body_bytes_max=MIB) as receiver:
        pid = receiver.hookd.process.pid
        before = memory_kib(pid)
        sender = await receiver.sender()
        await sender.send(head("/demo", [(b"Transfer-Encoding", b"chunked")]))
        chunk = b"100000\r\n" + b"a" * MIB + b"\r\n"
        await sender.send(*[chunk] * 300)
        assert (await sender.answer()).status == 413
        assert memory_kib(pid, "VmHWM") - before < 8 * KIB
        assert (await receiver.post()).status == 200
    assert await stored(connection) == 1


@any_server
async def test_connections_over_the_limit_are_503(database_url: str) -> None:
    """Told when to come again; whoever is connected is served on, and who comes after one has left is served too."""
    async with receiving(database_url, connections_max=2) as receiver:
        first, second = [await receiver.sender() for _ in range(2)]
        for sender in (first, second):
            await sender.send(post())
            assert (await sender.answer()).status == 200
        over = await receiver.post()
        assert (over.status, over.closes) == (503, True)
        assert "retry-after" in over.headers
        assert "connections" in over.error
        await first.send(post())
        assert (await first.answer()).status == 200
        second.close()
        assert (await receiver.post_until(200)).status == 200


@any_server
async def test_far_too_many_connections_are_turned_away_before_they_say_anything(database_url: str) -> None:
    """503, and closed."""
    async with receiving(database_url, connections_max=1) as receiver:
        _, _, third = [await receiver.sender() for _ in range(3)]
        answer = await third.answer()
        assert (answer.status, answer.closes) == (503, True)
        assert await third.rest() == b""


@any_server
async def test_half_of_the_in_flight_budget_is_kept_for_small_bodies(database_url: str) -> None:
    """Bodies over 64 KiB share the other half, counted as they arrive; what a body held is given back at its end."""
    half = MIB
    async with receiving(database_url, inflight_bytes_max=2 * half, body_bytes_max=half) as receiver:
        greedy, unread = [await receiver.sender() for _ in range(2)]
        await unread.send(head("/demo", [(b"Content-Length", b"%d" % half)]))  # announced is not arrived
        await greedy.send(head("/demo", [(b"Content-Length", b"%d" % half)]))
        for _ in range(15):
            await greedy.send(b"a" * (half // 16))
            assert (await receiver.get("/-/live")).status == 200  # so that was read
        refused = await receiver.post("/demo", b"a" * (64 * KIB + 1))
        assert refused.status == 503
        assert "retry-after" in refused.headers
        assert "in flight" in refused.error
        assert (await receiver.post("/demo", b"a" * 64 * KIB)).status == 200
        greedy.close()
        assert (await receiver.post_until(200, body=b"a" * half)).status == 200


@pytest.mark.any_server
async def test_heads_beyond_the_ordinary_are_in_flight_too(database_url: str, connection: Connection) -> None:
    """Heads of 60 KiB, each kept three times over, leave room for eleven in 2 MiB; it is given back with the answer."""
    limits: dict[str, Any] = {"body_bytes_max": MIB, "inflight_bytes_max": 2 * MIB}
    async with receiving(database_url, commit_timeout_seconds=10.0, **limits) as receiver:
        for _ in range(2):
            async with locked(connection):
                asked = [asyncio.create_task(receiver.ask(a_head_of(60 * KIB))) for _ in range(12)]
                done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_SECONDS)
                assert [(await each).status for each in done] == [503]
            assert sorted([(await each).status for each in asked]) == [200] * 11 + [503]
    assert await stored(connection) == 22


@pytest.mark.any_server
async def test_bytes_are_in_flight_until_the_answer(database_url: str, connection: Connection) -> None:
    """Bodies that wait for their commit count: 2 MiB of them and no byte more."""
    limits: dict[str, Any] = {"body_bytes_max": MIB, "inflight_bytes_max": 2 * MIB}
    async with receiving(database_url, commit_timeout_seconds=10.0, **limits) as receiver:
        async with locked(connection):
            posts = [asyncio.create_task(receiver.post("/demo", b"a" * 64 * KIB)) for _ in range(33)]
            done, _ = await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_SECONDS)
            assert [(await each).status for each in done] == [503]
        assert sorted([(await each).status for each in posts]) == [200] * 32 + [503]
        assert (await receiver.post("/demo", b"a" * 64 * KIB)).status == 200
    assert await stored(connection) == 33
