"""Why a handler does not take an event: in words, for whoever tries one out."""

from collections.abc import Iterator
from typing import NamedTuple

from processor.handling.body import BodyError
from processor.handling.declare import ANY
from processor.handling.dispatch import Choice, Dispatch, specificity
from processor.handling.event import Event
from processor.handling.filters import Filter, FilterError
from processor.handling.handler import Handler
from processor.handling.rules import Rules


class Passed(NamedTuple):
    """A handler that the event passed by."""

    handler: Handler
    why: str


def passed_by(dispatch: Dispatch, event: Event, choice: Choice | None) -> list[Passed]:
    """Those asked before the handler that takes it; where none does, all that name its source or any."""
    if choice is None:
        near = [each for each in dispatch.handlers if each.source in (event.source, ANY)]
    else:
        near = list(_asked_before(dispatch, event, choice.handler))
    return [Passed(each, why_not(each, event)) for each in near]


def _asked_before(dispatch: Dispatch, event: Event, taker: Handler) -> Iterator[Handler]:
    for each in dispatch.candidates(event.source, event.event_type, event.method, event.target):
        if each.handler is taker:
            return
        yield each.handler


def why_not(handler: Handler, event: Event) -> str:
    """Why it did not take the event."""
    if handler.source not in (event.source, ANY):
        return f"it takes {handler.source!r}, not {event.source!r}"
    if handler.rule is not None:
        rules = Rules([handler])
        if not any(rules.match(event.source, method, event.target) for method in handler.rule.methods):
            return f"its path is {handler.rule.text}"
        if event.method not in handler.rule.methods:
            return f"it takes {', '.join(sorted(handler.rule.methods))}, not {event.method}"
    elif specificity(handler, event.event_type) is None:
        return f"it takes {', '.join(map(repr, handler.event_types))}, not event type {event.event_type!r}"
    if handler.where is not None and not _passes(handler.where, event):
        return f"where={handler.where.expression!r} is not so"
    return "a handler that goes before it takes it, or a rule that says more of the path"


def _passes(where: Filter, event: Event) -> bool:
    try:
        return where.takes(event)
    except (BodyError, FilterError):
        return False
