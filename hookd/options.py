"""What is said on command lines: a time to look back to, an event's id or its beginning, text that PostgreSQL can hold;
and the options that several commands have.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click

F = TypeVar("F", bound=Callable[..., Any])

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
SECONDS_MAX = 36_500 * 86_400


class Since(click.ParamType[timedelta | datetime]):
    """`1h`, `30m`, `2d`: that long ago; or a date or time in ISO 8601, in UTC where it names no zone."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta | datetime:
        try:
            return moment(str(value)) if (past := ago(str(value))) is None else past
        except (ValueError, OverflowError):
            return self.fail(f"{value!r}: expected 30m, 1h, 2d, or a time such as 2026-01-31T12:00Z", param, ctx)


def ago(value: str) -> timedelta | None:
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", value)
    return timedelta(seconds=min(int(match[1]) * SECONDS[match[2]], SECONDS_MAX)) if match else None


def in_units(length: timedelta) -> str:
    """As `ago` reads it, in the largest unit that says it exactly."""
    seconds = int(length.total_seconds())
    unit = next((unit for unit in ("d", "h", "m") if seconds and seconds % SECONDS[unit] == 0), "s")
    return f"{seconds // SECONDS[unit]}{unit}"


class Duration(click.ParamType[timedelta]):
    """`24h`, `7d`, `0s`."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if (length := value if isinstance(value, timedelta) else ago(str(value))) is None:
            self.fail(f"{value!r}: expected a length of time such as 30m, 24h or 7d", param, ctx)
        return length


def moment(value: str) -> datetime:
    parsed = datetime.fromisoformat(value)
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


class Prefix(click.ParamType[str]):
    """An event's id, or its beginning: hex digits, with or without hyphens."""

    name = "id"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        digits = str(value).replace("-", "").lower()
        if not re.fullmatch(r"[0-9a-f]{4,32}", digits):
            self.fail(f"{value!r}: expected an event's id, or at least its first 4 hex digits", param, ctx)
        return digits


def ids_of(prefix: str) -> tuple[UUID, UUID]:
    """The least and the greatest id that begin so."""
    return UUID(prefix.ljust(32, "0")), UUID(prefix.ljust(32, "f"))


class Pair(click.ParamType[tuple[str, str]]):
    """`NAME: VALUE` or `NAME=VALUE`."""

    def __init__(self, name: str, separator: str) -> None:
        self.name = name
        self._separator = separator

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, separator, rest = str(value).partition(self._separator)
        if not separator or not name.strip():
            self.fail(f"{value!r}: expected {self.name}", param, ctx)
        return name.strip(), rest.strip() if self._separator == ":" else rest  # a prefix may end in a space


class Text(click.ParamType[str]):
    """A terminal may send bytes that are no text."""

    name = "text"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(value).encode().decode()
        except UnicodeEncodeError:
            return self.fail("expected UTF-8", param, ctx)


def joined(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Several as the one setting that holds them."""
    return ",".join(values) if values else None


app_option = click.option(
    "--app",
    multiple=True,
    callback=joined,
    help="Your handlers: a module, a package, or a .py file; repeatable [HOOKD_APP].",
)


def tls_options(command: F) -> F:
    certificate = click.option(
        "--tls-cert",
        type=click.Path(path_type=Path),
        help="Certificate (and chain) in PEM: speak https [HOOKD_TLS_CERT].",
    )
    key = click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key in PEM [HOOKD_TLS_KEY].")
    return certificate(key(command))


ca_option = click.option(
    "--ca", type=click.Path(path_type=Path), help="Trust this certificate too (PEM), such as one that signs itself."
)
