"""Senders are slow, endless, many, or gone before they are answered."""

import asyncio
import itertools
import resource

from chassis.sockets import raise_open_files_limit
from faults.case import case
from faults.cases.receivers import PATIENCE_SECONDS, beside_a_load, load_on, patient, url_of
from faults.cases.uploads import UPLOAD, Uploads
from faults.scene import Scene
from faults.senders import Sender, chunk, crowd, head, in_words, post, statuses
from rig.load import body_of
from rig.postgres import connected

KIB, MIB = 1024, 1024 * 1024
HEADS_MIB_MAX = 350  # the parser keeps a head about three times: 1,000 of 64 KiB, and 70 MiB for the receiver itself
COPIES = "SELECT count(*) FROM hookd.events WHERE payload = ANY($1)"
LOCK = "LOCK TABLE hookd.events IN ACCESS EXCLUSIVE MODE"


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
        scene.note("slow ones", in_words(told))
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
        scene.note("endless ones", in_words(told))
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
        scene.note("uploads", in_words(told))
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
        scene.note("those beyond the limit", in_words(late))
        assert set(late) == {503}, f"senders beyond the limit were answered {dict(late)}"
        assert await receiver.stop() == 0, "the receiver did not exit with 0"
    await scene.settle_all()


@case(
    "600 senders leave, half of them in the middle of their bodies, half before their answers",
    caught=("store-what-was-cut", "forget-who-left"),
)
async def crowd_leaves(scene: Scene) -> None:
    whole = [body_of(number, UPLOAD) for number in range(300)]
    async with (
        patient(scene) as receiver,
        scene.watched(receiver, 150),
        connected(scene.url) as connection,
    ):
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


CASES = (slow_clients, endless_heads, stalled_uploads, endless_upload, many_connections, crowd_leaves)
