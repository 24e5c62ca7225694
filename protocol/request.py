"""A webhook as it arrived, before it is a row."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, urlsplit

TARGETS_MAX = 1024  # remembered: senders repeat theirs, and a lookup is a fifth of the work
TARGET_CHARACTERS_MAX = 1024  # of one that is remembered: a head has room for 64 times that, and anybody may send it

QUERY_FIELDS_MAX = 1000

SOURCE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def path_of(target: str) -> str:
    """The path of a request target; in absolute form (http://host/path) what follows the host counts."""
    path = target.partition("?")[0]
    if not path.startswith("/"):
        _, scheme, rest = path.partition("://")
        path = "/" + rest.partition("/")[2] if scheme else path
    return path


def source_of(target: str, prefix: str = "") -> str | None:
    """The source a target names: the first segment after the prefix, or None where that is not a source name."""
    named = _source_of if len(target) <= TARGET_CHARACTERS_MAX else _source_of.__wrapped__
    return named(target, prefix)


@lru_cache(TARGETS_MAX)
def _source_of(target: str, prefix: str) -> str | None:
    path = path_of(target)
    if not path.startswith(prefix + "/"):
        return None
    segment = path[len(prefix) + 1 :].partition("/")[0]
    return segment if SOURCE.fullmatch(segment) else None


@dataclass(frozen=True, slots=True)
class Request:
    """A webhook, whole. `headers`: (name, value) in the order received, values as ISO-8859-1 text."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """A header's first value, whatever the case of its name."""
        name, length = name.lower(), len(name)
        for each, value in self.headers:
            if len(each) == length and each.lower() == name:  # most differ in their length already
                return value
        return None

    def values(self, name: str) -> list[str]:
        """All values of a header, in the order received."""
        name = name.lower()
        return [value for each, value in self.headers if each.lower() == name]

    def query(self) -> dict[str, str]:
        """The query's fields; of a repeated one the last value. A query that cannot be read has none."""
        return query_of(self.target)

    def urls(self, entered: str | None = None) -> Iterator[str]:
        """What the sender may call this request's URL: as entered there, else with the host it asked for."""
        if entered:
            parts = urlsplit(entered)
            yield entered
            yield f"{parts.scheme}://{parts.netloc}{self.target}"
            return
        host = self.header("Host") or ""
        for scheme in ("https", "http"):  # whoever ends the TLS before us leaves no trace that could be trusted
            yield f"{scheme}://{host}{self.target}"


@lru_cache(TARGETS_MAX)
def _query(text: str) -> Mapping[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX))
    except ValueError:
        return {}


def query_of(target: str) -> dict[str, str]:
    """The fields of a target's query; of a repeated one the last value."""
    text = target.partition("?")[2]
    return dict(_query(text) if len(text) <= TARGET_CHARACTERS_MAX else _query.__wrapped__(text))
