"""What a body says: its compression undone, its text, its JSON, its form with the files."""

import contextlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from processor.handling.declare import Reject
from protocol import content

CODINGS_MAX = 4  # nobody sends more than one; each may unfold what the one before it made
MEMBERS_MAX = 10_000  # of a gzip stream; bgzip makes one of each 64 KiB
CHUNK_BYTES = 64 * 1024
PARTS_MAX = content.FORM_FIELDS_MAX
PART_HEAD_BYTES_MAX = 64 * 1024  # as much as a request's own head may have
BOUNDARY_CHARACTERS_MAX = 70  # RFC 2046, section 5.1.1; it is searched for at every byte
URLENCODED, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
WORDS_CHARACTERS_MAX = 200  # of an error that repeats what the sender wrote
GZIP, ZLIB, RAW = 31, 15, -15  # zlib's window bits: of gzip, of zlib, of a stream without a head


class BodyError(Reject, ValueError):
    """The body is not what it should be; says what and where. Another attempt would find it so again."""


class File(NamedTuple):
    """A file of a multipart form."""

    name: str
    content_type: str
    body: bytes


Form: TypeAlias = dict[str, str | File]
Undo: TypeAlias = Callable[[bytes, int], Iterator[bytes]]


def undone(body: bytes, codings: str, bytes_max: int) -> bytes:
    """The body without its content codings (RFC 9110, section 8.4: named in the order they were applied).

    Raises BodyError where one is unknown or broken, or what it unfolds into is longer than `bytes_max`.
    """
    named = [each for each in (each.strip().lower() for each in codings.split(",")) if each not in ("", "identity")]
    if len(named) > CODINGS_MAX:
        raise BodyError(f"the body has {len(named)} content codings, more than {CODINGS_MAX}")
    for coding in reversed(named):
        if coding not in UNDO:
            raise BodyError(f"the body's content coding {coding[:40]!r} is none of {', '.join(UNDO)}")
        body = _gathered(UNDO[coding](body, bytes_max + 1), coding, bytes_max)
    return body


def _gathered(pieces: Iterator[bytes], coding: str, bytes_max: int) -> bytes:
    undone = bytearray()
    try:
        for piece in pieces:
            undone += piece
            if len(undone) > bytes_max:
                raise BodyError(f"the body unfolds into more than {bytes_max} bytes (HOOKD_CONTENT_BYTES_MAX)")
    except (zlib.error, EOFError) as error:
        raise BodyError(f"the body is not {coding}: {error}") from None
    return bytes(undone)


def _inflated(body: bytes, bytes_max: int, window_bits: int) -> Iterator[bytes]:
    """Each member of the stream (gzip allows several, one after the other), `bytes_max` at most of each piece."""
    rest = memoryview(body)  # in chunks: what is behind a member's end is copied each time
    for _ in range(MEMBERS_MAX):
        inflater = zlib.decompressobj(window_bits)
        while rest and not inflater.eof:
            chunk, rest = rest[:CHUNK_BYTES], rest[CHUNK_BYTES:]
            yield inflater.decompress(chunk, bytes_max)
        if body and not inflater.eof:
            raise EOFError("it ends too early")
        rest = memoryview(body)[len(body) - len(rest) - len(inflater.unused_data) :]
        if window_bits != GZIP or not rest:
            return
    raise EOFError(f"it has more than {MEMBERS_MAX} members")


def _gunzipped(body: bytes, bytes_max: int) -> Iterator[bytes]:
    return _inflated(body, bytes_max, GZIP)


def _deflated(body: bytes, bytes_max: int) -> Iterator[bytes]:
    """With zlib's head, as RFC 9110 has it, or without, as some senders have it."""
    has_head = len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return _inflated(body, bytes_max, ZLIB if has_head else RAW)


def _unbrotlied(body: bytes, bytes_max: int) -> Iterator[bytes]:
    import brotli  # noqa: PLC0415 - few senders use it

    decompressor = brotli.Decompressor()
    try:
        yield decompressor.process(body, output_buffer_limit=bytes_max)
        while not decompressor.can_accept_more_data():
            yield decompressor.process(b"", output_buffer_limit=bytes_max)
    except brotli.error as error:
        raise EOFError(str(error)) from None
    if not decompressor.is_finished():
        raise EOFError("it ends too early")


UNDO: dict[str, Undo] = {
    "gzip": _gunzipped,
    "x-gzip": _gunzipped,
    "deflate": _deflated,
    "br": _unbrotlied,
}


def text(body: bytes, content_type: str, what: str = "the body") -> str:
    """In the character set its Content-Type names, else UTF-8. Raises BodyError where it breaks."""
    try:
        return content.text(body, content_type)
    except UnicodeDecodeError as error:
        raise BodyError(f"{what} is not {error.encoding}: {error.reason} at byte {error.start}") from None


def json(body: bytes) -> Any:
    """Raises BodyError with the place where it breaks."""
    try:
        return content.parse_json(body)
    except UnicodeDecodeError as error:
        raise BodyError(f"the body is not JSON: {error.reason} at byte {error.start}") from None
    except ValueError as error:
        raise BodyError(f"the body is not JSON: {error}") from None


def form(body: bytes, content_type: str) -> Form:
    """URL-encoded or multipart; of a repeated field the last value. Raises BodyError where it is none."""
    if media_type(content_type) == MULTIPART:
        return dict(_parts(body, content_type))
    try:
        return {**content.form(body, content_type)}
    except ValueError as error:
        raise BodyError(f"the body is not a form: {str(error)[:WORDS_CHARACTERS_MAX]}") from None


def _parts(body: bytes, content_type: str) -> Iterator[tuple[str, str | File]]:
    part, value = None, bytearray()
    for event in _multipart(body, _boundary(content_type)):
        if hasattr(event, "headers"):
            part, value = event, bytearray()
        elif part is not None:
            value += event.data
            if not event.more_data:
                yield part.name or "", _value(bytes(value), part)


def _boundary(content_type: str) -> bytes:
    from werkzeug.http import parse_options_header  # noqa: PLC0415 - paid for by those who ask

    _, options = parse_options_header(content_type[: content.CONTENT_TYPE_CHARACTERS_MAX])
    boundary = options.get("boundary", "")
    if not 0 < len(boundary) <= BOUNDARY_CHARACTERS_MAX:
        why = f"a boundary of 1 to {BOUNDARY_CHARACTERS_MAX} characters"
        raise BodyError(f"the body is not a multipart form: its Content-Type does not name {why}")
    return boundary.encode("latin-1", "replace")


def _multipart(body: bytes, boundary: bytes) -> Iterator[Any]:
    """The heads of the form's parts, and after each what it holds, piece by piece."""
    from werkzeug.exceptions import RequestEntityTooLarge  # noqa: PLC0415 - as above
    from werkzeug.sansio import multipart  # noqa: PLC0415

    decoder = multipart.MultipartDecoder(boundary, CHUNK_BYTES + PART_HEAD_BYTES_MAX, max_parts=PARTS_MAX)
    wanted = (multipart.Field, multipart.File, multipart.Data)
    try:
        for start in range(0, len(body), CHUNK_BYTES):
            decoder.receive_data(body[start : start + CHUNK_BYTES])
            while not isinstance(event := decoder.next_event(), multipart.NeedData):
                if isinstance(event, wanted):
                    yield event
        decoder.receive_data(None)
        while not isinstance(event := decoder.next_event(), multipart.Epilogue):
            if isinstance(event, wanted):
                yield event
    except RequestEntityTooLarge:
        limits = f"{PARTS_MAX} parts, or a head of more than {PART_HEAD_BYTES_MAX} bytes"
        raise BodyError(f"the form has more than {limits}") from None
    except ValueError as error:
        raise BodyError(f"the body is not a multipart form: {error}") from None


def _value(value: bytes, part: Any) -> str | File:
    content_type = part.headers.get("Content-Type", "")
    if hasattr(part, "filename"):
        return File(part.filename, content_type or "application/octet-stream", value)
    return text(value, content_type, f"the field {part.name!r}")


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def payload(body: bytes, content_type: str) -> Any:
    """A form where the Content-Type says so, else JSON; None where there is no body. Raises BodyError.

    JSON it is also where curl, told no Content-Type, says that it is a form: forms escape `{` and `[`.
    """
    if not body:
        return None
    media = media_type(content_type)
    if media == URLENCODED and body[:100].lstrip().startswith((b"{", b"[")):
        with contextlib.suppress(BodyError):
            return json(body)
    return form(body, content_type) if media in (URLENCODED, MULTIPART) else json(body)
