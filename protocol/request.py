"""A webhook as it arrived, before it is a row."""

import re
from functools import lru_cache

TARGETS_MAX = 1024  # remembered: senders repeat theirs, and a lookup is a fifth of the work

SOURCE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def path_of(target: str) -> str:
    """The path of a request target; in absolute form (http://host/path) what follows the host counts."""
    path = target.partition("?")[0]
    if not path.startswith("/"):
        _, scheme, rest = path.partition("://")
        path = "/" + rest.partition("/")[2] if scheme else path
    return path


@lru_cache(TARGETS_MAX)
def source_of(target: str, prefix: str = "") -> str | None:
    """The source a target names: the first segment after the prefix, or None where that is not a source name."""
    path = path_of(target)
    if not path.startswith(prefix + "/"):
        return None
    segment = path[len(prefix) + 1 :].partition("/")[0]
    return segment if SOURCE.fullmatch(segment) else None
