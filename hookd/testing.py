"""For tests of your handlers: deliveries and events as each sender makes them, signed.

Call these from any test framework; for pytest, `pytest_plugins = ["hookd.testing"]` in your conftest.py brings them as
the fixtures `hookd_delivery` and `hookd_event`.
"""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from processor.handling.event import Event
from protocol.providers import PROVIDERS
from protocol.providers.provider import Provider
from protocol.request import Request
from protocol.samples import Fault, credentials, sample_delivery, sample_of

__all__ = ["delivery", "event", "options", "secret"]

pytest_plugins = ("hookd.fixtures",)  # read by pytest alone: without it, it is not imported


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
    provider: str,
    *,
    type: str | None = None,  # noqa: A002
    json: Any = None,
    body: bytes | None = None,
    source: str | None = None,
    attempt: int = 1,
    at: datetime | None = None,
) -> Event:
    """An event as your handler is given it: of that provider's sample, or with a body of your own."""
    moment = at or datetime.now(UTC)
    sent = delivery(provider, type=type, at=moment, target=f"/{source or provider}")
    sender = provider_named(provider)
    row = {
        "id": id_at(moment),
        "source": source or provider,
        "event_type": type or sender.event_type_of(sent),
        "delivery_id": sender.delivery_id_of(sent),
        "received_epoch": moment.timestamp(),
        "attempts": attempt,
        "method": sent.method,
        "target": sent.target,
        "headers": headers_of(sent),
    }
    if json is not None:
        body = dumped(json)
    return Event(row, sent.body if body is None else body)


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
