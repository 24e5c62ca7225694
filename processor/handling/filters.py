"""`where=`: a JMESPath expression that an event must make true. The one door of jmespath.

Chosen over CEL (common-expression-language 0.10), which takes the whole payload over into another language's objects
for each expression: 1 ms for a payload of 8 kB, where JMESPath walks the ones there are in 5 µs. It is imported when
the first filter is declared.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from processor.handling.event import Event
from protocol.request import query_of

NAMES: Final = (
    "payload", "headers", "query", "source", "event_type", "delivery_id", "method", "target", "attempt",
)  # fmt: skip
# Of these, what is asked first is asked of the event itself, and the rest of what comes of that.
LEFT_FIRST = {"subexpression", "index_expression", "pipe", "projection", "value_projection", "filter_projection"}


class FilterError(ValueError):
    """The expression cannot be used; says why."""


class Filter:
    """An expression, parsed."""

    def __init__(self, expression: str, parsed: Any) -> None:
        from jmespath.visitor import TreeInterpreter  # noqa: PLC0415 - see above

        self.expression = expression
        self._parsed = parsed
        self._interpreter = TreeInterpreter()  # to make one takes as long as to ask it
        self._told = [(name, _TOLD[name]) for name in sorted(set(_names(parsed)))]

    def takes(self, event: Event) -> bool:
        """Raises FilterError where the event has not what the expression takes for granted, BodyError for its body."""
        told = {name: tell(event) for name, tell in self._told}
        try:
            found = self._interpreter.visit(self._parsed, told)
        except Exception as error:  # noqa: BLE001 - a sender's numbers overflow, and lists are nested too deeply
            raise FilterError(_line(error)) from None
        return bool(found) or _is_number(found)  # zero is true, as JMESPath has it


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def compiled(expression: str) -> Filter:
    """Raises FilterError, also for what would fail at every event: an unknown function, or name."""
    import jmespath  # noqa: PLC0415 - see above

    try:
        parsed = jmespath.compile(expression).parsed
    except Exception as error:  # noqa: BLE001 - its parser raises more than its own
        raise FilterError(f"where={expression!r}: {_line(error)}") from None
    if faults := list(_faults_of(parsed)):
        raise FilterError(f"where={expression!r}: {'; '.join(faults)}")
    return Filter(expression, parsed)


def _line(error: Exception) -> str:
    """In a line; without the sender's value, which may be long."""
    from jmespath.exceptions import JMESPathError, JMESPathTypeError  # noqa: PLC0415 - see above

    if isinstance(error, JMESPathTypeError):
        return f"{error.function_name}() takes {' or '.join(error.expected_types)}, not {error.actual_type}"
    first = str(error).partition("\n")[0].rstrip(":").removesuffix(", for expression")
    return first if isinstance(error, JMESPathError) else f"{type(error).__name__}: {first}"


def _faults_of(node: Mapping[str, Any]) -> Iterator[str]:
    from jmespath.functions import Functions  # noqa: PLC0415 - see above

    for name, given in sorted(set(_calls(node))):
        known = Functions.FUNCTION_TABLE.get(name)
        if known is None:
            yield f"there is no function {name}"
        elif not _fits(given, known["signature"]):
            yield f"{name}() takes {len(known['signature'])} arguments, not {given}"
    if any(_asks_of_a_negation(each) for each in _walk(node)):
        yield "`!` is closer than what follows: write !(payload.x), not !payload.x"
    names = set(_names(node))
    if unknown := sorted(names - set(NAMES)):
        yield f"{', '.join(unknown)} is none of {', '.join(NAMES)} (text is written 'so', a number, true or null `so`)"
    if not names:
        yield f"it asks nothing of the event: expected one of {', '.join(NAMES)}"


def _fits(given: int, signature: Sequence[Mapping[str, Any]]) -> bool:
    is_open = bool(signature) and bool(signature[-1].get("variadic"))
    return given >= len(signature) if is_open else given == len(signature)


def _calls(node: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The functions it calls, and how many arguments each is given."""
    for each in _walk(node):
        if each["type"] == "function_expression":
            yield each["value"], len(each["children"])


def _walk(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in _children(node):
        yield from _walk(child)


def _asks_of_a_negation(node: Mapping[str, Any]) -> bool:
    """`!payload.x` is the field x of what is true or false, and never true."""
    return node["type"] in LEFT_FIRST and node["children"][0]["type"] == "not_expression"


def _names(node: Mapping[str, Any]) -> Iterator[str]:
    """The names that an expression asks of the event itself."""
    if node["type"] == "field":
        yield node["value"]
    elif node["type"] == "current":
        yield from NAMES
    elif node["type"] != "expref":  # that is asked of a list's elements
        for child in _children(node)[: 1 if node["type"] in LEFT_FIRST else None]:
            yield from _names(child)


def _children(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [child for child in node["children"] if isinstance(child, Mapping)]


def _headers(event: Event) -> dict[str, str]:
    return {name.lower(): value for name, value in event.headers}


_TOLD: Mapping[str, Any] = {
    "payload": Event.payload,
    "headers": _headers,
    "query": lambda event: query_of(event.target),
    "source": lambda event: event.source,
    "event_type": lambda event: event.event_type,
    "delivery_id": lambda event: event.delivery_id,
    "method": lambda event: event.method,
    "target": lambda event: event.target,
    "attempt": lambda event: event.attempt,
}
