"""Whatever bytes arrive, the receiver lives; and what they say is read in one way, also behind nginx.

The refusals themselves, with their reasons, are in test_refusals.py; `make fuzz` goes on where the parsers
are concerned, and what it finds them by is tested here.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.database import Connection
from fuzz.__main__ import main
from fuzz.making import is_makeable, make
from fuzz.targets import all_targets, attempt, target_of
from tests.fronting import needs_nginx, nginx
from tests.receiving import Local
from tests.sending import Answer, chunked, cut, head, post
from tests.waiting import PATIENCE_SECONDS

any_server = pytest.mark.any_server

some_examples = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
PLACES = st.lists(st.integers(0, 10_000), max_size=8)


# Any bytes

GOOD = [
    post("/demo", b"abc"),
    post("/demo?x", b"abc", version="1.0"),
    post("http://elsewhere/github", b"abc", [(b"X-GitHub-Event", b"push")]),
    post("/demo", b"abc", [(b"Expect", b"100-continue"), (b"Content-Type", b"text/plain")]),
    post("/demo", b"abc", [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]),
    chunked("/demo", [b"abc", b"def"], trailers=[(b"X-Any", b"a")]),
    head("/-/live", method="GET"),
    post("/demo", b"a") + post("/demo", b"b") + chunked("/demo", [b"c"]),
]
WORDS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"\xff", b"0", b"-", b"0x", b"ffffffffffffffff"),
    *(b"0\r\n\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: x\r\n"),
    *(b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"HTTP/1.1", b"HTTP/1.0\r\n", b"POST /demo ", b"a" * 500),
]
SOME_WORDS = st.lists(st.sampled_from(WORDS) | st.binary(max_size=20), max_size=12).map(b"".join)
EDIT = st.tuples(st.integers(0, 1000), st.integers(0, 20), st.sampled_from([b"", *WORDS]) | st.binary(max_size=5))
STATUSES = {100, 200, 400, 404, 405, 408, 413, 417, 431, 503}


def edited(request: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    """With pieces taken out and others put in, wherever they are."""
    for anywhere, count, words in edits:
        place = anywhere % (len(request) + 1)
        request = request[:place] + words + request[place + count :]
    return request


REQUESTS = {
    "anything": st.binary(max_size=600) | SOME_WORDS,
    "a request line": st.binary(max_size=100).map(lambda line: line + post().partition(b" HTTP/1.1")[2]),
    "a target": st.binary(max_size=100).map(lambda target: post().replace(b"/demo", b"/demo" + target)),
    "headers": st.lists(st.binary(max_size=60), max_size=9).map(lambda lines: with_lines(lines, b"abc")),
    "a length": SOME_WORDS.map(lambda value: with_lines([b"Content-Length:" + value], b"abc")),
    "a coding": SOME_WORDS.map(lambda value: with_lines([b"Transfer-Encoding:" + value], b"3\r\nabc\r\n0\r\n\r\n")),
    "chunks": SOME_WORDS.map(lambda body: with_lines([b"Transfer-Encoding: chunked"], body)),
    "what follows a request": SOME_WORDS.map(lambda body: post("/demo", b"abc") + body),
    "good requests, edited": st.builds(edited, st.sampled_from(GOOD), st.lists(EDIT, min_size=1, max_size=4)),
}


def with_lines(lines: Sequence[bytes], body: bytes, first: bytes = b"POST /demo HTTP/1.1") -> bytes:
    """A request with these lines behind its Host."""
    return b"\r\n".join([first, b"Host: hookd", *lines]) + b"\r\n\r\n" + body


@any_server
@pytest.mark.parametrize("requests", REQUESTS.values(), ids=list(REQUESTS))
@some_examples
@given(data=st.data(), places=PLACES)
async def test_whatever_is_sent_the_receiver_lives(
    receiver: Local,
    table: Connection,
    requests: st.SearchStrategy[bytes],
    data: st.DataObject,
    places: Sequence[int],
) -> None:
    """It answers in HTTP or hangs up; what it accepts is stored, what it refuses is not, and a request beside it is."""
    await table.execute("DELETE FROM hookd.events")
    sender = await receiver.sender()
    await sender.send(*cut(data.draw(requests), places))
    beside = [(await receiver.post("/beside")).id]  # what came before it is committed with it, and answered
    with contextlib.suppress(OSError):  # the receiver has hung up
        sender.half_close()
    answers = answers_in(await sender.rest())
    sender.close()
    receiver.senders.remove(sender)
    beside.append((await receiver.post("/beside")).id)
    accepted = {answer.id for answer in answers if b'"id"' in answer.body}
    there = {row["id"] for row in await table.fetch("SELECT id FROM hookd.events")}
    unanswered = there - accepted - set(beside)
    assert there >= accepted | set(beside)
    assert not unanswered or (len(unanswered) == 1 and not (answers and answers[-1].closes))
    assert not receiver.ended.done()


def answers_in(said: bytes) -> list[Answer]:
    """Every answer, whole; each refusal with its reason."""
    answers = []
    while said:
        lines, end, said = said.partition(b"\r\n\r\n")
        first, *others = lines.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in others)}
        length = int(headers.get("content-length", 0))
        version, status, _ = first.split(" ", 2)
        answers.append(Answer(version, int(status), headers, said[:length]))
        assert end
        assert version in ("HTTP/0.9", "HTTP/1.0", "HTTP/1.1")  # the sender's own
        assert len(said) >= length
        assert answers[-1].status in STATUSES
        assert answers[-1].status < 400 or answers[-1].error
        said = said[length:]
    return answers


# One request that may be read as two


@dataclass(frozen=True)
class Verdict:
    """The one answer's status (None: closed without one), and the one body that is stored."""

    status: int | None
    stored: bytes | None = None


HIDDEN = post("/hidden", b"hidden")
WHOLE = b"Content-Length: %d" % len(HIDDEN)
CHUNKED = b"Transfer-Encoding: chunked"
LAST = b"0\r\n\r\n"
ABC = b"3\r\nabc\r\n" + LAST
BEHIND_LAST = LAST + HIDDEN
UP_TO_ITS_END = b"Content-Length: %d" % len(BEHIND_LAST)

REFUSED = Verdict(400)
UNKNOWN = Verdict(501)  # nginx's word for a transfer coding that it does not know
CLOSED = Verdict(None)
STORED = Verdict(200, b"abc")
A_BODY = Verdict(200, HIDDEN)


def hiding(*lines: bytes, first: bytes = b"POST /demo HTTP/1.1") -> bytes:
    """A request whose body, by most lengths, is another request."""
    return with_lines(lines, HIDDEN, first)


def in_chunks(body: bytes) -> bytes:
    return with_lines([CHUNKED], body)


# What is sent, and the verdict of hookd and of nginx before it. nginx takes more, and passes it on in one way.
SHAPES: Mapping[str, tuple[bytes, Verdict, Verdict]] = {
    # Two lengths, or one that is none
    "two lengths, the first short": (hiding(b"Content-Length: 0", WHOLE), REFUSED, REFUSED),
    "two lengths, the first long": (hiding(WHOLE, b"Content-Length: 0"), REFUSED, REFUSED),
    "the same length twice": (hiding(WHOLE, WHOLE), REFUSED, REFUSED),
    "a list of lengths": (hiding(b"Content-Length: 0, %d" % len(HIDDEN)), REFUSED, REFUSED),
    "an empty length": (hiding(b"Content-Length:"), REFUSED, REFUSED),
    "a signed length": (hiding(b"Content-Length: +%d" % len(HIDDEN)), REFUSED, REFUSED),
    "a negative length": (hiding(b"Content-Length: -1"), REFUSED, REFUSED),
    "a length in hexadecimal": (hiding(b"Content-Length: 0x%x" % len(HIDDEN)), REFUSED, REFUSED),
    "a length with an underscore": (hiding(b"Content-Length: 1_0"), REFUSED, REFUSED),
    "a length with a space within": (hiding(b"Content-Length: 1 0"), REFUSED, REFUSED),
    "a length beyond 64 bits": (hiding(b"Content-Length: %d" % 2**64), REFUSED, REFUSED),
    "a length with zeros before it": (hiding(b"Content-Length: 00%d" % len(HIDDEN)), A_BODY, A_BODY),
    "a length on a folded line": (hiding(b"Content-Length:\r\n %d" % len(HIDDEN)), REFUSED, REFUSED),
    "a length before the colon a space": (hiding(b"Content-Length : %d" % len(HIDDEN)), REFUSED, REFUSED),
    "a length without a colon": (hiding(b"Content-Length %d" % len(HIDDEN)), REFUSED, REFUSED),
    "a length under another name": (hiding(b"Content_Length: 0", WHOLE), A_BODY, A_BODY),
    "a length that Connection names": (hiding(WHOLE, b"Connection: Content-Length"), A_BODY, A_BODY),
    # A length and chunks
    "a length and chunks": (with_lines([UP_TO_ITS_END, CHUNKED], BEHIND_LAST), REFUSED, REFUSED),
    "chunks and a length": (with_lines([CHUNKED, UP_TO_ITS_END], BEHIND_LAST), REFUSED, REFUSED),
    "chunks and a short length": (with_lines([CHUNKED, b"Content-Length: 3"], b"2d\r\n" + HIDDEN), REFUSED, REFUSED),
    "a coding before the colon a space": (
        with_lines([b"Transfer-Encoding : chunked", UP_TO_ITS_END], BEHIND_LAST), REFUSED, REFUSED,
    ),
    "a coding on a folded line": (
        with_lines([b"Transfer-Encoding:\r\n chunked", UP_TO_ITS_END], BEHIND_LAST), REFUSED, REFUSED,
    ),
    "a coding behind a fold": (
        with_lines([b"X-Any: a\r\n Transfer-Encoding: chunked", UP_TO_ITS_END], BEHIND_LAST), REFUSED, REFUSED,
    ),
    "a coding behind a bare LF": (
        with_lines([b"X-Any: a\nTransfer-Encoding: chunked", UP_TO_ITS_END], BEHIND_LAST), REFUSED, REFUSED,
    ),
    "a coding behind a bare CR": (
        with_lines([b"X-Any: a\rTransfer-Encoding: chunked", UP_TO_ITS_END], BEHIND_LAST), REFUSED, REFUSED,
    ),
    "a coding behind NUL": (
        with_lines([b"X-Any: a\0Transfer-Encoding: chunked", UP_TO_ITS_END], BEHIND_LAST), REFUSED, REFUSED,
    ),
    "NUL in a coding's name": (
        with_lines([b"Transfer-Encoding\0: chunked", UP_TO_ITS_END], BEHIND_LAST), REFUSED, REFUSED,
    ),
    "a coding under another name": (hiding(b"Transfer_Encoding: chunked", WHOLE), A_BODY, A_BODY),
    # Codings other than chunked
    "chunked twice": (with_lines([CHUNKED, CHUNKED], BEHIND_LAST), REFUSED, REFUSED),
    "chunked, chunked": (with_lines([b"Transfer-Encoding: chunked, chunked"], BEHIND_LAST), REFUSED, UNKNOWN),
    "chunked, identity": (with_lines([b"Transfer-Encoding: chunked, identity"], BEHIND_LAST), REFUSED, UNKNOWN),
    "identity, chunked": (with_lines([b"Transfer-Encoding: identity, chunked"], BEHIND_LAST), REFUSED, UNKNOWN),
    "chunked and identity": (with_lines([CHUNKED, b"Transfer-Encoding: identity"], BEHIND_LAST), REFUSED, REFUSED),
    "identity and a length": (hiding(b"Transfer-Encoding: identity", WHOLE), REFUSED, UNKNOWN),
    "xchunked": (hiding(b"Transfer-Encoding: xchunked"), REFUSED, UNKNOWN),
    "xchunked and a length": (hiding(b"Transfer-Encoding: xchunked", WHOLE), REFUSED, UNKNOWN),
    "no coding": (hiding(b"Transfer-Encoding:"), REFUSED, UNKNOWN),
    "no coding and a length": (hiding(b"Transfer-Encoding:", WHOLE), REFUSED, UNKNOWN),
    "no coding, and another method": (
        hiding(b"Transfer-Encoding:", first=b"PUT /demo HTTP/1.1"), Verdict(405), UNKNOWN,
    ),
    "chunked in quotes": (with_lines([b'Transfer-Encoding: "chunked"'], BEHIND_LAST), REFUSED, UNKNOWN),
    "chunked and a comma": (with_lines([b"Transfer-Encoding: chunked,"], BEHIND_LAST), REFUSED, UNKNOWN),
    "chunked with a parameter": (with_lines([b"Transfer-Encoding: chunked;q=1"], BEHIND_LAST), REFUSED, UNKNOWN),
    "a vertical tab before chunked": (with_lines([b"Transfer-Encoding:\x0bchunked"], BEHIND_LAST), REFUSED, UNKNOWN),
    "a tab before chunked": (with_lines([b"Transfer-Encoding:\tchunked"], ABC), STORED, UNKNOWN),
    "CHUNKED": (with_lines([b"Transfer-Encoding: CHUNKED"], ABC), STORED, STORED),
    "chunked in HTTP/1.0": (with_lines([CHUNKED], ABC, b"POST /demo HTTP/1.0"), STORED, REFUSED),
    # Sizes of chunks
    "a size with 0x": (in_chunks(b"0x3\r\nabc\r\n" + LAST), REFUSED, REFUSED),
    "a size with +": (in_chunks(b"+3\r\nabc\r\n" + LAST), REFUSED, REFUSED),
    "a size with -": (in_chunks(b"-3\r\nabc\r\n" + LAST), REFUSED, REFUSED),
    "a size with an underscore": (in_chunks(b"0_3\r\nabc\r\n" + LAST), REFUSED, REFUSED),
    "a size with zeros before it": (in_chunks(b"0" * 40 + ABC), STORED, STORED),
    "a size beyond 64 bits": (in_chunks(b"10000000000000003\r\nabc\r\n" + BEHIND_LAST), REFUSED, REFUSED),
    "the largest size of 64 bits": (in_chunks(b"ffffffffffffffff\r\nabc\r\n" + BEHIND_LAST), CLOSED, REFUSED),
    "a size behind a space": (in_chunks(b" 3\r\nabc\r\n" + LAST), REFUSED, REFUSED),
    "a size before a space": (in_chunks(b"3 \r\nabc\r\n" + LAST), REFUSED, STORED),
    "a size before a tab": (in_chunks(b"3\t\r\nabc\r\n" + LAST), REFUSED, STORED),
    "a size before NUL": (in_chunks(b"3\0\r\nabc\r\n" + LAST), REFUSED, REFUSED),
    "no size": (in_chunks(b"\r\nabc\r\n" + LAST), REFUSED, REFUSED),
    "no size before an extension": (in_chunks(b";a\r\nabc\r\n" + LAST), REFUSED, REFUSED),
    "a last size of many zeros": (in_chunks(b"3\r\nabc\r\n00000\r\n\r\n"), STORED, STORED),
    # Extensions of chunks
    "an extension": (in_chunks(b'3;a=b;c="d"\r\nabc\r\n' + LAST), STORED, STORED),
    "CR LF in an extension's quotes": (in_chunks(b'3;a="\r\nabc\r\n' + LAST), REFUSED, STORED),
    "a bare LF in an extension": (in_chunks(b"3;a\nabc\r\n" + LAST), REFUSED, STORED),
    "a bare CR in an extension": (in_chunks(b"3;a\rb\r\nabc\r\n" + LAST), REFUSED, REFUSED),
    "NUL in an extension": (in_chunks(b"3;a\0b\r\nabc\r\n" + LAST), REFUSED, STORED),
    "a bare LF in the last extension": (in_chunks(b"3\r\nabc\r\n0;a\n\r\n"), REFUSED, STORED),
    # Ends of lines
    "LF for every line of the head": (hiding(WHOLE).replace(b"\r\n", b"\n", 4), REFUSED, A_BODY),
    "LF at the head's end": (with_lines([WHOLE], b"").removesuffix(b"\r\n") + b"\n" + HIDDEN, REFUSED, A_BODY),
    "CR for every line of the head": (hiding(WHOLE).replace(b"\r\n", b"\r", 4), REFUSED, REFUSED),
    "LF for every line of the chunks": (in_chunks(b"3\nabc\n0\n\n"), REFUSED, STORED),
    "LF behind a size": (in_chunks(b"3\nabc\r\n" + LAST), REFUSED, STORED),
    "CR behind a size": (in_chunks(b"3\rabc\r\n" + LAST), REFUSED, REFUSED),
    "LF behind a chunk": (in_chunks(b"3\r\nabc\n" + LAST), REFUSED, STORED),
    "CR behind a chunk": (in_chunks(b"3\r\nabc\r" + LAST), REFUSED, REFUSED),
    "nothing behind a chunk": (in_chunks(b"3\r\nabc" + LAST), REFUSED, REFUSED),
    "other bytes behind a chunk": (in_chunks(b"3\r\nabcxx" + LAST), REFUSED, REFUSED),
    "LF behind the last chunk": (in_chunks(b"3\r\nabc\r\n0\n\n"), REFUSED, STORED),
    # Trailers
    "trailers": (in_chunks(b"3\r\nabc\r\n0\r\nX-Any: a\r\n\r\n"), STORED, STORED),
    "a length as a trailer": (in_chunks(b"3\r\nabc\r\n0\r\nContent-Length: 50\r\n\r\n"), REFUSED, STORED),
    "a coding as a trailer": (in_chunks(b"3\r\nabc\r\n0\r\nTransfer-Encoding: identity\r\n\r\n"), REFUSED, STORED),
    "a request as a trailer": (in_chunks(b"3\r\nabc\r\n0\r\n" + HIDDEN.removesuffix(b"hidden")), REFUSED, STORED),
    "a folded trailer": (in_chunks(b"3\r\nabc\r\n0\r\nX-Any: a\r\n b\r\n\r\n"), REFUSED, STORED),
    "LF behind a trailer": (in_chunks(b"3\r\nabc\r\n0\r\nX-Any: a\n\n"), REFUSED, STORED),
    "NUL in a trailer's name": (in_chunks(b"3\r\nabc\r\n0\r\nX-A\0ny: a\r\n\r\n"), REFUSED, STORED),
    # The first lines
    "HTTP/0.9": (b"POST /demo\r\n" + HIDDEN, REFUSED, CLOSED),
    "HTTP/0.9, to be read": (b"GET /demo\r\n" + HIDDEN, REFUSED, CLOSED),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN, REFUSED, REFUSED),
    "a space behind the version": (hiding(WHOLE, first=b"POST /demo HTTP/1.1 "), REFUSED, A_BODY),
    "two versions": (hiding(WHOLE, first=b"POST /demo HTTP/1.1 /hidden HTTP/1.1"), REFUSED, REFUSED),
    "two first lines": (hiding(WHOLE, first=b"POST /demo HTTP/1.1\r\nPOST /hidden HTTP/1.1"), REFUSED, REFUSED),
    "a header that begins with a space": (hiding(WHOLE, first=b"POST /demo HTTP/1.1\r\n X: a"), REFUSED, REFUSED),
    "NUL in the target": (hiding(WHOLE, first=b"POST /de\0mo HTTP/1.1"), REFUSED, REFUSED),
    "NUL in a name": (hiding(WHOLE, b"X-A\0ny: a"), REFUSED, REFUSED),
    "another host in the target": (hiding(WHOLE, first=b"POST http://other/demo HTTP/1.1"), A_BODY, A_BODY),
    "two hosts": (hiding(WHOLE, b"Host: other"), REFUSED, REFUSED),
    # Bodies where none is looked for
    "the body of a POST": (hiding(WHOLE), A_BODY, A_BODY),
    "the body of a GET": (hiding(WHOLE, first=b"GET /demo HTTP/1.1"), Verdict(405), Verdict(405)),
    "the body of a CONNECT": (hiding(WHOLE, first=b"CONNECT hookd:80 HTTP/1.1"), Verdict(405), REFUSED),
    "the body of a POST that is refused": (hiding(WHOLE, first=b"POST /Demo HTTP/1.1"), REFUSED, REFUSED),
    "the body of an upgrade": (hiding(WHOLE, b"Connection: Upgrade", b"Upgrade: h2c"), A_BODY, A_BODY),
    "the body of a GET that is upgraded": (
        hiding(WHOLE, b"Connection: Upgrade", b"Upgrade: websocket", first=b"GET /demo HTTP/1.1"),
        Verdict(405), Verdict(405),
    ),
    "a chunk": (in_chunks(b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN) + LAST), A_BODY, A_BODY),
    "a length that is too long": (hiding(b"Content-Length: 100000"), CLOSED, CLOSED),
    "chunks without the last": (in_chunks(b"3\r\nabc\r\n"), CLOSED, CLOSED),
}  # fmt: skip


@any_server
@pytest.mark.parametrize(("request_bytes", "verdict"), [each[:2] for each in SHAPES.values()], ids=list(SHAPES))
async def test_what_may_be_read_as_two_requests_is_read_as_one(
    receiver: Local, table: Connection, request_bytes: bytes, verdict: Verdict
) -> None:
    """One answer or none, one row or none, and the request that is hidden in it is never served."""
    assert await judged(table, Way(receiver.port), request_bytes, verdict) == verdict


@any_server
@needs_nginx
@pytest.mark.parametrize(("request_bytes", "verdict"), [each[::2] for each in SHAPES.values()], ids=list(SHAPES))
async def test_behind_nginx_too_it_is_read_as_one(
    behind_nginx: "Way", table: Connection, request_bytes: bytes, verdict: Verdict
) -> None:
    """What nginx lets pass, it has put in one way before hookd reads it."""
    assert await judged(table, behind_nginx, request_bytes, verdict) == verdict


def test_hookd_and_nginx_read_the_same_body() -> None:
    """Where both take what is sent, they agree on what its body is."""
    assert [name for name, (_, *both) in SHAPES.items() if len({each.stored for each in both} - {None}) > 1] == []


@dataclass(frozen=True)
class Way:
    """A port that leads to hookd, and TLS where it is wanted there."""

    port: int
    tls: ssl.SSLContext | None = None


@pytest.fixture(scope="module")
async def behind_nginx(
    receiver: Local, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Way]:
    """deploy/nginx before the receiver of this chapter."""
    async with nginx(receiver.port, certificate=certificate, folder=tmp_path_factory.mktemp("nginx")) as url:
        yield Way(url.port or 0, ssl.create_default_context(cafile=str(certificate)))


NEXT = b"GET /-/live HTTP/1.1\r\nHost: hookd\r\nConnection: close\r\n\r\n"
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


async def judged(table: Connection, way: Way, request: bytes, expected: Verdict) -> Verdict:
    """What came of it, as long as that is one thing."""
    await table.execute("DELETE FROM hookd.events")
    said = await converse(way, request, closing=expected.status is None)
    beside = await converse(way, post("/beside", b"beside"), closing=False)
    assert STATUS.findall(beside)[0] == b"200"
    rows = [row["payload"] for row in await table.fetch("SELECT payload FROM hookd.events WHERE source <> 'beside'")]
    statuses = [int(status) for status in STATUS.findall(said)]
    # hookd answers NEXT itself, nginx keeps it from it; neither does where the first answer closed the connection.
    assert statuses[1:] in ([], [200 if way.tls is None else 404])
    assert len(rows) <= 1
    return Verdict(statuses[0] if statuses else None, rows[0] if rows else None)


async def converse(way: Way, request: bytes, *, closing: bool) -> bytes:
    """All that is answered to it and, unless the sender leaves behind it, to the next request on its connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port, ssl=way.tls)
    said = b""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            writer.write(request)
            if not closing:
                said = await reader.read(64 * 1024)
                writer.write(NEXT)
                said += await read_on(reader)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
    return said


async def read_on(reader: asyncio.StreamReader) -> bytes:
    """Up to the end, or to the reset that is the end where what was sent is not read any more."""
    said = bytearray()
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(64 * 1024):
            said += part
    return bytes(said)


# What `make fuzz` gives its bytes to


def test_every_parser_is_fuzzed() -> None:
    """Each parser that takes bytes or text is a target, and so is the judgement; their arguments can all be made."""
    targets = all_targets()
    parsers = {"content.form", "content.parse_json", "request.source_of", "storable.text"}
    assert parsers | {"judgement.judge_anything"} <= set(targets)
    unmade = [
        f"{name}: fuzz/making.py makes no {hint} for {parameter}"
        for name, target in targets.items()
        for parameter, hint in target.parameters.items()
        if not is_makeable(hint)
    ]
    assert unmade == []


def careful(value: str | None, numbers: Sequence[int], others: Mapping[str, bytes | bool]) -> None:
    """Raises KeyError, or ZeroDivisionError for nothing."""
    if value == "broken":
        raise LookupError
    raise ZeroDivisionError(value, numbers, others)


def test_a_target_may_raise_what_its_docstring_names_and_nothing_else() -> None:
    """All else is told by the fuzzer."""
    target = target_of(careful)
    assert target.may_raise == (KeyError, ZeroDivisionError)
    attempt(target, {"value": "a", "numbers": [], "others": {}})
    with pytest.raises(LookupError):
        attempt(target, {"value": "broken", "numbers": [], "others": {}})
    assert all_targets()["content.charset"].may_raise == ()


class Drawn:
    """Hypothesis in the place of atheris."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def ConsumeBytes(self, count: int) -> bytes:  # noqa: N802 - their names
        return self._data.draw(st.binary(max_size=count))

    def ConsumeUnicode(self, count: int) -> str:  # noqa: N802
        return self._data.draw(st.text(max_size=count))

    def ConsumeIntInRange(self, low: int, high: int) -> int:  # noqa: N802
        return self._data.draw(st.integers(low, high))

    def ConsumeBool(self) -> bool:  # noqa: N802
        return self._data.draw(st.booleans())

    def remaining_bytes(self) -> int:
        return 20


@given(st.data())
def test_arguments_are_made_by_their_annotations(data: st.DataObject) -> None:
    """Any value that the annotation allows, and no other."""
    made = {name: make(hint, Drawn(data)) for name, hint in target_of(careful).parameters.items()}
    value, numbers, others = made["value"], made["numbers"], made["others"]
    assert value is None or isinstance(value, str)
    assert isinstance(numbers, list)
    assert all(isinstance(number, int) for number in numbers)
    assert isinstance(others, dict)
    assert all(isinstance(key, str) and isinstance(each, bytes | bool) for key, each in others.items())
    assert not is_makeable(Path)


def test_a_target_that_is_none_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and the names of those there are."""
    with pytest.raises(SystemExit, match="2"):
        main(["nonsense"])
    assert "content.form" in capsys.readouterr().err
