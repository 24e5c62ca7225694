"""Senders are wrong: what they are refused with a 4xx must not be stored."""

from collections.abc import Iterator

from faults.case import case
from faults.cases.receivers import beside_a_load, patient, url_of
from faults.scene import Scene
from faults.senders import Answer, Sender, chunk, chunked, head, in_words, post, statuses
from rig.load import SOURCE, body_of
from rig.postgres import connected

KIB = 1024
WRONG = 8  # a sender's number that no sender of a load has
ANY = "SELECT count(*) FROM hookd.events"


@case(
    "requests of all kinds that must be refused with a 4xx, among good ones",
    caught=("store-4xx", "no-body-limit"),
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
    scene.note("wrong ones", in_words(statuses(told)))
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


CASES = (refused_is_not_stored,)
