"""A receiver in the test's own event loop that replies by handlers as the test gives them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from chassis.database import Database
from chassis.settings import CommonSettings
from hookd.configuration import Configuration
from hookd.replying.replier import Replier
from ingest.replying import Make
from ingest.settings import IngestSettings
from processor.handling.declare import METHODS, Declaration, Function
from processor.handling.dispatch import Dispatch
from processor.handling.handler import Handler, handler_of
from processor.settings import ProcessorSettings
from protocol.request import Request
from protocol.samples import Fault
from tests.receiving import Local, receiving
from tests.registering import sent
from tests.sending import Answer

PLACE = "app.py:1"
HELD = "SELECT held_by IS NOT NULL FROM hookd.events"
WAITS = "status = 'new' AND held_by IS NULL"


def a_reply(function: Function, source: str = "demo", **declared: Any) -> Handler:
    """A handler of a source that replies, unless told otherwise."""
    return handler_of(Declaration(function, PLACE, **{"source": source, "replies": True, **declared}))


def a_hook(function: Function, rule: str, methods: tuple[str, ...] = METHODS, **declared: Any) -> Handler:
    """A handler of a path that replies, unless told otherwise."""
    return handler_of(
        Declaration(function, PLACE, is_webhook=True, rule=rule, methods=methods, **{"replies": True, **declared})
    )


@asynccontextmanager
async def replying(
    database: Database,
    *handlers: Handler | Function,
    processor: Mapping[str, Any] | None = None,
    reply_database: Database | None = None,
    **settings: Any,
) -> AsyncIterator[Local]:
    """A receiver that replies by these. `processor`: settings of that room; the others are the receiver's own."""
    dispatch = Dispatch([each if isinstance(each, Handler) else a_reply(each) for each in handlers])

    def make(common: CommonSettings, ingest: IngestSettings) -> Make:
        configuration = Configuration(common, ingest, ProcessorSettings(**(processor or {})))
        return partial(Replier, configuration, reply_database or database, dispatch, 1)

    async with receiving(database, replying=make, **settings) as receiver:
        yield receiver


def receipt(answer: Answer) -> UUID:
    """The row's id, of whoever got the usual answer."""
    assert answer.headers["content-type"] == "application/json"
    return answer.id


def delivered(provider: str, *, delivery: str = "0001", fault: Fault | None = None) -> Request:
    """The provider's sample, to a source of its name."""
    return replace(sent(provider, delivery=delivery, fault=fault), target=f"/{provider}")
