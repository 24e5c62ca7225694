"""Sources as somebody would have registered them, and what their senders would send."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from chassis.database import Connection
from chassis.vault import Vault
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.samples import Fault, credentials, sample_delivery
from protocol.signature import NO_OPTIONS
from protocol.source import SECRET, Draft
from tests.factories import an_event

SAMPLE_SECRET = "a-secret-of-the-sample"
SECRET_KEY = "aG9va2Qtc2VhbHMtdGVzdHMtd2l0aC10aGlzLWtleSE="
VAULT = Vault(SECRET_KEY, Path("/nowhere"))
CHANGE_SECONDS = 2.5  # a change is known within 2 s; the rest is for a busy machine
ADD = "INSERT INTO hookd.secrets (source, name, sealed, expires_at) VALUES ($1, $2, $3, $4)"


async def register(
    connection: Connection,
    name: str,
    provider: str = "none",
    *secrets: str,
    mode: str = "off",
    options: Mapping[str, str] = NO_OPTIONS,
    vault: Vault = VAULT,
    expires_at: datetime | None = None,
    **columns: Any,
) -> None:
    """Insert a source, its secrets sealed, the newest last. `columns`: any other column of hookd.sources."""
    sealed = {each.name for each in PROVIDERS[provider].options if each.is_secret}
    columns |= {
        "name": name,
        "provider": provider,
        "mode": mode,
        "options": {key: value for key, value in options.items() if key not in sealed},
        "at_receipt": Draft(name, provider, mode).at_receipt,
    }
    values = [json.dumps(value) if isinstance(value, dict) else value for value in columns.values()]
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    async with connection.transaction():
        await connection.execute(f"INSERT INTO hookd.sources ({', '.join(columns)}) VALUES ({places})", *values)
        for secret in secrets:
            await connection.execute(ADD, name, SECRET, vault.seal(secret.encode()), expires_at)
        for key in sealed & options.keys():
            await connection.execute(ADD, name, key, vault.seal(options[key].encode()), None)


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
    await register(
        connection,
        name,
        provider,
        *([] if secret is None else [secret]),
        mode=mode,
        options=options or {},
        vault=vault,
        duplicates=duplicates,
        window_seconds=window_seconds,
        is_probe=is_probe,
    )


async def change_secret(connection: Connection, name: str, secret: str, vault: Vault = VAULT) -> None:
    """Replace all of a source's secrets."""
    async with connection.transaction():
        await connection.execute("DELETE FROM hookd.secrets WHERE source = $1", name)
        await connection.execute(ADD, name, SECRET, vault.seal(secret.encode()), None)


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


def wire(request: Request) -> bytes:
    """The request's bytes, its length told in its head."""
    headers = [*request.headers, ("Content-Length", str(len(request.body)))]
    lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + request.body
