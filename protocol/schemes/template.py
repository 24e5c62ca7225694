"""The text that is signed, made of the request: a template with names in braces."""

import re
from collections.abc import Mapping
from functools import lru_cache

TEMPLATE = re.compile(r"\{(body|timestamp|id|url|method)\}")


@lru_cache(256)
def _form(template: str) -> tuple[bytes, tuple[str, ...]]:
    """The literals with a %b for each name, and the names: it is filled for every delivery."""
    words = TEMPLATE.split(template)
    return b"%b".join(literal.encode().replace(b"%", b"%%") for literal in words[::2]), tuple(words[1::2])


def names_in(template: str) -> tuple[str, ...]:
    return _form(template)[1]


def fill(template: str, known: Mapping[str, bytes]) -> bytes:
    """The template with what is known of the request in it."""
    form, names = _form(template)
    return form % tuple([known[name] for name in names])


def latin(text: str) -> bytes:
    return text.encode("latin-1", "replace")  # what no header can hold fits no signature
