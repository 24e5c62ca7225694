"""What a body says, for those who ask: text, JSON, form."""

import codecs
import json
from typing import Any
from urllib.parse import parse_qsl

CONTENT_TYPE_CHARACTERS_MAX = 1000  # email's parser takes seconds for the semicolons that a head has room for
FORM_FIELDS_MAX = 1000  # the body's size is bounded elsewhere; this bounds what it may unfold into
# Python's own, no character sets: punycode takes hours for a body that any sender may send.
NOT_CHARACTER_SETS = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"})
# How bodies in UTF-8 begin: to find that out takes json as long as to parse a small one.
UTF_8 = (b'{"', b"{\n", b"[{")
DECODER = json.JSONDecoder()  # of json.loads


def charset(content_type: str) -> str:
    """The character set a Content-Type names; UTF-8 where it names none that is known."""
    from email.message import Message  # noqa: PLC0415 - paid for by those who ask

    message = Message()
    try:
        message["Content-Type"] = content_type[:CONTENT_TYPE_CHARACTERS_MAX]
        named = message.get_content_charset("utf-8")
        "".encode(named)
        return named if codecs.lookup(named).name not in NOT_CHARACTER_SETS else "utf-8"
    except (LookupError, TypeError, ValueError):  # TypeError: of a parameter in numbered pieces one of which is starred
        return "utf-8"


def text(body: bytes, content_type: str = "") -> str:
    """The body as text. Raises UnicodeDecodeError where it is none."""
    return body.decode(charset(content_type))


def parse_json(body: bytes) -> Any:
    """The body as JSON, whatever its Content-Type says. Raises ValueError with the place where it breaks."""
    try:
        if body.startswith(UTF_8):
            return DECODER.decode(body.decode("utf-8", "surrogatepass"))
        return json.loads(body)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def form(body: bytes, content_type: str = "") -> dict[str, str]:
    """A URL-encoded form; of a repeated field the last value. Raises ValueError where the body is none."""
    fields = parse_qsl(
        text(body, content_type), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=FORM_FIELDS_MAX
    )
    return dict(fields)


def with_field(body: bytes, path: str, value: Any) -> bytes:
    """A JSON object with `value` at `a.b`. Raises ValueError where there is none to take it."""
    document = parse_json(body)
    *way, last = path.split(".")
    place = document
    for step in way:
        place = place.setdefault(step, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise ValueError(f"there is no JSON object for {path}")
    place[last] = value
    return to_json(document)


def to_json(value: Any) -> bytes:
    """As most senders write it: without spaces, in ASCII."""
    return json.dumps(value, separators=(",", ":")).encode()


def writings(document: Any) -> set[bytes]:
    """A JSON document as the usual libraries write it; one that is nested too deeply as none does."""
    spaces = ((",", ":"), (", ", ": "))
    try:
        return {
            json.dumps(document, separators=each, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
            for each in spaces
            for ascii_only in (True, False)
        }
    except RecursionError:
        return set()
