"""For tests of your handlers: deliveries and events as each sender makes them, and runs as the processor has them.

Call these from any test framework; for pytest, `pytest_plugins = ["hookd.testing"]` in your conftest.py brings them as
the fixtures `hookd_delivery`, `hookd_event`, `hookd_run` and `hookd_run_async`.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from processor import trial
from processor.effects.store import trial_transaction
from processor.handling import declare
from processor.handling.body import File
from processor.handling.declare import Declaration
from processor.handling.dispatch import Choice, Dispatch
from processor.handling.event import Event
from processor.handling.forms import form_body
from processor.handling.handler import WrongHandlers, handler_of
from processor.handling.reasons import why_not
from processor.outcome import Outcome
from processor.settings import ProcessorSettings
from protocol import storable
from protocol.providers import PROVIDERS
from protocol.providers.provider import Provider
from protocol.request import Request, source_of
from protocol.samples import Fault, credentials, sample_delivery, sample_of
from protocol.signature import with_headers

__all__ = ["NotTaken", "Result", "delivery", "event", "options", "run", "run_async", "secret"]

pytest_plugins = ("hookd.fixtures",)  # read by pytest alone: without it, it is not imported

STATUSES: Mapping[str, Literal["processed", "failed", "retry"]] = {
    "processed": "processed",
    "failed": "failed",
    "new": "retry",
}


class NotTaken(Exception):
    """The handler would never be given that event; says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """What would become of the event. `reason`: why it was not processed; `after`: seconds until it is tried again.

    `value`: what the handler returned; of one with `reply=True` its answer, with `status`, `headers` and `body`.
    `error`: what it raised.
    """

    status: Literal["processed", "failed", "retry"]
    reason: str | None = None
    after: float | None = None
    value: Any = None
    error: BaseException | None = None


def delivery(
    provider: str,
    *,
    type: str | None = None,  # noqa: A002 - as in `hookd send --type`
    secret: str | None = None,
    at: datetime | None = None,
    fault: Fault | None = None,
    target: str | None = None,
    host: str = "hooks.example.com",
    options: Mapping[str, str] | None = None,
    id: str | None = None,  # noqa: A002
) -> Request:
    """A delivery as that provider would send it: `.method`, `.target`, `.headers` and `.body`, signed.

    `type`: the event type, where the provider has one. `secret`: what it is signed with; by default that of
    `secret(provider)`. `at`: when it is signed; by default now. `fault`: "bad-signature", or "old" for one that was
    signed a day before. `id`: of the delivery; by default a new one each time. Raises ValueError for what that provider
    does not send.
    """
    sender = provider_named(provider)
    moment = at.timestamp() if at is not None else time.time()
    return sample_delivery(
        sender,
        secret if secret is not None else credentials(sender, moment).key,
        moment,
        delivery=id or str(uuid4()),
        fault=fault,
        target=target or f"/{provider}",
        host=host,
        options=options if options is not None else sample_of(sender).options,
        event_type=type,
    )


def event(
    provider: str | None = None,
    *,
    type: str | None = None,  # noqa: A002
    json: Any = None,
    form: Mapping[str, str | File] | None = None,
    text: str | None = None,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    path: str | None = None,
    method: str = "POST",
    source: str | None = None,
    attempt: int = 1,
    at: datetime | None = None,
) -> Event:
    """An event as your handler is given it: of that provider's sample, or with a body of your own.

    The body is one of `json`, `form` (with a `hookd.File` in it, multipart), `text` and `body`, and has the
    Content-Type of its kind; `headers` are added to those of the sample, or replace them. `path`: as the sender called
    it, query included; its first segment is the source. Without a provider nothing is sent but what is given here.
    Raises ValueError for what cannot be.
    """
    moment = at or datetime.now(UTC)
    target = path or f"/{source or provider or 'demo'}"
    named = source_of(target)
    if named is None or (source is not None and source != named):
        raise ValueError(f"path={path!r}: its first segment is the source" + (f", {source}" if source else "'s name"))
    sample = delivery(provider, type=type, at=moment, target=target) if provider else Request("POST", target, (), b"")
    request = with_headers(with_body_of(sample, json, form, text, body), list((headers or {}).items()))
    sender = PROVIDERS.get(provider or named, PROVIDERS["none"])
    row = {
        "id": id_at(moment),
        "source": named,
        "event_type": storable.name(type or sender.event_type_of(request)),
        "delivery_id": storable.name(sender.delivery_id_of(request)),
        "received_epoch": moment.timestamp(),
        "attempts": attempt,
        "method": method,
        "target": request.target,
        "headers": headers_of(request),
    }
    return Event(row, request.body)


def run(handler: Callable[..., Any], event: Event, *, timeout: float | None = None) -> Result:
    """Run a handler as the processor would, arguments, threads and time-out included; what would become of the event.

    `handler`: a function, as it is or declared, or a method of an object of your own. `timeout`: in seconds, else as
    declared, else 30. Raises NotTaken where the processor would never give it that event; ValueError where it is no
    handler; RuntimeError where an event loop runs already, or the handler asks for a connection: there, `run_async`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run_async(handler, event, timeout=timeout))
    raise RuntimeError("an event loop runs already: await hookd.testing.run_async(handler, event)")


async def run_async(
    handler: Callable[..., Any], event: Event, *, connection: Any = None, timeout: float | None = None
) -> Result:
    """The same where an event loop runs. `connection`: asyncpg's, for a handler that asks for one.

    It is in a transaction then, committed when the event would be processed, else rolled back; where the connection is
    in one of yours, a savepoint within it.
    """
    choice = choice_for(handler, event)
    if choice.handler.wants_connection and connection is None:
        raise RuntimeError(
            f"{choice.handler.name} asks for a connection: await hookd.testing.run_async(handler, event, connection=…)"
        )
    terms = trial.Terms.of(choice.handler, DEFAULTS)
    if timeout is not None:
        terms = terms._replace(timeout_seconds=timeout)
    transaction = trial_transaction(connection, keep=True) if choice.handler.wants_connection else None
    tried = await trial.run(choice, event, terms, connection, transaction)
    return Result(**told(tried.outcome), value=tried.value, error=tried.error)


# What nobody set: tests depend on no setting of the machine they run on.
DEFAULTS = ProcessorSettings.model_construct()


def told(outcome: Outcome) -> dict[str, Any]:
    after = outcome.delay if outcome.status == "new" else None
    return {"status": STATUSES[outcome.status], "reason": outcome.reason, "after": after}


def choice_for(function: Callable[..., Any], event: Event) -> Choice:
    """How the function takes that event, by one of its declarations; undeclared, it takes any."""
    try:
        handlers = [handler_of(each) for each in declarations_of(function)]
        choice = Dispatch(handlers).find(event)
    except WrongHandlers as error:
        raise ValueError(str(error)) from None
    if choice is None:
        raise NotTaken("; ".join(f"{each.name} ({each.place}): {why_not(each, event)}" for each in handlers))
    return choice


def declarations_of(function: Callable[..., Any]) -> list[Declaration]:
    """A method's are those of its function, with the object it is bound to."""
    declared = getattr(function, "__func__", function)
    found = [replace(each, function=function) for each in declare.declared if each.function is declared]
    return found or [Declaration(function, declare.place_of(function))]


def with_body_of(
    request: Request, json: Any, form: Mapping[str, str | File] | None, text: str | None, body: bytes | None
) -> Request:
    """The request with that body, if there is one."""
    given = [each for each in (json, form, text, body) if each is not None]
    if len(given) > 1:
        raise ValueError("the body is one of json=, form=, text= and body=")
    if json is not None:
        return with_content(request, dumped(json), "application/json")
    if form is not None:
        return with_content(request, *form_body(form))
    if text is not None:
        return with_content(request, text.encode(), "text/plain; charset=utf-8")
    return request if body is None else replace(request, body=body)


def with_content(request: Request, body: bytes, content_type: str) -> Request:
    return with_headers(replace(request, body=body), [("Content-Type", content_type)])


def secret(provider: str) -> str:
    """What the provider's samples are verified with: the secret, or the public key."""
    return credentials(provider_named(provider), time.time()).secret


def options(provider: str) -> dict[str, str]:
    """What a source needs beyond its secret to take the provider's samples."""
    return dict(sample_of(provider_named(provider)).options)


def provider_named(name: str) -> Provider:
    if name not in PROVIDERS:
        raise ValueError(f"no provider {name!r}: one of {', '.join(sorted(PROVIDERS))}")
    return PROVIDERS[name]


def headers_of(request: Request) -> str:
    return json.dumps(list(request.headers))


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def id_at(moment: datetime) -> UUID:
    """A UUIDv7 of that time, as a receiver would mint it."""
    milliseconds = int(moment.timestamp() * 1000)
    random = uuid4().int & ~(0xFFFFFFFFFFFF << 80 | 0xF << 76)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | random)
