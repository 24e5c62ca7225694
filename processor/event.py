"""What a handler is given."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from protocol import content


class Event:
    """One webhook, as it was sent. Made from its row; headers are parsed when asked for."""

    __slots__ = ("_body", "_headers", "_row")

    def __init__(self, row: Mapping[str, Any], body: bytes) -> None:
        self._row = row
        self._body = body
        self._headers: list[tuple[str, str]] | None = None

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

    def header(self, name: str) -> str | None:
        """A header's first value, whatever the case of its name."""
        name = name.lower()
        return next((value for each, value in self.headers if each.lower() == name), None)

    def text(self) -> str:
        """The body as text, in the character set its Content-Type names, else UTF-8. Raises UnicodeDecodeError."""
        return content.text(self.body, self.header("Content-Type") or "")

    def json(self) -> Any:
        """The body as JSON, whatever its Content-Type. Raises ValueError with the place where it breaks."""
        return content.parse_json(self.body)

    def form(self) -> dict[str, str]:
        """The body as a URL-encoded form; of a repeated field the last value. Raises ValueError."""
        return content.form(self.body, self.header("Content-Type") or "")

    def __repr__(self) -> str:
        return f"<Event {self.id} {self.source} {self.event_type or ''} attempt {self.attempt}>"
