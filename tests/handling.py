"""Handlers as an app declares them, and events as a processor hands them over; without a database."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import orjson

from processor.handling import declare
from processor.handling.declare import Declaration
from processor.handling.dispatch import Choice, Dispatch
from processor.handling.event import CONTENT_BYTES_MAX, Event
from processor.handling.handler import Handler, WrongHandlers, handler_of, made

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
PLACE = re.compile(r"^.+?:\d+: ")
SOME_ID = UUID("01980000-0000-7000-8000-000000000000")


@contextmanager
def declared() -> Iterator[list[Declaration]]:
    """What is declared within; it is taken away again, for an app is all that was ever declared in a process."""
    before, found = len(declare.declared), list[Declaration]()
    try:
        yield found
    finally:
        found += declare.declared[before:]
        del declare.declared[before:]


def handler(decorator: Callable[..., Any], function: Any) -> Handler:
    """The handler that a function becomes below this decorator. Raises WrongHandlers."""
    with declared() as found:
        decorator(function)
    return handler_of(found[0])


def dispatch(*declaring: tuple[Callable[..., Any], Any]) -> Dispatch:
    """An app of these decorators and functions. Raises WrongHandlers."""
    return Dispatch(handler(decorator, function) for decorator, function in declaring)


def faults(*declaring: tuple[Callable[..., Any], Any]) -> list[str]:
    """What is wrong with them, without their places."""
    with declared() as found:
        for decorator, function in declaring:
            decorator(function)
    handlers, wrong = made(found)
    try:
        Dispatch(handlers)
    except WrongHandlers as error:
        wrong += error.faults
    return [PLACE.sub("", each) for each in wrong]


def an_event(
    body: bytes = b"{}",
    content_type: str | None = JSON,
    *,
    source: str = "demo",
    event_type: str | None = None,
    method: str = "POST",
    target: str | None = None,
    headers: Sequence[tuple[str, str]] = (),
    attempt: int = 1,
    content_bytes_max: int = CONTENT_BYTES_MAX,
) -> Event:
    """An event as it is when its row was claimed."""
    typed = [] if content_type is None else [("Content-Type", content_type)]
    row = {
        "id": SOME_ID,
        "source": source,
        "event_type": event_type,
        "delivery_id": None,
        "received_epoch": 1_760_000_000.0,
        "attempts": attempt,
        "method": method,
        "target": f"/{source}" if target is None else target,
        "headers": orjson.dumps([*typed, *headers]).decode(),
    }
    return Event(row, body, content_bytes_max)


def run(handler: Handler, event: Event, variables: Mapping[str, Any] | None = None, connection: Any = None) -> Any:
    """What the function returns for this event."""
    return handler.call(event, variables or {}, connection)


def chosen(dispatch: Dispatch, event: Event) -> Choice:
    """Who takes the event, which somebody does."""
    choice = dispatch.find(event)
    assert choice is not None
    return choice


def answered(dispatch: Dispatch, event: Event) -> Any:
    """What the handler of the event returns; None where nobody takes it."""
    choice = dispatch.find(event)
    return None if choice is None else run(choice.handler, event, choice.variables)
