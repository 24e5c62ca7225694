"""Arguments made of a fuzzer's bytes, by their annotations. A type that protocol/ begins to take joins by a line."""

import typing
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType

ITEMS_MAX = 8
INT_MAX = 65_535  # what protocol/ takes as a number is a limit of ours, or a port


class Source(typing.Protocol):
    """What atheris.FuzzedDataProvider does."""

    def ConsumeBytes(self, count: int) -> bytes: ...  # noqa: N802 - their names
    def ConsumeUnicode(self, count: int) -> str: ...  # noqa: N802
    def ConsumeIntInRange(self, low: int, high: int) -> int: ...  # noqa: N802
    def ConsumeBool(self) -> bool: ...  # noqa: N802
    def remaining_bytes(self) -> int: ...


def some_bytes(source: Source) -> bytes:
    return source.ConsumeBytes(source.ConsumeIntInRange(0, source.remaining_bytes()))


def some_text(source: Source) -> str:
    """Text as headers hold it, a character a byte; or any characters, lone surrogates too."""
    if source.ConsumeBool():
        return some_bytes(source).decode("latin-1")
    return source.ConsumeUnicode(source.ConsumeIntInRange(0, source.remaining_bytes()))


PLAIN: dict[object, Callable[[Source], object]] = {
    bytes: some_bytes,
    bytearray: lambda source: bytearray(some_bytes(source)),
    str: some_text,
    int: lambda source: source.ConsumeIntInRange(0, INT_MAX),
    bool: lambda source: source.ConsumeBool(),
    NoneType: lambda source: None,
    typing.Any: some_text,
}


def make(hint: object, source: Source) -> object:
    """A value that the annotation allows. Raises KeyError for a type that nobody declared here."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, UnionType):
        return make(inner[source.ConsumeIntInRange(0, len(inner) - 1)], source)
    if kind in (list, Sequence):
        return [make(inner[0], source) for _ in range(source.ConsumeIntInRange(0, ITEMS_MAX))]
    if kind in (dict, Mapping):
        return {make(inner[0], source): make(inner[1], source) for _ in range(source.ConsumeIntInRange(0, ITEMS_MAX))}
    return PLAIN[hint](source)


def is_makeable(hint: object) -> bool:
    """Whether every type in it is declared here."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind is None:
        return hint in PLAIN
    return kind in (typing.Union, UnionType, list, Sequence, dict, Mapping) and all(map(is_makeable, inner))
