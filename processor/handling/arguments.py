"""What a function is given: by its parameters' names and annotations, decided once, when it is declared.

The one door of pydantic beside the settings: it checks what a payload is annotated with.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from chassis.database import CONNECTION_TYPES
from processor.handling.body import File
from processor.handling.declare import Function, Reject, plain_function
from processor.handling.event import Event

# `call(event, variables, connection)`: the function, given what it asks for.
Call: TypeAlias = Callable[[Event, Mapping[str, Any], Any], Any]
Give: TypeAlias = Callable[[Event, Mapping[str, Any], Any], Any]
# What the first parameter is given that says nothing else: of `raw` whatever its name is.
Main: TypeAlias = Literal["event", "raw", "payload", "field"]

MESSAGE_FAULTS_MAX = 3


class WrongPayload(Reject):
    """The body is not what the handler takes; another attempt would find it so again."""


class WrongArguments(ValueError):
    """Why a function cannot be called."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        super().__init__("; ".join(self.faults))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a declaration says of parameters: the rule's variables, and what the first other one is given."""

    variables: frozenset[str] = frozenset()
    main: Main = "event"
    form_param: str | None = None


def call_of(function: Function, wanted: Wanted) -> tuple[Call, bool]:
    """How to call it, and whether it takes a connection. Raises WrongArguments."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise WrongArguments(["a handler must not yield, for nothing of it would run"])
    plan = _Plan(wanted)
    for parameter in _parameters(function):
        plan.add(parameter)
    plan.end()
    if plan.faults:
        raise WrongArguments(plan.faults)
    return plan.call(function), plan.wants_connection


def _parameters(function: Function) -> list[Parameter]:
    """Its parameters, their annotations no strings any more; of what it returns none is asked."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise WrongArguments([f"its parameters cannot be read: {error}"]) from None
    names = getattr(plain_function(function), "__globals__", {})
    return [each.replace(annotation=_evaluated(each, names)) for each in parameters]


def _evaluated(parameter: Parameter, names: Mapping[str, Any]) -> Any:
    if parameter.annotation is Parameter.empty:
        return parameter.annotation
    alone = SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        return get_type_hints(alone, dict(names), include_extras=True)["it"]
    except Exception as error:  # noqa: BLE001 - an annotation may be any expression
        what = f"the annotation {parameter.annotation!r} of {parameter.name!r}"
        raise WrongArguments([f"{what} cannot be read: {type(error).__name__}: {error}"]) from None


class _Plan:
    """What each parameter is given, found one after the other."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._positional: list[Give] = []
        self._keyword: dict[str, Give] = {}
        self._unused = set(wanted.variables)
        self._takes_rest = False
        self._has_main = False
        self.wants_connection = False
        self.faults: list[str] = []

    def add(self, parameter: Parameter) -> None:
        match parameter.kind:
            case Parameter.VAR_KEYWORD:
                self._takes_rest = True
            case Parameter.VAR_POSITIONAL:
                if not self._has_main:
                    self._positional.append(self._main(Parameter.empty))
            case Parameter.KEYWORD_ONLY:
                if (give := self._given(parameter)) is not None:
                    self._keyword[parameter.name] = give
            case _:
                give, default = self._given(parameter), parameter.default
                self._positional.append(give or (lambda event, variables, connection: default))

    def _given(self, parameter: Parameter) -> Give | None:
        """None: its default."""
        name, mains = parameter.name, self._wanted.main
        match self._kind(parameter):
            case "variable":
                self._unused.discard(name)
                return lambda event, variables, connection: variables[name]
            case "connection":
                self.wants_connection = True
                return lambda event, variables, connection: connection
            case "event":
                self._has_main |= mains in ("event", "raw")
                return _event
            case "payload":
                self._has_main |= mains in ("event", "payload")
                return self._payload(parameter.annotation)
            case "main":
                return self._main(parameter.annotation)
            case "unknown":
                self._refuse(name)
        return None

    def _kind(self, parameter: Parameter) -> str:
        """By its name or its annotation; the first other one is given what the handler is about."""
        name, annotation = parameter.name, _not_none(parameter.annotation)
        has_default = parameter.default is not Parameter.empty
        if name in self._wanted.variables:
            return "variable"
        if annotation is Event or (name == "event" and annotation is Parameter.empty):
            return "event"
        if _is_connection(annotation) or (name in ("conn", "connection") and annotation is Parameter.empty):
            return "connection"
        if name == "payload" and (self._has_main or self._wanted.main in ("event", "payload")):
            return "payload"
        if not self._has_main and not (has_default and parameter.kind is Parameter.KEYWORD_ONLY):
            return "main"
        return "default" if has_default else "unknown"

    def _main(self, annotation: Any) -> Give:
        self._has_main = True
        if self._wanted.main == "field":
            name = self._wanted.form_param or ""
            return self._checked(annotation, _field(name), _step(name))
        if self._wanted.main in ("event", "raw") and annotation in (Parameter.empty, Any):
            return _event
        return self._payload(annotation)

    def _payload(self, annotation: Any) -> Give:
        if _not_none(annotation) is bytes:
            return lambda event, variables, connection: event.content
        if _not_none(annotation) is str:
            return lambda event, variables, connection: event.text()
        return self._checked(annotation, Event.payload, "payload")

    def _checked(self, annotation: Any, take: Callable[[Event], Any], what: str) -> Give:
        if annotation in (Parameter.empty, Any, object):
            return lambda event, variables, connection: take(event)
        try:
            check = _check_of(annotation)
        except Exception as error:  # noqa: BLE001 - pydantic asks the annotation's own code
            self.faults.append(
                f"its annotation {inspect.formatannotation(annotation)} cannot be checked: {_line(error)}"
            )
            return _event
        return lambda event, variables, connection: check(take(event), what)

    def _refuse(self, name: str) -> None:
        known = ["the event (hookd.Event)", "`payload`", "a connection (asyncpg.Connection)"]
        if self._wanted.variables:
            known.append(f"one of the rule's {', '.join(sorted(self._wanted.variables))}")
        self.faults.append(f"nothing is given to its parameter {name!r}: expected {' or '.join(known)}")

    def end(self) -> None:
        """Say what is missing."""
        if self._unused and not self._takes_rest:
            self.faults.append(f"it takes no argument for the rule's {', '.join(sorted(self._unused))}")
        if self._wanted.main == "event" and not self._has_main and not self.faults:
            self.faults.append("a handler takes at least one argument, the event")

    def call(self, function: Function) -> Call:
        if self._positional == [_event] and not self._keyword and not self._takes_rest:
            return lambda event, variables, connection: function(event)
        rest = frozenset(self._unused)
        positional, keyword = tuple(self._positional), tuple(self._keyword.items())

        def call(event: Event, variables: Mapping[str, Any], connection: Any) -> Any:
            given = [give(event, variables, connection) for give in positional]
            named = {name: give(event, variables, connection) for name, give in keyword}
            return function(*given, **named, **{name: variables[name] for name in rest})

        return call


def _not_none(annotation: Any) -> Any:
    """`X` of `X | None`."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    others = [each for each in get_args(annotation) if each is not NoneType]
    return others[0] if len(others) == 1 else annotation


def _is_connection(annotation: Any) -> bool:
    return any(each in (annotation, get_origin(annotation)) for each in CONNECTION_TYPES)


def _event(event: Event, variables: Mapping[str, Any], connection: Any) -> Any:
    return event


def _check_of(annotation: Any) -> Callable[[Any, str], Any]:
    """What makes the annotated type of a payload, or raises WrongPayload. Raises whatever pydantic does."""
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - paid for by those who ask

    adapter = TypeAdapter[Any](annotation)
    adapter.rebuild(raise_errors=True)  # of a type that is not there yet, at the first event would be too late

    def check(found: Any, what: str) -> Any:
        try:
            return adapter.validate_python(found)
        except ValidationError as error:
            raise WrongPayload(_told(error.errors(include_input=False, include_url=False), what)) from None

    return check


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _field(name: str) -> Callable[[Event], Any]:
    """A field of the form: decoded where it is JSON, else its text; a file as it is."""

    def take(event: Event) -> Any:
        form = event.form()
        if name not in form:
            raise WrongPayload(f"the form has no field {name!r}")
        value = form[name]
        if isinstance(value, File):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value

    return take


def _told(errors: list[Any], what: str) -> str:
    """`payload.repository.id: Input should be a valid integer`, of several the first few."""
    lines = [f"{'.'.join((what, *map(_step, each['loc'])))}: {each['msg']}" for each in errors[:MESSAGE_FAULTS_MAX]]
    more = len(errors) - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more else "")


def _step(key: int | str) -> str:
    """A key as it is; what a sender made unreadable, escaped."""
    return key if isinstance(key, str) and key.isprintable() else repr(key)
