"""What users write: which function takes which events, and the exceptions that steer what becomes of an event."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import FunctionType
from typing import Any, NoReturn, TypeAlias, TypeVar, overload

ANY = "*"
RETRY_SECONDS_MAX = 7 * 86_400.0
RETRIES_MAX = 100
METHODS = ("POST", "GET")

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
class Response:
    """An answer to the sender, from a handler with `reply=True`: `body` as str, bytes, or what becomes JSON."""

    body: Any = None
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()


class Aborted(Exception):
    """Ended by `abort`."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"aborted: {response.status} {phrase(response.status)}".rstrip())
        self.response = response


def abort(status: int, body: Any = None) -> NoReturn:
    """End the handler. With `reply=True` the sender is answered so; without, the event has failed."""
    raise Aborted(Response(body if body is not None else phrase(status), status))


def phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else ""


@dataclass(frozen=True, slots=True)
class Declaration:
    """A function as it was declared. `rule`: a path with variables, below the receiver's prefix."""

    function: Function
    place: str
    is_webhook: bool = False
    source: str = ANY
    event_types: tuple[str, ...] = ()  # patterns; none: every type
    where: str | None = None
    rule: str | None = None
    methods: tuple[str, ...] = METHODS
    form_param: str | None = None
    raw: bool = False
    retries: int | tuple[float, ...] | None = None
    timeout_seconds: float | None = None
    replies: bool = False
    faults: tuple[str, ...] = ()


declared: list[Declaration] = []


def on(
    source: str,
    *,
    event: str | Iterable[str] | None = None,
    where: str | None = None,
    retries: int | Iterable[float] | None = None,
    timeout: float | None = None,
    reply: bool = False,
) -> Callable[[F], F]:
    """Declare a handler: `@hookd.on("github", event="push")`.

    `event`: a type, several, or patterns with `*`; without, all types that have no handler of their own. `"*"` is every
    source. `where`: a JMESPath expression over `payload`, `headers`, `query` and the event's fields. `retries`: how
    many, or the delays before each, in seconds; `timeout`: of a run, in seconds; both else as the settings say.
    `reply`: run in the receiver, and answer the sender with what is returned.

    An `async def` runs in the event loop and is cancelled at its time-out; a `def` runs in a thread. What cannot be is
    told when the app is loaded.
    """
    if _is_function(source):  # a bare @hookd.on
        return _misused(source, 'write @hookd.on("source"), with the source\'s name')  # type: ignore[no-any-return]
    return _declaring(
        Declaration(
            _nothing,
            "",
            source=source,
            event_types=() if event is None else _several(event),
            where=where,
            retries=_delays(retries),
            timeout_seconds=timeout,
            replies=reply,
        )
    )


@overload
def webhook(rule: F) -> F: ...


@overload
def webhook(
    rule: str | None = None,
    *,
    methods: Iterable[str] = METHODS,
    form_param: str | None = None,
    raw: bool = False,
    where: str | None = None,
    retries: int | Iterable[float] | None = None,
    timeout: float | None = None,
    reply: bool = False,
) -> Callable[[F], F]: ...


def webhook(
    rule: Any = None,
    *,
    methods: Iterable[str] = METHODS,
    form_param: str | None = None,
    raw: bool = False,
    where: str | None = None,
    retries: int | Iterable[float] | None = None,
    timeout: float | None = None,
    reply: bool = False,
) -> Any:
    """Declare a handler of a path: `@hookd.webhook`, or `@hookd.webhook("/deploy/<name>/<int:number>")`.

    Without a rule it is the function's name. The first segment is the source; variables (`<name>`, `<int:n>`,
    `<float:x>`, `<uuid:id>`, `<path:rest>`, `<any(a,b):x>`) arrive as arguments of their names. The function is given
    what the body says, JSON or form; with `form_param` that field of the form, decoded if it is JSON; with `raw` the
    event. The rest as in `hookd.on`.
    """
    declaring = _declaring(
        Declaration(
            _nothing,
            "",
            is_webhook=True,
            where=where,
            rule=None if _is_function(rule) else rule,
            methods=_several(methods),
            form_param=form_param,
            raw=raw,
            retries=_delays(retries),
            timeout_seconds=timeout,
            replies=reply,
        )
    )
    return declaring(rule) if _is_function(rule) else declaring


def _is_function(given: Any) -> bool:
    return callable(given) or isinstance(given, classmethod)  # which is none until it is looked up in its class


def _declaring(declaration: Declaration) -> Callable[[F], F]:
    def declare(function: F) -> F:
        declared.append(replace(declaration, function=function, place=place_of(function)))
        return function

    return declare


# What is of another type than it should be is kept as it is, and told when the app is loaded.


def _several(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else (given,)


def _delays(retries: Any) -> Any:
    return tuple(retries) if isinstance(retries, Iterable) and not isinstance(retries, str | bytes) else retries


def _nothing() -> None:
    """Stands where the function is not known yet."""


def _misused(function: Any, says: str) -> Any:
    declared.append(Declaration(function, place_of(function), faults=(says,)))
    return function


def place_of(function: Any) -> str:
    """`file:line` of its code; of what has none, of the line that declares it."""
    plain = plain_function(function)
    if plain is not None:
        return f"{plain.__code__.co_filename}:{plain.__code__.co_firstlineno}"
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else repr(function)


def plain_function(function: Any) -> FunctionType | None:
    """What a partial, a method, a wrapper or a callable object comes down to; None where that is no Python."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if inspect.ismethod(function):
        return plain_function(function.__func__)
    if isinstance(function, FunctionType):
        return function
    called = inspect.getattr_static(type(function), "__call__", None)
    return called if isinstance(called, FunctionType) else None
