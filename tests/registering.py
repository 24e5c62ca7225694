"""Registered sources, as a processor finds them, and what their senders would send."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from chassis.database import Connection
from chassis.vault import Vault
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.samples import Fault, credentials, sample_delivery
from tests.factories import an_event
from tests.processing import VAULT

SECRET = "a-secret-of-the-sample"
SOURCE = """
INSERT INTO hookd.sources (name, provider, mode, options, duplicates, window_seconds, is_probe)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
SECRETS = "INSERT INTO hookd.secrets (source, sealed) VALUES ($1, $2)"


async def a_source(
    connection: Connection,
    name: str = "github",
    provider: str | None = None,
    mode: str = "deferred",
    *,
    secret: str | None = None,
    options: Mapping[str, str] | None = None,
    duplicates: str = "verified",
    window_seconds: int = 604_800,
    is_probe: bool = False,
    vault: Vault = VAULT,
) -> None:
    """Register a source, with the secret that its provider's sample is signed with unless another is given."""
    provider = provider or name
    if secret is None and PROVIDERS[provider].sample is not None:
        secret = credentials(PROVIDERS[provider], time.time()).secret
    if options is None and (sample := PROVIDERS[provider].sample) is not None:
        options = dict(sample.options)
    async with connection.transaction():
        await connection.execute(
            SOURCE, name, provider, mode, json.dumps(options or {}), duplicates, window_seconds, is_probe
        )
        if secret is not None:
            await connection.execute(SECRETS, name, vault.seal(secret.encode()))


async def change_secret(connection: Connection, name: str, secret: str, vault: Vault = VAULT) -> None:
    """Replace all of a source's secrets."""
    async with connection.transaction():
        await connection.execute("DELETE FROM hookd.secrets WHERE source = $1", name)
        await connection.execute(SECRETS, name, vault.seal(secret.encode()))


def sent(provider: str, *, delivery: str = "0001", fault: Fault | None = None) -> Request:
    """The provider's sample, signed now; with `fault` as a forger would send it."""
    known = PROVIDERS[provider]
    assert known.sample is not None
    at = time.time()
    key = credentials(known, at).key
    return sample_delivery(known, key, at, delivery=delivery, fault=fault, options=known.sample.options)


async def a_delivery(
    connection: Connection,
    source: str = "github",
    provider: str | None = None,
    *,
    delivery: str = "0001",
    fault: Fault | None = None,
    body: bytes | None = None,
    received: str | datetime | None = None,
    **columns: Any,
) -> UUID:
    """The row that a receiver makes of the provider's sample: names that stand in headers are known, others not.

    `body`: another than the one that was signed.
    """
    provider = provider or source
    request = sent(provider, delivery=delivery, fault=fault)
    known = PROVIDERS[provider]
    named = PROVIDERS.get(source)
    row: dict[str, Any] = {
        "headers": [list(header) for header in request.headers],
        "event_type": request.header(named.event_type) if named and named.event_type else None,
        "delivery_id": request.header(named.delivery_id) if named and named.delivery_id else None,
        **columns,
    }
    assert known.sample is not None
    return await an_event(
        connection,
        source=source,
        received=received or datetime.now(UTC),
        target=request.target,
        payload=request.body if body is None else body,
        **row,
    )
