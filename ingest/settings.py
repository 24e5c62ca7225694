"""The receiver's settings."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from chassis.settings import Settings, a_postgres_url

MIB = 1024 * 1024


def a_prefix(value: str) -> str:
    value = value.rstrip("/")
    if value and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
        raise ValueError("expected a path such as /hooks")
    if value.startswith("/-"):
        raise ValueError("/- is where hookd's own pages are")
    return value


def a_list(value: object) -> object:
    return [part for part in re.split(r"[\s,]+", value) if part] if isinstance(value, str) else value


def networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            ipaddress.ip_network(value)
        except ValueError as error:
            raise ValueError(f"expected addresses or networks such as 10.0.0.0/8: {error}") from None
    return values


class IngestSettings(Settings):
    """What `hookd ingest` reads."""

    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 or :: for all")
    port: int = Field(default=8080, ge=0, le=65535, description="port to listen on; 0: a free one")
    workers: int = Field(default=1, ge=1, le=64, description="receiver processes")
    share_port: bool = Field(default=False, description="listen beside another hookd on the same port")
    tls_cert: Path | None = Field(
        default=None,
        description="file with the certificate, and its chain, in PEM: https is spoken; see hookd certificate",
    )
    tls_key: Path | None = Field(default=None, description="file with its private key in PEM, without a password")
    prefix: Annotated[str, AfterValidator(a_prefix)] = Field(
        default="", description="path before the source, such as /hooks"
    )
    unknown_sources: Literal["auto", "store", "reject"] = Field(
        default="auto",
        description="a source nobody registered: store, reject (404), or auto: store while none is registered",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(a_list), AfterValidator(networks)] = Field(
        default=(), description="addresses or networks whose X-Forwarded-For is believed"
    )
    head_timeout_seconds: float = Field(
        default=10.0, gt=0, le=600, description="a request's head must be complete by then"
    )
    body_timeout_seconds: float = Field(
        default=10.0, gt=0, le=600, description="a body may stand still for so long; it must come at 64 KiB/s over all"
    )
    body_bytes_max: int = Field(
        default=25 * MIB, ge=1024, le=512 * MIB, description="largest body (25 MiB is GitHub's own cap)"
    )
    inflight_bytes_max: int = Field(
        default=256 * MIB,
        ge=2 * MIB,
        description="bodies and large heads in memory at once, a worker; half is kept for bodies up to 64 KiB, so it "
        "is twice the largest body at least",
    )
    connections_max: int = Field(default=10_000, ge=1, le=100_000, description="open connections, a worker")
    commit_timeout_seconds: float = Field(
        default=2.0, gt=0, le=600, description="committed by then, or 503 (Slack waits 3 s); 1 s more for each 8 MiB"
    )
    reply_seconds: float = Field(
        default=2.5,
        gt=0,
        le=600,
        description="a handler with reply=True answers within so long of the request's arrival, or the source's usual "
        "answer is sent (Slack waits 3 s)",
    )
    reply_database_url: Annotated[SecretStr, AfterValidator(a_postgres_url)] | None = Field(
        default=None,
        description="the same PostgreSQL for handlers with reply=True, with the rights of hookd_replier; default: "
        "HOOKD_DATABASE_URL",
    )
    refused_rows_max: int = Field(
        default=1000,
        ge=0,
        le=1_000_000,
        description="requests refused at the edge that are kept as failed events, a source; they can be judged again",
    )

    @model_validator(mode="after")
    def both_or_neither(self) -> Self:
        """A receiver that was meant to speak TLS must not speak without it."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("HOOKD_TLS_CERT and HOOKD_TLS_KEY: set both, or neither")
        return self

    @model_validator(mode="after")
    def room_for_the_largest(self) -> Self:
        """A body that will never fit must not be told to come again."""
        if self.body_bytes_max > self.inflight_bytes_max // 2:
            raise ValueError(
                f"HOOKD_BODY_BYTES_MAX: at most half of HOOKD_INFLIGHT_BYTES_MAX ({self.inflight_bytes_max}), "
                "which larger bodies share: raise that, or lower this"
            )
        return self
