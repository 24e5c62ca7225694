"""Sources as somebody would have registered them, and their senders' requests as they go over the wire."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from chassis.database import Connection
from chassis.vault import Vault
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.signature import NO_OPTIONS
from protocol.source import SECRET, Draft
from tests.receiving import SECRET_KEY

CHANGE_SECONDS = 2.5  # a change is known within 2 s; the rest is for a busy machine
VAULT = Vault(SECRET_KEY, Path("/nowhere"))
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


def wire(request: Request) -> bytes:
    """The request's bytes, its length told in its head."""
    headers = [*request.headers, ("Content-Length", str(len(request.body)))]
    lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + request.body
