"""What a sender calls the event and the delivery: in a header, in the body, or derived from it."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from protocol import content
from protocol.request import Request

Naming: TypeAlias = Callable[[Request], str | None]


@dataclass(frozen=True, slots=True)
class Json:
    """A string or a number in a JSON body; `path` as in `event.type` or `0.id`."""

    path: str

    def __call__(self, request: Request) -> str | None:
        return scalar(at_path(json_of(request), self.path))


@dataclass(frozen=True, slots=True)
class Form:
    """A field of a URL-encoded body; with `path`, a place in the JSON which that field holds."""

    field: str
    path: str = ""

    def __call__(self, request: Request) -> str | None:
        value = form_of(request).get(self.field)
        if value is None or not self.path:
            return value or None
        return scalar(at_path(parsed(value.encode("utf-8", "replace")), self.path))


@dataclass(frozen=True, slots=True)
class Words:
    """Several places joined, all of which must be there: `issue.created`."""

    places: tuple[Naming, ...]
    between: str = "."

    def __call__(self, request: Request) -> str | None:
        words = [place(request) for place in self.places]
        return self.between.join(word for word in words if word) if all(words) else None


@dataclass(frozen=True, slots=True)
class Header:
    """A header's value."""

    name: str

    def __call__(self, request: Request) -> str | None:
        return request.header(self.name) or None


@dataclass(frozen=True, slots=True)
class Derived:
    """A key made of several places, where the sender gives none; none of them may be missing."""

    places: tuple[Naming, ...]

    def __call__(self, request: Request) -> str | None:
        words = [place(request) for place in self.places]
        return key_of(word for word in words if word) if all(words) else None


@dataclass(frozen=True, slots=True)
class Each:
    """A key made of these fields of every item in a list; none may be missing. `path` "" is the body itself."""

    path: str
    fields: tuple[str, ...]

    def __call__(self, request: Request) -> str | None:
        document = json_of(request)
        items = at_path(document, self.path) if self.path else document
        if not isinstance(items, list) or not items:
            return None
        words = [scalar(at_path(item, field)) for item in items for field in self.fields]
        return key_of(word for word in words if word) if all(words) else None


def key_of(words: Iterable[str]) -> str:
    """A key of 64 characters; no other words make the same one."""
    text = "".join(f"{len(word)}:{word}" for word in words)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def same_body(request: Request) -> str | None:
    """The body's hash: two deliveries with the same bytes are one. Only where the body bears its own time."""
    return hashlib.sha256(request.body).hexdigest()


def first_of(places: Iterable[Naming], request: Request) -> str | None:
    return next((name for place in places if (name := place(request))), None)


def json_of(request: Request) -> Any:
    """The body as JSON; None where it is none."""
    return parsed(request.body)


def parsed(text: bytes) -> Any:
    try:
        return content.parse_json(text)
    except ValueError:
        return None


def form_of(request: Request) -> dict[str, str]:
    """The body as a form; empty where it is none."""
    if not (request.header("Content-Type") or "").lower().startswith("application/x-www-form-urlencoded"):
        return {}
    try:
        return content.form(request.body)
    except ValueError:
        return {}


def at_path(value: Any, path: str) -> Any:
    """What stands at `a.b.0` in JSON; None where nothing does."""
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and step.isascii() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def scalar(value: Any) -> str | None:
    """A string that says something, or a whole number."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None
