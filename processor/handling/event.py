"""What a handler is given."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from processor.handling import body
from processor.handling.body import File, Form

CONTENT_BYTES_MAX = 25 * 1024 * 1024
UNREAD = object()


class Event:
    """One webhook, as it was sent. Made from its row; headers and content are decoded when asked for."""

    __slots__ = ("_body", "_content", "_content_bytes_max", "_headers", "_payload", "_row")

    def __init__(self, row: Mapping[str, Any], body: bytes, content_bytes_max: int = CONTENT_BYTES_MAX) -> None:
        self._row = row
        self._body = body
        self._content_bytes_max = content_bytes_max
        self._headers: list[tuple[str, str]] | None = None
        self._content: bytes | None = None
        self._payload: Any = UNREAD

    @property
    def id(self) -> UUID:
        """The row's id, a UUIDv7: the same in every attempt."""
        value: UUID = self._row["id"]
        return value

    @property
    def source(self) -> str:
        """The first segment of the path: `github` of `/github`."""
        return str(self._row["source"])

    @property
    def event_type(self) -> str | None:
        """The sender's own name for the event, where it gives one: `push`."""
        value: str | None = self._row["event_type"]
        return value

    @property
    def delivery_id(self) -> str | None:
        """The sender's own name for the delivery, the same in each redelivery."""
        value: str | None = self._row["delivery_id"]
        return value

    @property
    def received_at(self) -> datetime:
        """When the request's head was complete, in UTC."""
        return datetime.fromtimestamp(self._row["received_epoch"], UTC)

    @property
    def attempt(self) -> int:
        """1 the first time."""
        return int(self._row["attempts"])

    @property
    def method(self) -> str:
        return str(self._row["method"])

    @property
    def target(self) -> str:
        """Path and query exactly as sent."""
        return str(self._row["target"])

    @property
    def headers(self) -> list[tuple[str, str]]:
        """(name, value) in the order received, repeats kept; values as ISO-8859-1 text."""
        if self._headers is None:
            self._headers = [(name, value) for name, value in json.loads(self._row["headers"])]
        return self._headers

    @property
    def body(self) -> bytes:
        """The body exactly as sent."""
        return self._body

    @property
    def content(self) -> bytes:
        """The body without the compression its Content-Encoding names: gzip, deflate, br.

        Raises ValueError where it is broken, or longer than HOOKD_CONTENT_BYTES_MAX.
        """
        if self._content is None:
            codings = ",".join(value for name, value in self.headers if name.lower() == "content-encoding")
            self._content = body.undone(self._body, codings, self._content_bytes_max)
        return self._content

    @property
    def content_type(self) -> str:
        """The Content-Type header; "" where there is none."""
        return self.header("Content-Type") or ""

    def header(self, name: str) -> str | None:
        """A header's first value, whatever the case of its name."""
        name = name.lower()
        return next((value for each, value in self.headers if each.lower() == name), None)

    def text(self) -> str:
        """The content as text, in the character set its Content-Type names, else UTF-8. Raises ValueError."""
        return body.text(self.content, self.content_type)

    def json(self) -> Any:
        """The content as JSON, whatever its Content-Type. Raises ValueError with the place where it breaks."""
        return body.json(self.content)

    def form(self) -> Form:
        """The content as a form, URL-encoded or multipart: `{name: text or File}`; of a repeated field the last.

        Raises ValueError where it is none.
        """
        return body.form(self.content, self.content_type)

    def files(self) -> dict[str, File]:
        """The files of a multipart form, by their fields' names. Raises ValueError."""
        return {name: value for name, value in self.form().items() if isinstance(value, File)}

    def payload(self) -> Any:
        """What the body says: a form where its Content-Type says so, else JSON; None where there is none.

        The same object each time. Raises ValueError with the place where it breaks.
        """
        if self._payload is UNREAD:
            self._payload = body.payload(self.content, self.content_type)
        return self._payload

    def __repr__(self) -> str:
        return f"<Event {self.id} {self.source} {self.event_type or ''} attempt {self.attempt}>"
