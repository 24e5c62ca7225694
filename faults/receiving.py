"""The receiver dies, is stopped, is restarted; senders are slow, endless, many, wrong, or gone."""

import asyncio
import itertools
import resource
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from chassis.sockets import raise_open_files_limit
from faults.case import case
from faults.scene import Scene, kill, workers_of
from faults.senders import Answer, Sender, chunk, chunked, crowd, head, nginx, post, statuses
from rig.hookd import Hookd
from rig.load import SOURCE, Load, body_of
from rig.postgres import connected
from rig.processes import free_port

KIB, MIB = 1024, 1024 * 1024
PATIENCE_SECONDS = 30.0
PACE_SECONDS = 0.01  # of a load that shall be beside something, and not take the machine from it
WRONG = 8  # a sender's number that no sender of a load has
UPLOAD = 20  # the number of the first body of several: from here on each is more than 600 bytes
HEADS_MIB_MAX = 350  # the parser keeps a head about three times: 1,000 of 64 KiB, and 70 MiB for the receiver itself
ANY = "SELECT count(*) FROM hookd.events"
COPIES = "SELECT count(*) FROM hookd.events WHERE payload = ANY($1)"
LOCK = "LOCK TABLE hookd.events IN ACCESS EXCLUSIVE MODE"


def patient(scene: Scene, *arguments: str, **settings: Any) -> AbstractAsyncContextManager[Hookd]:
    """A receiver whose commits may take long: here a 503 is a fault, and a busy machine shall not be taken for one."""
    return scene.ingest(*arguments, commit_timeout_seconds="20", **settings)


async def url_of(receiver: Hookd) -> str:
    url: str = (await receiver.logged("ingest.listening"))["url"]
    return url


def load_on(scene: Scene, url: str, source: str = SOURCE, pause_seconds: float = PACE_SECONDS) -> Load:
    """A load for whoever listens there, now and later; or, for another source, an account of what a case sends."""
    load = Load(url, pause_seconds=pause_seconds, source=source, timeout_seconds=PATIENCE_SECONDS)
    scene.loads.append(load)
    return load


@asynccontextmanager
async def beside_a_load(scene: Scene, receiver: Hookd, count: int = 100) -> AsyncIterator[Load]:
    """A load runs, and every POST of it is answered with 200: some before the block ends, and some after."""
    load = load_on(scene, await url_of(receiver))
    async with load.running():
        await load.more(count)
        yield load
        await load.more(count)
    assert set(load.statuses) == {200}, f"the load beside was answered {dict(load.statuses)}"
    assert load.cut == 0, f"{load.cut} POSTs of the load beside were cut"


class Uploads:
    """Bodies that come slowly: all of them begun, and ended when told. What is answered with 200 must be stored."""

    def __init__(self, scene: Scene, url: str, senders: Sequence[Sender]) -> None:
        self._load = load_on(scene, url, source="crowd")
        self._numbered = [(each, (len(scene.loads), UPLOAD + place)) for place, each in enumerate(senders)]

    async def begin(self) -> None:
        for sender, number in self._numbered:
            body = body_of(*number)
            invited = await sender.ask(head(b"Content-Length: %d" % len(body), b"Expect: 100-continue") + b"\r\n")
            assert invited.status == 100, f"an upload was answered {invited}"
            await sender.send(body[:100])

    async def end(self) -> None:
        for sender, number in self._numbered:
            answer = await sender.ask(body_of(*number)[100:])
            assert answer.status == 200, f"an upload that was begun in time was answered {answer}"
            self._load.answered[answer.id] = number


@asynccontextmanager
async def uploading(scene: Scene, url: str, count: int = 8) -> AsyncIterator[Uploads]:
    """So many uploads, all begun: the receiver has read their heads."""
    async with crowd(url, count) as senders:
        uploads = Uploads(scene, url, senders)
        await uploads.begin()
        yield uploads


# --- it dies


@case(
    "one of two receiver workers is killed with -9 under load, three times",
    caught=("answer-before-commit",),
    is_short=True,
)
async def worker_killed(scene: Scene) -> None:
    async with scene.ingest("--workers", "2") as receiver:
        await receiver.logged("ingest.listening", 2)
        load = await scene.load(receiver)
        async with load.running():
            for number in range(3):
                await load.more(200)
                kill(workers_of(receiver)[0])
                await receiver.logged("ingest.listening", 3 + number)
            await load.more(200)
        assert await receiver.stop() == 0, "the supervisor did not exit with 0"
    scene.note("POSTs cut", load.cut)
    await scene.settle_all()


@case(
    "the receiver's supervisor is killed with -9 under load; its workers end, and a new one takes the port",
    caught=("outlive-the-supervisor",),
)
async def supervisor_killed(scene: Scene) -> None:
    command = ("--port", str(free_port()), "--workers", "2")
    async with scene.ingest(*command) as first:
        await first.logged("ingest.listening", 2)
        load = load_on(scene, await url_of(first))
        async with load.running(), uploading(scene, await url_of(first)) as uploads:
            await load.more(200)
            first.kill()
            try:
                await first.logged("ingest.stopping")
                await uploads.end()
                await first.ended()
            finally:
                for pid in workers_of(first):
                    kill(pid)
            async with scene.ingest(*command) as second:
                await load.more(200)
                assert await second.stop() == 0, "the supervisor did not exit with 0"
    scene.note("POSTs cut or refused in between", load.cut)
    await scene.settle_all()


@case(
    "supervisor, workers, processor and PostgreSQL are killed with -9 at one moment under load, twice",
    caught=("answer-before-commit", "process-without-handling"),
    twice="a process was killed",
    seconds_max=120,
)
async def everything_killed(scene: Scene) -> None:
    command = ("--port", str(free_port()), "--workers", "2")
    load = load_on(scene, f"http://127.0.0.1:{command[1]}", pause_seconds=0)
    async with load.running():
        for _ in range(2):
            async with scene.ingest(*command) as receiver, scene.processor(lease_seconds="3") as processor:
                await receiver.logged("ingest.listening", 2)
                await load.more(300)
                victims = [receiver.process.pid, processor.process.pid, scene.server.pid, *workers_of(receiver)]
                scene.random.shuffle(victims)
                for pid in victims:
                    kill(pid)
                scene.server.kill()
            await scene.server.start()
        async with scene.ingest(*command) as receiver:
            await load.more(300)
            assert await receiver.stop() == 0, "the supervisor did not exit with 0"
    await scene.settle_all()


# --- it is stopped and restarted


@case(
    "SIGTERM to the receiver when it is idle, under load, in the middle of a slow upload, and twice",
    caught=("leave-at-once",),
)
async def receiver_terminated(scene: Scene) -> None:
    port = str(free_port())
    async with scene.ingest("--port", port) as receiver:
        assert await receiver.stop() == 0, "idle, it did not exit with 0"
    load = load_on(scene, f"http://127.0.0.1:{port}")
    async with load.running():
        for stop in (_by_its_load, _in_mid_upload, _in_a_hurry):
            async with scene.ingest("--port", port, grace_seconds="60") as receiver:
                await load.more(100)
                await stop(scene, receiver)
    scene.note("POSTs refused in between", load.cut)
    await scene.settle_all()


async def _by_its_load(_: Scene, receiver: Hookd) -> None:
    assert await receiver.stop() == 0, "under load, it did not exit with 0"


async def _in_mid_upload(scene: Scene, receiver: Hookd) -> None:
    async with uploading(scene, await url_of(receiver)) as uploads:
        receiver.process.send_signal(signal.SIGTERM)
        await receiver.logged("ingest.stopping")
        await uploads.end()
        assert await receiver.ended() == 0, "after an upload, it did not exit with 0"


async def _in_a_hurry(scene: Scene, receiver: Hookd) -> None:
    async with uploading(scene, await url_of(receiver)):
        receiver.process.send_signal(signal.SIGTERM)
        await receiver.logged("ingest.stopping")
        receiver.process.send_signal(signal.SIGTERM)
        assert await receiver.ended() == 0, "told twice, it did not exit with 0"


@case(
    "five rolling restarts (SIGHUP) of two workers under load: every POST must be answered with 200",
    caught=("leave-at-once",),
    seconds_max=120,
)
async def rolling_restarts_direct(scene: Scene) -> None:
    async with patient(scene, "--workers", "2") as receiver:
        await _restart_five_times(scene, receiver, await url_of(receiver))
    await scene.settle_all()


@case(
    "five rolling restarts (SIGHUP) of two workers under load through nginx: none is lost, or sent twice",
    caught=("leave-at-once",),
    seconds_max=120,
)
async def rolling_restarts_through_nginx(scene: Scene) -> None:
    folder = scene.folder / "nginx"
    folder.mkdir()
    async with (
        patient(scene, "--workers", "2", trusted_proxies="127.0.0.1") as receiver,
        nginx(folder, await url_of(receiver)) as url,
    ):
        await _restart_five_times(scene, receiver, url)
        again = (folder / "hookd.log").read_text().count('"upstream_status":"502')
        assert again == 0, f"nginx had to send {again} POSTs a second time"
    await scene.settle_all()


async def _restart_five_times(scene: Scene, receiver: Hookd, url: str) -> None:
    load = load_on(scene, url)
    async with load.running():
        for restart in range(1, 6):
            await load.more(100)
            receiver.process.send_signal(signal.SIGHUP)
            await receiver.logged("child.stopped", 2 * restart)
        await load.more(100)
    assert set(load.statuses) == {200}, f"POSTs were answered {dict(load.statuses)}"
    assert load.cut == 0, f"{load.cut} POSTs were cut or refused"
    assert await receiver.stop() == 0, "the supervisor did not exit with 0"


# --- its senders are wrong, slow, endless, many, gone


@case(
    "requests of all kinds that must be refused with a 4xx, among good ones",
    caught=("store-4xx", "no-body-limit"),
    is_short=True,
)
async def refused_is_not_stored(scene: Scene) -> None:
    async with patient(scene, body_bytes_max=str(4 * KIB)) as receiver:
        url, told = await url_of(receiver), []
        async with beside_a_load(scene, receiver) as load:
            for number in range(10):
                load.refused.add((WRONG, number))
                told += [await _asked(url, request) for request in _wrong(body_of(WRONG, number))]
        assert await receiver.stop() == 0, "the receiver did not exit with 0"
    async with connected(scene.url) as connection:
        stored = await connection.fetchval(ANY)
    scene.note("wrong ones", _in_words(statuses(told)))
    assert stored == len(load.answered), f"{stored} rows for {len(load.answered)} answers of 200"
    await scene.settle_all()


async def _asked(url: str, request: bytes) -> Answer:
    sender = await Sender.to(url)
    try:
        answer = await sender.ask(request)
    finally:
        sender.leave()
    assert 400 <= answer.status < 500, f"{request[:60]!r} was answered {answer}"
    return answer


def _wrong(body: bytes) -> Iterator[bytes]:
    """Each breaks one rule; the rest of it is as it should be, and is for the load's own source."""
    target, length = f"/{SOURCE}", b"Content-Length: %d" % len(body)
    good = post(body, target)
    for name in ("/", "/Load", "//load", "/l%6fad", "/-load", f"/{'l' * 65}", "/load#fragment"):
        yield post(body, name)
    for method in ("PUT", "PATCH", "DELETE", "load"):
        yield post(body, target, method)
    yield post(body + bytes(4 * KIB), target)
    yield chunked([body, bytes(4 * KIB)], target)
    yield chunked([body, body], target).replace(b"0\r\n\r\n", b"x\r\n\r\n")
    yield head(length, b"Content-Length: 0", target=target) + b"\r\n" + good
    yield head(length, b"Transfer-Encoding: chunked", target=target) + b"\r\n0\r\n\r\n" + good
    yield head(b"Transfer-Encoding: gzip, chunked", target=target) + b"\r\n" + chunk(body) + b"0\r\n\r\n"
    yield head(length, b"X-Folded: a\r\n b", target=target) + b"\r\n" + body
    yield head(length, b"X-Any: " + b"a" * 70 * KIB, target=target) + b"\r\n" + body
    yield good.replace(b"\r\n", b"\n")


@case(
    "1,000 senders that trickle a byte at a time, half of them heads, half bodies, beside a load",
    caught=("no-body-timeout", "no-head-timeout"),
    seconds_max=120,
)
async def slow_clients(scene: Scene) -> None:
    async with patient(scene, head_timeout_seconds="3", body_timeout_seconds="3") as receiver:
        url = await url_of(receiver)
        begun = (head(), head(b"Content-Length: 1000") + b"\r\n")
        async with (
            scene.watched(receiver, 150),
            crowd(url, 1000) as senders,
            beside_a_load(scene, receiver),
            asyncio.timeout(PATIENCE_SECONDS),
        ):
            pieces = (itertools.chain([each], itertools.repeat(b"a")) for each in itertools.cycle(begun))
            trickles = [sender.tell(piece, 0.5) for sender, piece in zip(senders, pieces, strict=False)]
            told = statuses(await asyncio.gather(*trickles))
        scene.note("slow ones", _in_words(told))
        assert set(told) <= {0, 408}, f"slow senders were answered {dict(told)}"
        assert await receiver.stop() == 0, "the receiver did not exit with 0"
    await scene.settle_all()


@case(
    "1,000 senders whose heads never end, beside a load",
    caught=("no-head-limit",),
    seconds_max=120,
)
async def endless_heads(scene: Scene) -> None:
    async with patient(scene) as receiver:
        url = await url_of(receiver)
        async with (
            scene.watched(receiver, HEADS_MIB_MAX),
            crowd(url, 1000) as senders,
            beside_a_load(scene, receiver),
            asyncio.timeout(PATIENCE_SECONDS),
        ):
            line = b"X-Any: " + b"a" * (6 * KIB - 9) + b"\r\n"
            for sender in senders:
                await sender.send(head() + line * 10)
            endless = [sender.tell(itertools.repeat(line, 70)) for sender in senders]
            told = statuses(await asyncio.gather(*endless))
        scene.note("endless ones", _in_words(told))
        assert set(told) <= {0, 408, 431}, f"endless heads were answered {dict(told)}"
        assert told[431], "no endless head was told that it is too large"
        assert await receiver.stop() == 0, "the receiver did not exit with 0"
    await scene.settle_all()


@case(
    "11 uploads of 25 MiB that stall at their last byte, beside a load of small ones",
    caught=("no-inflight-budget", "no-share-for-small-bodies", "no-body-timeout"),
    seconds_max=120,
)
async def stalled_uploads(scene: Scene) -> None:
    async with patient(scene) as receiver:
        url = await url_of(receiver)
        begun = (head(b"Content-Length: %d" % (25 * MIB)) + b"\r\n", *[bytes(MIB)] * 24, bytes(MIB - 1))
        async with (
            scene.watched(receiver, 300),
            crowd(url, 11) as senders,
            beside_a_load(scene, receiver),
            asyncio.timeout(PATIENCE_SECONDS),
        ):
            told = statuses(await asyncio.gather(*(sender.tell(begun) for sender in senders)))
        scene.note("uploads", _in_words(told))
        assert set(told) <= {0, 408, 503}, f"stalled uploads were answered {dict(told)}"
        assert told[503] + told[0] >= 6, f"of 11 uploads 5 may be in flight; they were answered {dict(told)}"
        assert await receiver.stop() == 0, "the receiver did not exit with 0"
    await scene.settle_all()


@case(
    "a chunked body of 2 GB, beside a load",
    caught=("no-body-limit",),
)
async def endless_upload(scene: Scene) -> None:
    begin, piece = head(b"Transfer-Encoding: chunked") + b"\r\n", chunk(bytes(MIB))
    async with patient(scene) as receiver:
        async with (
            scene.watched(receiver, 150),
            crowd(await url_of(receiver), 1) as (sender,),
            beside_a_load(scene, receiver),
        ):
            answer = await sender.tell(itertools.chain([begin], itertools.repeat(piece, 2000)))
        assert answer.status == 413, f"2 GB were answered {answer}"
        assert await receiver.stop() == 0, "the receiver did not exit with 0"
    await scene.settle_all()


@case(
    "10,000 idle connections, beside a load; a few of them speak, and more come",
    caught=("no-connection-limit",),
    seconds_max=120,
)
async def many_connections(scene: Scene) -> None:
    count = min(10_000, raise_open_files_limit() * 3 // 4)
    scene.note(
        "connections", f"{count:,} (this machine allows {resource.getrlimit(resource.RLIMIT_NOFILE)[1]:,} files)"
    )
    async with patient(scene, connections_max=str(count)) as receiver:
        url = await url_of(receiver)
        async with (
            scene.watched(receiver, 300),
            beside_a_load(scene, receiver),
            crowd(url, count) as senders,
        ):
            early = Uploads(scene, url, scene.random.sample(senders[: count // 2], 50))
            await early.begin()
            await early.end()
            async with crowd(url, count // 10 + 50) as more, asyncio.timeout(PATIENCE_SECONDS):
                late = statuses([await sender.answer() for sender in more[-10:]])
        scene.note("those beyond the limit", _in_words(late))
        assert set(late) == {503}, f"senders beyond the limit were answered {dict(late)}"
        assert await receiver.stop() == 0, "the receiver did not exit with 0"
    await scene.settle_all()


@case(
    "600 senders leave, half of them in the middle of their bodies, half before their answers",
    caught=("store-what-was-cut", "forget-who-left"),
    is_short=True,
)
async def crowd_leaves(scene: Scene) -> None:
    whole = [body_of(number, UPLOAD) for number in range(300)]
    async with patient(scene) as receiver, connected(scene.url) as connection:
        url = await url_of(receiver)
        load_on(scene, url, source="crowd")
        async with beside_a_load(scene, receiver):
            pass
        async with connection.transaction():
            await connection.execute(LOCK)
            for place, body in enumerate(whole):
                await _leave(url, post(body), vanishes=False)
                await _leave(url, post(body)[:-1], vanishes=bool(place % 2))
            await asyncio.sleep(1)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await connection.fetchval(COPIES, whole) < len(whole):
                await asyncio.sleep(0.05)
        assert await receiver.stop() == 0, "the receiver did not exit with 0"
    await scene.settle_all()


async def _leave(url: str, data: bytes, *, vanishes: bool) -> None:
    sender = await Sender.to(url)
    await sender.send(data)
    await asyncio.sleep(0)
    sender.vanish() if vanishes else sender.leave()


def _in_words(told: Counter[int]) -> str:
    """How many were told what."""
    return ", ".join(f"{count:,} {status or 'closed'}" for status, count in sorted(told.items()))


CASES = (
    worker_killed,
    supervisor_killed,
    everything_killed,
    receiver_terminated,
    rolling_restarts_direct,
    rolling_restarts_through_nginx,
    refused_is_not_stored,
    slow_clients,
    endless_heads,
    stalled_uploads,
    endless_upload,
    many_connections,
    crowd_leaves,
)
