"""What a body says: its compression undone, its JSON, its text, its form; and where it breaks."""

import gzip
import itertools
import json
import math
import time
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import brotli
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hookd
from processor.handling.body import BOUNDARY_CHARACTERS_MAX, MEMBERS_MAX, PARTS_MAX, BodyError, File
from tests.handling import FORM, JSON, an_event

MULTIPART = "multipart/form-data; boundary=cut"
KIB, MIB = 1024, 1024 * 1024
CAP = 4 * MIB
SECONDS_MAX = 20.0  # far more than anything here takes; what grows with the square of a body takes hours

some_examples = settings(deadline=None, suppress_health_check=list(HealthCheck))


def gzipped(body: bytes) -> bytes:
    """The same bytes whenever it is asked: gzip's own name for a moment would be in the tests' names."""
    return gzip.compress(body, mtime=0)


def headless(body: bytes) -> bytes:
    """Deflated as some senders have it: without zlib's head."""
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(body) + deflater.flush()


def doubled(body: bytes) -> bytes:
    """In two members, as concatenated files are."""
    return gzipped(body[:5]) + gzipped(body[5:])


CODINGS: dict[str, Sequence[Callable[[bytes], bytes]]] = {
    "gzip": (gzipped, doubled),
    "x-gzip": (gzipped,),
    "deflate": (zlib.compress, headless),
    "br": (brotli.compress,),
    "identity": (bytes,),
    "": (bytes,),
}
WAYS = [(name, way) for name, ways in CODINGS.items() for way in ways]


def coded(body: bytes, *codings: str, **more: Any) -> hookd.Event:
    return an_event(body, headers=[("Content-Encoding", each) for each in codings], **more)


# Compression


@pytest.mark.parametrize(("name", "way"), WAYS)
@given(st.binary(max_size=3000))
def test_a_coding_is_undone(name: str, way: Callable[[bytes], bytes], body: bytes) -> None:
    """gzip of one or several members, deflate with and without zlib's head, br; whatever the case of its name."""
    event = coded(way(body), name.upper())
    assert event.content == body
    assert event.body == way(body)


@given(st.lists(st.sampled_from(WAYS), max_size=4), st.binary(max_size=300), st.booleans())
def test_codings_one_upon_the_other(ways: list[tuple[str, Callable[[bytes], bytes]]], body: bytes, apart: bool) -> None:
    """They are undone in the order opposite to that of their names, in one header or in several."""
    sent, names = body, [name for name, _ in ways]
    for _, way in ways:
        sent = way(sent)
    assert coded(sent, *(names if apart else [" , ".join(names)])).content == body


def test_nothing_is_nothing() -> None:
    """A body of no bytes that is said to be compressed is one of no bytes: some senders' GETs are so."""
    for name in ("gzip", "deflate"):
        assert coded(b"", name).content == b""
    assert coded(b"", "gzip").payload() is None


@pytest.mark.parametrize(
    ("body", "coding", "said"),
    [
        (b"{}", "gzip", "the body is not gzip: Error -3 while decompressing data: incorrect header check"),
        (b"{}", "deflate", "the body is not deflate: it ends too early"),
        (b"x\x9c\xff\xff", "deflate", "the body is not deflate: Error -3"),
        (b"{}", "br", "the body is not br: "),
        (gzipped(b"{}")[:-1], "gzip", "the body is not gzip: it ends too early"),
        (gzipped(b"{}") + b"more", "gzip", "the body is not gzip: "),
        (zlib.compress(b"{}")[:-1], "deflate", "the body is not deflate: it ends too early"),
        (brotli.compress(b"{}" * 99)[:-1], "br", "the body is not br: it ends too early"),
        (brotli.compress(b"{}") + b"more", "br", "the body is not br: "),
        (b"", "br", "the body is not br: it ends too early"),
        (gzipped(b"") * (MEMBERS_MAX + 1), "gzip", f"it has more than {MEMBERS_MAX} members"),
        (b"{}", "zstd", "the body's content coding 'zstd' is none of gzip, x-gzip, deflate, br"),
        (b"{}", "a\x1b[31m" + "b" * 99, r"the body's content coding 'a\x1b[31mbbb"),
        (b"{}", ",".join(["gzip"] * 5), "the body has 5 content codings, more than 4"),
    ],
)
def test_a_coding_that_cannot_be_undone(body: bytes, coding: str, said: str) -> None:
    """Broken, cut short or unknown: the body is told not to be what it should be, and how."""
    for read in (hookd.Event.payload, hookd.Event.text, hookd.Event.json, hookd.Event.form):
        with pytest.raises(BodyError) as refused:
            read(coded(body, coding))
        assert said in str(refused.value)
        assert len(str(refused.value)) < 300


def bombs() -> list[Any]:
    zeros = bytes(64 * MIB)
    deflated = zlib.compress(zeros)
    return [
        pytest.param(gzipped(zeros), "gzip", id="gzip"),
        pytest.param(gzipped(zeros[: CAP // 8]) * 64, "gzip", id="gzip of many members"),
        pytest.param(deflated, "deflate", id="deflate"),
        pytest.param(headless(zeros), "deflate", id="deflate without a head"),
        pytest.param(brotli.compress(zeros, quality=5), "br", id="br"),
        pytest.param(gzipped(deflated), "deflate, gzip", id="deflate in gzip"),
        pytest.param(gzipped(brotli.compress(zeros, quality=5)), "br, gzip", id="br in gzip"),
    ]


@pytest.mark.parametrize(("body", "codings"), bombs())
def test_a_bomb(body: bytes, codings: str) -> None:
    """What would unfold into more than HOOKD_CONTENT_BYTES_MAX is refused before it has taken much more than that."""
    event = coded(body, codings, content_bytes_max=CAP)
    tracemalloc.start()
    try:
        with pytest.raises(BodyError, match=rf"^the body unfolds into more than {CAP} bytes"):
            _ = event.content
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * CAP


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_the_cap_to_the_byte(name: str, way: Callable[[bytes], bytes]) -> None:
    """A body may unfold into as much as the setting says, and not a byte more; what is not compressed is not asked."""
    at_most = b"0" * KIB
    assert coded(way(at_most), name, content_bytes_max=KIB).content == at_most
    one_more = coded(way(at_most + b"0"), name, content_bytes_max=KIB)
    if name in ("", "identity"):
        assert len(one_more.content) == KIB + 1
    else:
        with pytest.raises(BodyError, match=f"more than {KIB} bytes"):
            _ = one_more.content


def test_a_body_of_many_members_takes_its_time_once() -> None:
    """Not once for each of them: a megabyte of empty members is refused soon."""
    began = time.process_time()
    with pytest.raises(BodyError):
        _ = coded(gzipped(b"") * 50_000 + bytes(8 * MIB), "gzip").content
    assert time.process_time() - began < SECONDS_MAX


# JSON


@pytest.mark.parametrize("value", [{}, [], 0, "", False, None, 0.0, -0.0, {"a": None}])
def test_falsy_json_is_decoded(value: object) -> None:
    """`{}` arrives as `{}`, whatever its Content-Type, or without one."""
    body = json.dumps(value).encode()
    for content_type in (JSON, "text/plain", "application/octet-stream", "x", "", None):
        assert an_event(body, content_type).payload() == value
        assert an_event(body, content_type).json() == value


def test_no_body_says_nothing() -> None:
    """Its payload is None; as JSON it is broken."""
    for content_type in (JSON, FORM, MULTIPART, None):
        assert an_event(b"", content_type).payload() is None
    with pytest.raises(BodyError, match=r"^the body is not JSON: Expecting value: line 1 column 1"):
        an_event(b"").json()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"\xef\xbb\xbf[1]", [1]),
        ("[1]".encode("utf-16"), [1]),
        ("[1]".encode("utf-16-le"), [1]),
        (b' \r\n{"a": 1}\t', {"a": 1}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b"[1e999]", [math.inf]),
        (b"[-Infinity]", [-math.inf]),
        ('"\ud800"'.encode("utf-8", "surrogatepass"), "\ud800"),
    ],
)
def test_json_as_it_is_met(body: bytes, value: object) -> None:
    """A byte order mark is none of its words; of a repeated key the last value counts; numbers may have no end."""
    assert an_event(body).payload() == value


def test_nan_is_json_to_python() -> None:
    """As it is to Errbot, and to most senders that are written in Python."""
    assert math.isnan(an_event(b"NaN").payload())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": ', "the body is not JSON: Expecting value: line 1 column 7 (char 6)"),
        (
            b"{'a': 1}",
            "the body is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (b"[1]\n[2]", "the body is not JSON: Extra data: line 2 column 1 (char 4)"),
        (b'"\xff"', "the body is not JSON: invalid start byte at byte 1"),
        (b"a=b", "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"[" * 100_000, "the body is not JSON: the JSON is nested too deeply"),
        (b"9" * 5000, "the body is not JSON: Exceeds the limit (4300 digits)"),
    ],
)
def test_a_broken_body_is_told_with_its_place(body: bytes, said: str) -> None:
    """Never a string in its stead: the event fails at once, as by hookd.Reject, with where it broke."""
    with pytest.raises(hookd.Reject) as refused:
        an_event(body).payload()
    assert str(refused.value).startswith(said)
    assert isinstance(refused.value, ValueError)


def test_a_payload_is_decoded_once() -> None:
    """A filter and a handler are given the same object."""
    event = an_event(b'{"a": 1}')
    assert event.payload() is event.payload()


# Text


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"\xc3\xa9", "text/plain", "\xe9"),
        (b"\xe9", "text/plain; charset=ISO-8859-1", "\xe9"),
        (b"\xc3\xa9", "text/plain; charset=nobody-s", "\xe9"),
        (b"\xc3\xa9", None, "\xe9"),
    ],
)
def test_text_in_its_character_set(body: bytes, content_type: str | None, text: str) -> None:
    """In the character set that its Content-Type names; in UTF-8 where it names none that is known."""
    assert an_event(body, content_type).text() == text


def test_text_that_is_none() -> None:
    """It is told where it breaks."""
    with pytest.raises(hookd.Reject, match=r"^the body is not ascii: ordinal not in range.* at byte 1$"):
        an_event(b"a\xe9", "text/plain; charset=ascii").text()


# Forms


def test_a_url_encoded_form() -> None:
    """Of a repeated field the last value; empty ones are kept."""
    event = an_event(b"a=1&b=x+y%26&a=2&c=", FORM)
    assert event.form() == event.payload() == {"a": "2", "b": "x y&", "c": ""}
    assert event.files() == {}
    assert an_event(b"a=1", f"{FORM}; charset=utf-8".upper()).payload() == {"a": "1"}
    assert an_event(b"a=1", JSON).form() == {"a": "1"}


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"hello":"world"}', {"hello": "world"}),
        (b' \r\n[{"url": "http://x?a=b&c"}]', [{"url": "http://x?a=b&c"}]),
        (b"{a}=1", {"{a}": "1"}),
        (b"[]=1&[]=2", {"[]": "2"}),
    ],
)
def test_json_that_curl_calls_a_form(body: bytes, value: object) -> None:
    """`curl -d` labels whatever it sends as a form: JSON is read as JSON, and a form as one whatever it begins with."""
    assert an_event(body, FORM).payload() == value


def part(name: str, value: bytes, head: bytes = b"", filename: str | None = None) -> bytes:
    named = b'; filename="%b"' % filename.encode() if filename is not None else b""
    return b'Content-Disposition: form-data; name="%b"%b\r\n%b\r\n%b' % (name.encode(), named, head, value)


def multipart(*parts: bytes, boundary: bytes = b"cut") -> bytes:
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, each) for each in parts) + b"--%b--\r\n" % boundary


def test_a_multipart_form() -> None:
    """Fields as text in their own character set, files with their names, types and bytes; the last of each name."""
    body = multipart(
        part("a", b"1"),
        part("caf\xe9", b"\xe9", b"Content-Type: text/plain; charset=latin-1\r\n"),
        part("file", b"\r\n--cu\0\xff\r\n", b"Content-Type: image/png\r\n", filename="a.png"),
        part("empty", b"", filename=""),
        part("a", b"2"),
    )
    event = an_event(body, MULTIPART)
    files = {
        "file": File("a.png", "image/png", b"\r\n--cu\0\xff\r\n"),
        "empty": File("", "application/octet-stream", b""),
    }
    assert event.payload() == event.form() == {"a": "2", "caf\xe9": "\xe9", **files}
    assert event.files() == files
    assert event.files()["file"].name == "a.png"


NAMES = st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n%', exclude_categories=["C"]), min_size=1)


@some_examples
@given(st.lists(st.tuples(NAMES, st.binary() | st.just(bytes(100_000)) | st.just(b"\r\n" * 50_000), st.booleans())))
def test_any_multipart_form(fields: list[tuple[str, bytes, bool]]) -> None:
    """What was put into a form comes out of it, whatever it is and however long."""
    boundary = uuid4().hex.encode()
    parts = [
        part(name, value, b"Content-Type: text/plain; charset=latin-1\r\n", "f" if is_file else None)
        for name, value, is_file in fields
    ]
    form = an_event(multipart(*parts, boundary=boundary), f"multipart/form-data; boundary={boundary.decode()}").form()
    assert form == {
        name: File("f", "text/plain; charset=latin-1", value) if is_file else value.decode("latin-1")
        for name, value, is_file in fields
    }


ONE = multipart(part("a", b"1"))


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (b"a", FORM, "the body is not a form: bad query field: 'a'"),
        (b"a" * 5000, FORM, "the body is not a form: bad query field: 'aaa"),
        (b"\xff=1", FORM, "the body is not a form: "),
        (b"&".join([b"a=1"] * (PARTS_MAX + 1)), FORM, "the body is not a form: Max number of fields exceeded"),
        (ONE, "multipart/form-data", "its Content-Type does not name a boundary of 1 to 70 characters"),
        (
            ONE,
            "multipart/form-data; boundary=" + "x" * (BOUNDARY_CHARACTERS_MAX + 1),
            "does not name a boundary of 1 to",
        ),
        (ONE, "multipart/form-data; boundary=other", "the body is not a multipart form: "),
        (ONE[:-6], MULTIPART, "the body is not a multipart form: "),
        (
            b"--cut\r\nA: b\r\n\r\n1\r\n--cut--",
            MULTIPART,
            "the body is not a multipart form: Missing Content-Disposition",
        ),
        (multipart(part("a", b"\xff")), MULTIPART, "the field 'a' is not utf-8: invalid start byte at byte 0"),
        (multipart(part("a\0\x1b", b"\xff")), MULTIPART, r"the field 'a\x00\x1b' is not utf-8"),
        (multipart(*[part("a", b"1")] * (PARTS_MAX + 1)), MULTIPART, f"the form has more than {PARTS_MAX} parts"),
        (multipart(part("a" * 200_000, b"1")), MULTIPART, "a head of more than 65536 bytes"),
        (b"x" * MIB + ONE, MULTIPART, "a head of more than 65536 bytes"),
    ],
)
def test_a_form_that_is_none(body: bytes, content_type: str, said: str) -> None:
    """Fields without a value, too many, parts without an end or a name, a missing boundary: told with what is wrong."""
    for read in (hookd.Event.form, hookd.Event.payload, hookd.Event.files):
        with pytest.raises(hookd.Reject) as refused:
            read(an_event(body, content_type))
        assert said in str(refused.value)
        assert len(str(refused.value)) < 300


def test_as_many_parts_as_there_may_be() -> None:
    """A form of so many fields is read; of one more it is not (above)."""
    names = [f"a{number}" for number in range(PARTS_MAX)]
    assert len(an_event(multipart(*[part(name, b"1") for name in names]), MULTIPART).form()) == PARTS_MAX
    assert len(an_event("&".join(f"{name}=1" for name in names).encode(), FORM).form()) == PARTS_MAX


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(b"-" * 8 * MIB, "multipart/form-data; boundary=" + "-" * 70, id="a boundary almost everywhere"),
        pytest.param(b"-" * MIB, "multipart/form-data; boundary=" + "-" * 60_000, id="a long one"),
        pytest.param(multipart(part("a", b"\r\n--cut " * 200_000)), MULTIPART, id="almost boundaries"),
        pytest.param(b"--cut\r\n" + b"a: b\r\n" * MIB, MULTIPART, id="a head without an end"),
        pytest.param(ONE, "multipart/form-data; " + "a*0=b; " * 9000 + "boundary=cut", id="a Content-Type"),
    ],
)
def test_a_form_takes_bounded_time_and_memory(body: bytes, content_type: str) -> None:
    """What is made to take long, or much, is read or refused soon."""
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(BodyError):
            an_event(body, content_type).form()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < SECONDS_MAX
    assert most < 8 * MIB + 3 * len(body)


# Anything

HEADS = [
    b"\x1f\x8b\x08\0",
    b"x\x9c",
    b"\x0b\x02\x80",
    b"--cut\r\n",
    b"Content-Disposition: form-data; name=a\r\n\r\n",
    b"a=b",
]
BODIES = st.binary(max_size=400) | st.lists(st.sampled_from(HEADS) | st.binary(max_size=20)).map(b"".join)
TYPES = st.sampled_from([JSON, FORM, MULTIPART, "multipart/form-data", "text/plain; charset=utf-7", ""]) | st.text(
    st.characters(max_codepoint=255), max_size=40
)
MANY = st.lists(st.sampled_from([*CODINGS, "zstd"]) | st.text(max_size=5), max_size=5)


@settings(some_examples, max_examples=200)
@given(BODIES, TYPES, MANY, st.sampled_from([None, gzipped, zlib.compress, headless, brotli.compress]))
def test_any_body_is_read_or_refused(
    body: bytes, content_type: str, codings: list[str], way: Callable[[bytes], bytes] | None
) -> None:
    """Whatever a sender writes, there is a value or a BodyError, and nothing else; and no line break in its words."""
    event = an_event(way(body) if way else body, content_type, headers=[("content-encoding", each) for each in codings])
    for read in (hookd.Event.payload, hookd.Event.text, hookd.Event.json, hookd.Event.form, hookd.Event.files):
        try:
            read(event)
        except BodyError as error:
            assert str(error).isprintable()  # noqa: PT017
            assert len(str(error)) < 400  # noqa: PT017


@settings(some_examples, max_examples=25)  # of each, 64 pairs of codings
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda e: st.lists(e) | st.dictionaries(st.text(), e)
    )
)
def test_any_json_in_any_coding(value: object) -> None:
    """Comes out as it went in, in whatever two codings it came."""
    body = json.dumps(value).encode()
    for (inner, first), (outer, second) in itertools.product(WAYS, repeat=2):
        assert coded(second(first(body)), inner, outer, content_type=None).payload() == value
