"""The text that is signed, made of the request: a template with names in braces."""

import re
from collections.abc import Mapping
from functools import lru_cache

TEMPLATE = re.compile(r"\{(body|timestamp|id|url|method)\}")


@lru_cache(256)
def _parts(template: str) -> tuple[tuple[bytes, str], ...]:
    """Each literal with the name that follows it; behind the last there is none."""
    words = [*TEMPLATE.split(template), ""]
    return tuple((literal.encode(), name) for literal, name in zip(words[::2], words[1::2], strict=True))


@lru_cache(256)
def names_in(template: str) -> tuple[str, ...]:
    return tuple(name for _, name in _parts(template) if name)


def fill(template: str, known: Mapping[str, bytes]) -> bytes:
    """The template with what is known of the request in it."""
    return b"".join([piece for literal, name in _parts(template) for piece in (literal, known[name] if name else b"")])


def latin(text: str) -> bytes:
    return text.encode("latin-1", "replace")  # what no header can hold fits no signature
