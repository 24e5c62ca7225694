"""What a webhook is: the part of it that needs no process, no database and no clock."""

import contextlib
import json
import re
import tracemalloc
from collections.abc import Callable
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import content, storable
from protocol.providers import PROVIDERS
from protocol.request import SOURCE, path_of, query_of, source_of

ANY_TEXT = st.text(st.characters())  # lone surrogates and NUL included
PLAIN_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
HEADER_TEXT = st.text(st.characters(max_codepoint=255))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
TOKEN = re.compile(r"[A-Za-z0-9-]+")


@given(ANY_TEXT, st.integers(0, 50))
def test_any_text_becomes_one_that_postgresql_holds(value: str, characters_max: int) -> None:
    """Whatever a sender calls something, what is left of it is UTF-8 without NUL, and no longer than allowed."""
    stored = storable.text(value, characters_max)
    assert "\0" not in stored
    assert len(stored) <= characters_max
    assert stored.encode().decode() == stored
    assert storable.text(stored, characters_max) == stored


@given(PLAIN_TEXT)
def test_text_that_postgresql_holds_stays_as_it_is(value: str) -> None:
    """Only what could not be stored is replaced."""
    assert storable.text(value, len(value)) == value


def test_each_character_that_cannot_be_stored_is_replaced_by_one() -> None:
    """NUL and a lone half of a surrogate pair become U+FFFD; a whole pair becomes the character it stands for."""
    assert storable.text("a\0b\ud800c\udc80d", 100) == "a\ufffdb\ufffdc\ufffdd"
    assert storable.text("\ud83d\ude00", 100) == "\U0001f600"


@pytest.mark.parametrize(("length", "kept"), [(199, 199), (200, 200), (201, 200), (100_000, 200)])
def test_a_sender_s_name_for_something_is_cut_at_200_characters(length: int, kept: int) -> None:
    """Longer names are nobody's, and would not fit an index."""
    assert storable.name("é" * length) == "é" * kept


def test_no_name_is_null() -> None:
    """A header that is absent or empty names nothing."""
    assert storable.name(None) is None
    assert storable.name("") is None


@given(st.binary())
def test_a_header_s_bytes_can_be_had_back(value: bytes) -> None:
    """Stored as ISO-8859-1, every byte is one character."""
    assert storable.header(value).encode("latin-1") == value
    assert len(storable.header(value)) == len(value)


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("/demo", "demo"),
        ("/demo/", "demo"),
        ("/demo/a/b%2Fc?d=e", "demo"),
        ("/demo?github/x", "demo"),
        ("/a", "a"),
        ("/0._-", "0._-"),
        ("/" + "a" * 64, "a" * 64),
        ("http://elsewhere/demo/x?y", "demo"),
        ("HTTPS://elsewhere:1/demo", "demo"),
        ("/" + "a" * 65, None),
        ("/", None),
        ("//", None),
        ("//demo", None),
        ("", None),
        ("*", None),
        ("demo", None),
        ("/Demo", None),
        ("/.demo", None),
        ("/-/live", None),
        ("/_demo", None),
        ("/de%6do", None),
        ("/demo%2Fx", None),
        ("/demo;x", None),
        ("/demo\n", None),
        ("/démo", None),
        ("?/demo", None),
        ("http://demo", None),
        ("http://elsewhere?/demo", None),
    ],
)
def test_the_source_is_the_path_s_first_segment(target: str, source: str | None) -> None:
    """A source is [a-z0-9][a-z0-9._-]{0,63}, as sent: nothing is decoded, nothing is made lower case."""
    assert source_of(target) == source


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("/hooks/in/demo", "demo"),
        ("/hooks/in/demo/x", "demo"),
        ("http://elsewhere/hooks/in/demo", "demo"),
        ("/hooks/in", None),
        ("/hooks/in/", None),
        ("/hooks/inn/demo", None),
        ("/hooks/in//demo", None),
        ("/demo", None),
        ("/x/hooks/in/demo", None),
    ],
)
def test_the_source_follows_the_prefix(target: str, source: str | None) -> None:
    """With a prefix, a path that does not begin with it names no source."""
    assert source_of(target, "/hooks/in") == source


def test_nothing_is_kept_of_long_targets() -> None:
    """What a target names is remembered, for senders repeat theirs: not where a thousand of them would be 64 MiB."""
    tracemalloc.start()
    try:
        for number in range(200):
            target = f"/demo?number={number}&more={'a' * 60_000}"
            assert (source_of(target), query_of(target)["number"]) == ("demo", str(number))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1024 * 1024


@given(ANY_TEXT)
def test_no_target_breaks_the_search_for_its_source(target: str) -> None:
    """Whatever stands in the request's first line, a source is found as its own segment, or none is."""
    source = source_of(target)
    assert source is None or (SOURCE.fullmatch(source) and (path_of(target) + "/").startswith(f"/{source}/"))


@given(st.from_regex(SOURCE, fullmatch=True), st.text("/?#.%abc;=&"))
def test_what_follows_the_source_does_not_change_it(source: str, rest: str) -> None:
    """`/source/anything` and `/source?anything` are that source's."""
    for target in (f"/{source}/{rest}", f"/{source}?{rest}", f"http://elsewhere/{source}/{rest}"):
        assert source_of(target) == source


def test_the_table_of_providers_is_well_formed() -> None:
    """Each provider is a source's name, and what names its events is a header, or stands in the body."""
    for source, provider in PROVIDERS.items():
        assert SOURCE.fullmatch(source)
        assert provider.event_type is None or TOKEN.fullmatch(provider.event_type)
        assert provider.delivery_id is None or TOKEN.fullmatch(provider.delivery_id)


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("", "utf-8"),
        ("application/json", "utf-8"),
        ("text/plain; charset=ISO-8859-1", "iso-8859-1"),
        ('text/plain; charset="windows-1252"', "windows-1252"),
        ("text/plain; charset=utf-16", "utf-16"),
        ("text/plain; charset=nonsense", "utf-8"),
        ("text/plain; charset*=x; charset*0=y", "utf-8"),
        ("text/plain; charset=\ud800", "utf-8"),
        ("text/plain;" + ";" * 60_000, "utf-8"),
        ("text/plain; charset=base64", "utf-8"),
        ("text/plain; charset=\0", "utf-8"),
        ("text/plain; charset=punycode", "utf-8"),
        ("text/plain; charset=idna", "utf-8"),
        ("text/plain; charset=Unicode_Escape", "utf-8"),
    ],
)
def test_the_character_set_is_what_the_content_type_names(content_type: str, charset: str) -> None:
    """UTF-8 where it names none, none that is known, or none at all: Python's own codecs may take hours."""
    assert content.charset(content_type) == charset


@given(st.binary(), HEADER_TEXT)
def test_no_content_type_breaks_the_reading_of_a_body(body: bytes, value: str) -> None:
    """A body is text, or a ValueError says that it is none."""
    for content_type in (value, f"text/plain; charset={value}"):
        with contextlib.suppress(UnicodeDecodeError):
            assert isinstance(content.text(body, content_type), str)


@given(st.text())
def test_text_is_read_in_its_character_set(value: str) -> None:
    """The same text, whatever the encoding that the sender chose and named."""
    for charset in ("utf-8", "utf-16", "utf-32"):
        assert content.text(value.encode(charset), f"text/plain; charset={charset}") == value


@given(JSON)
def test_json_is_read_whatever_its_encoding(value: object) -> None:
    """UTF-8, UTF-16 and UTF-32 are told apart by their first bytes."""
    for charset in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert content.parse_json(json.dumps(value, ensure_ascii=False).encode(charset)) == value


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"{}x", b"\xff", b"[" * 100_000, b"1" * 10_000],
    ids=["empty", "broken", "more behind", "no text", "too deep", "too long a number"],
)
def test_what_is_no_json_is_a_value_error(body: bytes) -> None:
    """Broken, cut off, not text, nested a hundred thousand deep, or a number without end: one kind of error for all."""
    with pytest.raises(ValueError, match=r"."):
        content.parse_json(body)


@given(st.binary())
def test_json_of_any_bytes_is_a_value_or_a_value_error(body: bytes) -> None:
    """Nothing a sender can send raises anything else."""
    with contextlib.suppress(ValueError):
        content.parse_json(body)


@given(st.dictionaries(st.text(), st.text(), max_size=20))
def test_a_form_is_read_as_it_was_written(fields: dict[str, str]) -> None:
    """Names and values come back, blank ones too."""
    assert content.form(urlencode(fields, quote_via=quote).encode()) == fields


def test_of_a_repeated_field_the_last_value_counts() -> None:
    """As with every framework that gives one value."""
    assert content.form(b"a=1&b=2&a=3") == {"a": "3", "b": "2"}


def test_an_empty_body_is_an_empty_form() -> None:
    """Nothing was filled in."""
    assert content.form(b"") == {}


@pytest.mark.parametrize("body", [b'{"a": 1}', b"a", b"a=1&b", b"\xff=1"])
def test_what_is_no_form_is_a_value_error(body: bytes) -> None:
    """A field without `=` is not guessed at."""
    with pytest.raises(ValueError, match=r"."):
        content.form(body)


def test_a_form_has_a_thousand_fields_at_most() -> None:
    """What a body unfolds into is bounded too."""
    fields = [f"f{number}=" for number in range(1001)]
    assert len(content.form("&".join(fields[:1000]).encode())) == 1000
    with pytest.raises(ValueError, match=r"fields"):
        content.form("&".join(fields).encode())


@given(
    begins=st.sampled_from([*content.UTF_8, b"", b"{", b"\xef\xbb\xbf{"]),
    rest=st.binary() | st.from_type(dict[str, str | float | None]).map(lambda value: json.dumps(value)[2:].encode()),
    encoding=st.sampled_from(["utf-8", "utf-16-le", "utf-16", "utf-32-be"]),
)
def test_json_is_what_python_takes_for_it(begins: bytes, rest: bytes, encoding: str) -> None:
    """However its bytes begin: the same value, or a ValueError in both."""
    body = (begins + rest).decode("latin-1").encode(encoding)

    def read(parse: Callable[[bytes], object]) -> object:
        try:
            return parse(body)
        except ValueError:
            return ValueError

    assert repr(read(content.parse_json)) == repr(read(json.loads))


@pytest.mark.parametrize("body", [b"9", b"[]", b"null", b'{"a":1}', b'{"a":[]}', b'"a"'])
def test_a_field_has_its_place_in_an_object_alone(body: bytes) -> None:
    """What is no object, or has something else on the way, is refused; what is missing on the way is made."""
    with pytest.raises(ValueError, match=r"no JSON object for a\.b"):
        content.with_field(body, "a.b", 1)
    assert content.with_field(b"{}", "a.b", 1) == b'{"a":{"b":1}}'
