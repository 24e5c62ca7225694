"""What users declare: handlers, and the two exceptions that steer what becomes of an event."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

ANY = "*"
RETRY_SECONDS_MAX = 7 * 86_400.0

Function: TypeAlias = Callable[..., Any]
F = TypeVar("F", bound=Function)


class Retry(Exception):
    """Again later: after `after` seconds (cut to 0 … 7 days), or by the schedule. Counts as an attempt."""

    def __init__(self, why: str = "", *, after: float | None = None) -> None:
        super().__init__(why)
        if after is not None and math.isnan(after):
            raise ValueError("after=nan: expected seconds")
        self.after = None if after is None else float(min(max(after, 0), RETRY_SECONDS_MAX))


class Reject(Exception):
    """Failed now, without another attempt."""


@dataclass(frozen=True, slots=True)
class Handler:
    """A function, and the events it takes: of one source or all (`*`), of one type or all (None)."""

    function: Function
    source: str
    event_type: str | None
    is_async: bool
    place: str

    @property
    def name(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))


declared: list[Handler] = []


def on(source: str, *, event: str | None = None) -> Callable[[F], F]:
    """Declare a handler: `@hookd.on("github", event="push")`.

    Without `event` it takes all types of the source that have no handler of their own; `"*"` is every source.
    An `async def` runs in the event loop and is cancelled at its time-out; a `def` runs in a thread.
    """
    if not isinstance(source, str):
        raise TypeError('write @hookd.on("source"), with the source\'s name')

    def declare(function: F) -> F:
        place = _place(function)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{place}: a handler must not yield, for nothing of it would run")
        try:
            inspect.signature(function).bind(None)
        except TypeError:
            raise TypeError(f"{place}: a handler takes one argument, the event") from None
        declared.append(Handler(function, source, event, _is_async(function), place))
        return function

    return declare


def _is_async(function: Function) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _place(function: Function) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)
