"""What a handler with `reply=True` returns, made an answer to its sender."""

import functools
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import orjson

from processor.handling.arguments import Call
from processor.handling.declare import Aborted, Response
from protocol.challenge import Answer
from protocol.source import FRAMING, HEADER_NAME, HEADER_VALUE

JSON = ("Content-Type", "application/json")
# Not text/html: a handler that echoes what it was sent would have a browser run it.
TEXT = ("Content-Type", "text/plain; charset=utf-8")
BYTES = ("Content-Type", "application/octet-stream")
KEYS = orjson.OPT_NON_STR_KEYS  # `{1: …}` has the key "1", as Python's own json has it
BODILESS = (204, 205, 304)  # HTTP gives these no body
RETURNS = "None, str, bytes, dict, list, (body, status), (body, status, headers) or hookd.Response"


class WrongReply(TypeError):
    """What was returned cannot be an answer; says why."""


def replying(call: Call, *, is_async: bool) -> Call:
    """`call`, with what it returns, or aborts with, made an Answer. It may raise WrongReply then."""

    @functools.wraps(call)
    async def call_async(*arguments: Any) -> Answer:
        try:
            return answer_of(await call(*arguments))
        except Aborted as why:
            return answer_of(why.response)

    @functools.wraps(call)
    def call_in_thread(*arguments: Any) -> Answer:
        try:
            return answer_of(call(*arguments))
        except Aborted as why:
            return answer_of(why.response)

    return call_async if is_async else call_in_thread


def answer_of(value: Any) -> Answer:
    """Raises WrongReply."""
    match value:
        case Response(body, status, headers):
            return _answer(body, status, headers)
        case (body, int(status)) | (body, int(status), None) if isinstance(value, tuple):
            return _answer(body, status, ())
        case (body, int(status), headers) if isinstance(value, tuple):
            return _answer(body, status, headers)
        case None | str() | bytes() | dict() | list():
            return _answer(value, HTTPStatus.OK, ())
    raise WrongReply(f"a handler with reply=True returned {type(value).__name__}: expected {RETURNS}")


def _answer(body: Any, status: Any, headers: Any) -> Answer:
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise WrongReply(f"a reply's status is {status!r}: expected 200 to 599")
    content, content_type = _content(body)
    given = tuple(_headers(headers))
    if status in BODILESS:
        content = b""
    if content and not any(name.lower() == "content-type" for name, _ in given):
        given = (content_type, *given)
    return Answer(int(status), given, content)


def _content(body: Any) -> tuple[bytes, tuple[str, str]]:
    """The body's bytes, and what they are where nobody says otherwise."""
    match body:
        case None:
            return b"", TEXT
        case bytes() | bytearray() | memoryview():
            return bytes(body), BYTES
    try:
        return (body.encode(), TEXT) if isinstance(body, str) else (orjson.dumps(body, option=KEYS), JSON)
    except (TypeError, UnicodeEncodeError) as error:
        raise WrongReply(f"a reply's {type(body).__name__} cannot be sent: {error}") from None


def _headers(headers: Any) -> Iterable[tuple[str, str]]:
    try:
        pairs = [(name, value) for name, value in (headers.items() if isinstance(headers, Mapping) else headers)]
    except (TypeError, ValueError):
        raise WrongReply("a reply's headers: expected a mapping, or pairs of a name and a value") from None
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str):
            raise WrongReply(f"a reply's header {name!r}: expected text for its name and its value")
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            raise WrongReply(f"a reply's header {name!r}: a name, and a value of visible Latin characters and spaces")
        if name.lower() in FRAMING:
            raise WrongReply(f"a reply's header {name!r} is the receiver's own")
    return pairs
