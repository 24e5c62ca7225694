"""A request made of words on a command line, as a sender would have sent it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote

import click

from hookd import testing
from protocol import content
from protocol.providers import PROVIDERS
from protocol.providers.provider import Provider
from protocol.request import Request, source_of
from protocol.signature import with_headers

PATH_CHARACTERS = "/?&=%:@!$'()*+,;~[]"  # what RFC 3986 allows as it is; all else is percent-encoded, as curl does
JSON, FORM, TEXT, BYTES = (
    "application/json", "application/x-www-form-urlencoded", "text/plain", "application/octet-stream",
)  # fmt: skip
NOBODY = PROVIDERS["none"]


@dataclass(frozen=True)
class Crafted:
    """A request, what the sender's provider calls it, and whether its Content-Type was guessed."""

    source: str
    request: Request
    event_type: str | None
    delivery_id: str | None
    is_guessed: bool


def crafted(
    words: Sequence[str],
    *,
    source: str | None = None,
    event_type: str | None = None,
    provider: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
    method: str = "POST",
    prefix: str = "",
) -> Crafted:
    """What was asked for: `/path content…`, or a source and a file. Raises click's UsageError."""
    target, body = _called(words, prefix) if source is None else _addressed(words, f"{prefix}/{source}")
    named = source_of(target, prefix)
    if named is None or source not in (None, named):
        raise click.UsageError(f"{source or target!r}: expected a source's name: [a-z0-9][a-z0-9._-]{{0,63}}")
    sender = PROVIDERS.get(provider or named, NOBODY)
    request = _sample(provider or named, event_type, target) if body is None else Request(method, target, (), body)
    request = replace(with_headers(request, [(_latin(name), _latin(value)) for name, value in headers]), method=method)
    return _told(named, request, sender, event_type)


def _called(words: Sequence[str], prefix: str) -> tuple[str, bytes]:
    """The target and the body of `/path content…`; the content's words are joined by blanks."""
    if not words or not words[0].startswith("/"):
        raise click.UsageError("expected a path (/github), or --source with a file")
    path, text = words[0], " ".join(words[1:])
    path = path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path
    target = prefix + quote(path, safe=PATH_CHARACTERS, errors="surrogateescape")
    return target, _read(text[1:]) if text.startswith("@") else text.encode("utf-8", "surrogateescape")


def _addressed(words: Sequence[str], target: str) -> tuple[str, bytes | None]:
    """The target, and the file's bytes; None where no file is named."""
    if len(words) > 1:
        raise click.UsageError("with --source there is one file at most, or - for standard input")
    return target, _read(words[0]) if words else None


def _sample(provider: str, event_type: str | None, target: str) -> Request:
    """What that provider would send; of whom nobody knows, nothing."""
    if PROVIDERS.get(provider, NOBODY) is NOBODY:
        return Request("POST", target, (), b"")
    try:
        return testing.delivery(provider, type=event_type, target=target)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _told(source: str, request: Request, sender: Provider, event_type: str | None) -> Crafted:
    """With the Content-Type that it lacks, and its names; a type that is given stands where the sender puts it."""
    if event_type is not None and sender.event_type is not None and request.header(sender.event_type) is None:
        request = with_headers(request, [(sender.event_type, _latin(event_type))])
    is_guessed = bool(request.body) and request.header("Content-Type") is None
    if is_guessed:
        request = with_headers(request, [("Content-Type", guessed(request.body))])
    return Crafted(
        source, request, event_type or sender.event_type_of(request), sender.delivery_id_of(request), is_guessed
    )


def guessed(body: bytes) -> str:
    """The Content-Type of a body that came without: JSON, a form with JSON in its first field, else text."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return BYTES
    if _is_json(text):
        return JSON
    return FORM if _is_json(unquote(text.partition("=")[2])) else TEXT


def _is_json(text: str) -> bool:
    try:
        content.parse_json(text.encode())
    except ValueError:
        return False
    return True


def _latin(words: str) -> str:
    """As it would travel: bytes, read as ISO-8859-1."""
    return words.encode("utf-8", "surrogateescape").decode("latin-1")


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from None
