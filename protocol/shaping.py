"""A sample made to measure: with another event type, or a body of so many bytes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from protocol import content
from protocol.naming import Form, Header, Json, Naming, Words, json_of
from protocol.providers.provider import Provider
from protocol.request import Request
from protocol.signature import with_headers

PADDING = "padding"  # the field that fills a body up; no sender has one of that name


def typed(provider: Provider, request: Request, event_type: str) -> Request:
    """The request, not signed yet, with that event type wherever its own stands. Raises ValueError."""
    now = provider.event_type_of(request)
    if now is None:
        raise ValueError("this sender names no event types")
    header = (Header(provider.event_type),) if provider.event_type else ()
    for place in (*header, *provider.event_types):
        if place(request) == now:
            request = put(request, place, now, event_type)
    if provider.event_type_of(request) != event_type:
        raise ValueError(f"this sender has no event type such as {event_type!r}: its sample's is {now}")
    return request


def put(request: Request, place: Naming, now: str, name: str) -> Request:
    """Another name where `now` stands. Raises ValueError where it cannot stand there."""
    if isinstance(place, Header):
        if not (name.isascii() and name.isprintable()):
            raise ValueError("an event type in a header is printable ASCII")
        return with_headers(request, [(place.name, name)])
    if isinstance(place, Json):
        return replace(request, body=content.to_json(placed(json_of(request), place.path.split("."), name)))
    if isinstance(place, Form):
        fields = parse_qsl(request.body.decode(), keep_blank_values=True)
        return replace(request, body=urlencode([(k, name if k == place.field else v) for k, v in fields]).encode())
    if isinstance(place, Words):
        words = name.split(place.between, len(place.places) - 1)
        if len(words) < len(place.places):
            raise ValueError(f"expected {len(place.places)} words with {place.between!r} between, as in {now}")
        for each, word in zip(place.places, words, strict=True):
            request = put(request, each, now, word)
        return request
    # The name is a field's own, as at X.
    document = json_of(request)
    return replace(request, body=content.to_json({name if k == now else k: v for k, v in document.items()}))


def placed(document: Any, path: list[str], value: str) -> Any:
    """JSON with `value` at the path, which is there already."""
    step, *rest = path
    key = int(step) if isinstance(document, list) else step
    document[key] = placed(document[key], rest, value) if rest else value
    return document


def sized(request: Request, body_bytes: int, sign: Callable[[Request], Request]) -> Request:
    """The request, signed, with a body of exactly so many bytes. Raises ValueError where that is too few."""
    least = len(sign(padded(request, 0)).body)  # some sign in the body
    if body_bytes < least:
        raise ValueError(f"a body of {body_bytes} bytes: this sender's has {least} at least")
    return sign(padded(request, body_bytes - least))


def padded(request: Request, count: int) -> Request:
    """So many bytes more than with none: in a field of JSON or of a form, or in a comment of XML."""
    filling = "x" * count
    document = json_of(request)
    if isinstance(document, list) and document and isinstance(document[0], dict):
        body = content.to_json([document[0] | {PADDING: filling}, *document[1:]])
    elif isinstance(document, dict):
        body = content.to_json(document | {PADDING: filling})
    elif request.body.startswith(b"<"):
        body = request.body + f"<!--{filling}-->".encode()
    else:
        body = request.body + f"&{PADDING}={filling}".encode()
    return replace(request, body=body)
