"""A handler: what was declared, made ready to run; and what is wrong with a declaration."""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from processor.handling.arguments import Call, Main, Wanted, WrongArguments, call_of
from processor.handling.declare import (
    ANY,
    RETRIES_MAX,
    RETRY_SECONDS_MAX,
    Declaration,
    Function,
    plain_function,
)
from processor.handling.event import Event
from processor.handling.filters import Filter, FilterError, compiled
from processor.handling.methods import Instances, Unbound
from processor.handling.reply import replying
from processor.handling.rules import Rule, RuleError
from protocol.request import SOURCE

METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Z-]+")
TIMEOUT_SECONDS_MAX = 86_400

T = TypeVar("T")


class WrongHandlers(Exception):
    """What is wrong with handlers; a line each, with its file and line."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """A function, and the events it takes: of one source or all (`*`), of types that match a pattern or all (none).

    `call(event, variables, connection)` calls the function; where it `replies`, what comes of it is an Answer. `waits`:
    seconds before each attempt, where the handler says so; `attempts_max` likewise.
    """

    function: Function
    place: str
    is_async: bool
    call: Call
    source: str = ANY
    event_types: tuple[str, ...] = ()
    where: Filter | None = None
    rule: Rule | None = None
    waits: tuple[float, ...] | None = None
    attempts_max: int | None = None
    timeout_seconds: float | None = None
    replies: bool = False
    wants_connection: bool = False

    @property
    def name(self) -> str:
        named = self.function if hasattr(self.function, "__qualname__") else plain_function(self.function)
        name = getattr(named, "__qualname__", None)
        return name if isinstance(name, str) else repr(self.function)

    def call_in_thread(self, event: Event, variables: Mapping[str, Any]) -> Any:
        """What a `def` returns. Raises what it raises, and TypeError for a coroutine, which nobody would await."""
        result = self.call(event, variables, None)
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(f"{self.name} returned a coroutine: declare it with async def")
        return result


def made(declarations: list[Declaration]) -> tuple[list[Handler], list[str]]:
    """The handlers, and what is wrong with those that are none."""
    handlers, faults, instances = [], list[str](), Instances()
    for declaration in declarations:
        try:
            handlers.append(handler_of(declaration, instances))
        except WrongHandlers as error:
            faults += error.faults
    return handlers, faults


def handler_of(declaration: Declaration, instances: Instances | None = None) -> Handler:
    """Raises WrongHandlers with all that is wrong with it."""
    faults = [*declaration.faults] or [*_faults_of(declaration)]
    handler = None if declaration.faults else _handler(declaration, instances or Instances(), faults)
    if handler is None:
        raise WrongHandlers([f"{declaration.place}: {fault}" for fault in faults])
    return handler


def _handler(declaration: Declaration, instances: Instances, faults: list[str]) -> Handler | None:
    """Looked at from all sides: `faults` gathers what each of them finds."""
    rule = _tried(_rule, declaration, faults)
    where = _tried(_filter, declaration, faults)
    function = _tried(lambda each: instances.bound(each.function), declaration, faults)
    if function is None or (declaration.is_webhook and rule is None):
        return None
    wanted = Wanted(frozenset(rule.variables if rule else ()), _main(declaration), declaration.form_param)
    try:
        call, wants_connection = call_of(function, wanted)
    except WrongArguments as error:
        faults += error.faults
        return None
    is_async = _is_async(function)
    if wants_connection and not is_async:
        faults.append("a connection is for an async def: asyncpg's cannot be used in a thread")
    if wants_connection and declaration.replies:
        faults.append("reply=True and a connection exclude each other: a receiver has none for handlers")
    if faults:
        return None
    waits, attempts_max = _schedule(declaration.retries)
    return Handler(
        function=function, place=declaration.place, is_async=is_async,
        call=replying(call, is_async=is_async) if declaration.replies else call,
        source=rule.source if rule else declaration.source, event_types=declaration.event_types,
        where=where, rule=rule, waits=waits, attempts_max=attempts_max,
        timeout_seconds=declaration.timeout_seconds, replies=declaration.replies, wants_connection=wants_connection,
    )  # fmt: skip


def _tried(work: Callable[[Declaration], T], declaration: Declaration, faults: list[str]) -> T | None:
    try:
        return work(declaration)
    except (RuleError, FilterError, Unbound) as error:
        faults.append(str(error))
        return None


def _rule(declaration: Declaration) -> Rule | None:
    if not declaration.is_webhook:
        return None
    text = declaration.rule
    name = getattr(declaration.function, "__name__", "")
    if text is None and not name.isidentifier():
        raise RuleError('it has no name to be a rule: write @hookd.webhook("/path")')
    return Rule.of(text if text is not None else f"/{name}", declaration.methods)


def _filter(declaration: Declaration) -> Filter | None:
    return None if declaration.where is None else compiled(declaration.where)


def _main(declaration: Declaration) -> Main:
    """What the first parameter is given that says nothing else."""
    if not declaration.is_webhook:
        return "event"
    if declaration.raw:
        return "raw"
    return "payload" if declaration.form_param is None else "field"


def _faults_of(declaration: Declaration) -> Iterator[str]:
    """What is wrong with a declaration, whatever its function is."""
    if declaration.raw and declaration.form_param is not None:
        yield "raw=True and form_param= exclude each other: the raw event has the form, event.form()"
    if declaration.form_param is not None and not isinstance(declaration.form_param, str):
        yield f"form_param={declaration.form_param!r}: expected the name of a field"
    if not declaration.is_webhook:
        yield from _faults_of_interest(declaration.source, declaration.event_types)
    else:
        yield from _faults_of_methods(declaration.methods)
    timeout = declaration.timeout_seconds
    if timeout is not None and (timeout == 0 or not _are_seconds(timeout, TIMEOUT_SECONDS_MAX)):
        yield f"timeout={timeout!r}: expected seconds, up to a day"
    yield from _faults_of_retries(declaration.retries)


def _faults_of_interest(source: object, event_types: tuple[object, ...]) -> Iterator[str]:
    if not isinstance(source, str) or (source != ANY and not SOURCE.fullmatch(source)):
        yield f"{source!r} is no source's name: small letters, digits, and . _ - within; 64 at most"
    if not all(isinstance(each, str) and each for each in event_types):
        yield f"event={list(event_types)!r}: expected names or patterns"


def _faults_of_methods(methods: tuple[object, ...]) -> Iterator[str]:
    if not methods:
        yield "methods=() takes nothing"
    for method in methods:
        if not isinstance(method, str) or not METHOD.fullmatch(method):
            yield f"{method!r} is no method: expected POST, GET, …"


def _faults_of_retries(retries: object) -> Iterator[str]:
    if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int | tuple)):
        yield f"retries={retries!r}: expected how many, or the delays before each, in seconds"
        return
    count = len(retries) if isinstance(retries, tuple) else retries or 0
    if not 0 <= count < RETRIES_MAX:
        yield f"retries={count}: expected 0 to {RETRIES_MAX - 1}"
    for delay in retries if isinstance(retries, tuple) else ():
        if not _are_seconds(delay, RETRY_SECONDS_MAX):
            yield f"retries: a delay of {delay!r}: expected seconds, up to 7 days"


def _are_seconds(value: object, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _schedule(retries: int | tuple[float, ...] | None) -> tuple[tuple[float, ...] | None, int | None]:
    """The waits before each attempt, and how many attempts; None: as the settings say."""
    match retries:
        case None:
            return None, None
        case int(count):
            return None, count + 1
        case delays:
            return (0.0, *delays), len(delays) + 1


def _is_async(function: Function) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


__all__ = ["Handler", "WrongHandlers", "handler_of", "made"]
