"""What is known of one delivery when it is judged, and what the judgement says."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

from protocol.request import Request

# What a delivery can fail by. `signature` is the one that may mean a forgery; the others are told apart for whoever
# looks for the mistake.
Check: TypeAlias = Literal[
    "secret", "options", "header", "format", "signature", "timestamp", "digest", "certificate", "topic"
]

DIGITS = re.compile(r"[0-9]{1,16}")  # int() would take underscores, spaces and other scripts' digits too


@dataclass(frozen=True, slots=True)
class Verified:
    """Every check passed. `secret`: which of the secrets fitted; None where the sender signs nothing."""

    secret: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A check failed. `reason`: one line that quotes neither a secret nor the sender."""

    check: Check
    reason: str


Verdict: TypeAlias = Verified | Refused


class UnverifiedError(Exception):
    """A check failed; the scheme ends here."""

    def __init__(self, check: Check, reason: str) -> None:
        super().__init__(reason)
        self.refused = Refused(check, reason)


class Case(NamedTuple):
    """One delivery to be judged. `received_at`: seconds since 1970; `certificate`: PEM, fetched by the caller."""

    request: Request
    secrets: tuple[bytes, ...]
    received_at: float
    options: Mapping[str, str]
    certificate: bytes | None = None

    def needed_header(self, name: str) -> str:
        """Raises UnverifiedError where the request lacks it."""
        value = self.request.header(name)
        if value is None:
            raise UnverifiedError("header", f"no {name} header")
        return value

    def urls(self) -> Iterator[str]:
        return self.request.urls(self.options.get("url"))

    def judge_time(self, signed_at: str, tolerance_seconds: int | None, unit: int = 1) -> None:
        """`signed_at` in `unit`-ths of a second must be near the receipt. Raises UnverifiedError."""
        if not DIGITS.fullmatch(signed_at):
            raise UnverifiedError("format", "the timestamp is not a number")
        self.judge_moment(int(signed_at) / unit, tolerance_seconds)

    def judge_moment(self, signed_at: float, tolerance_seconds: int | None) -> None:
        """The source's own tolerance before the provider's; 0 is none at all: the time is not judged."""
        allowed = int(self.options.get("tolerance_seconds", tolerance_seconds or 0))
        late = self.received_at - signed_at
        if allowed and not abs(late) <= allowed:
            when = "before" if late > 0 else "after"
            raise UnverifiedError(
                "timestamp", f"signed {abs(late):.0f} s {when} it was received; {allowed} s are allowed"
            )


class Scheme(Protocol):
    """How a sender proves that it is the sender."""

    @property
    def tolerance_seconds(self) -> int | None:
        """How far a signed time may be from the receipt, where the source does not say; None: no time is judged."""
        ...

    def check(self, case: Case) -> int | None:
        """Which secret fitted. Raises UnverifiedError; of what cannot be read also ValueError."""
        ...

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        """The request as the sender would send it at that time."""
        ...

    def headers(self) -> tuple[str, ...]:
        """The headers without which nothing is verified."""
        ...
