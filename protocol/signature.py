"""Judge: did the sender that a source names send this?"""

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Protocol

from protocol.request import Request
from protocol.verdict import Case, Refused, Scheme, UnverifiedError, Verdict, Verified

__all__ = ["Refused", "Verdict", "Verified", "judge"]

SIGNATURES_MAX = 16  # in one header; a rotation has two
KEYED_MAX = 1024  # remembered: keying a hash is a third of the work for a body of a kilobyte
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


# Of two byte strings, whether they are equal, in a time that does not tell where they differ.
same: Callable[[bytes, bytes], bool] = hmac.compare_digest


def mac(secret: bytes, message: bytes, algorithm: str) -> bytes:
    """The HMAC of the message."""
    keyed = _keyed(secret, algorithm).copy()
    keyed.update(message)
    return keyed.digest()


@lru_cache(KEYED_MAX)
def _keyed(secret: bytes, algorithm: str) -> hmac.HMAC:
    return hmac.new(secret, digestmod=algorithm)


class Signs(Protocol):
    """What is asked of a provider here."""

    @property
    def scheme(self) -> Scheme: ...


def judge(
    provider: Signs,
    request: Request,
    secrets: Sequence[str | bytes],
    received_at: float,
    *,
    options: Mapping[str, str] = NO_OPTIONS,
    certificate: bytes | None = None,
) -> Verdict:
    """Whether the provider sent the request. Whatever its bytes are, the answer is a verdict.

    Each of `secrets` will do; an empty one is none. `received_at`: seconds since 1970, the clock that timestamps are
    judged by. `options`: what the source says beyond its secrets. `certificate`: PEM, where the provider signs by one.
    """
    try:
        keys = tuple([as_bytes(secret) for secret in secrets if secret])
        return verified(provider.scheme.check(Case(request, keys, received_at, options, certificate)))
    except UnverifiedError as why:
        return why.refused
    except ValueError:  # not UTF-8, no JSON, no base64, no number, no key: nothing that it could be verified by
        return Refused("format", "what should be verified cannot be read")


verified = lru_cache(64)(Verified)  # there are no more than a source has secrets


def as_bytes(secret: str | bytes) -> bytes:
    return secret.encode("utf-8", "surrogateescape") if isinstance(secret, str) else secret


def no_secret() -> UnverifiedError:
    return UnverifiedError("secret", "the source has no secret to verify by")


def unfit(what: str, case: Case) -> UnverifiedError:
    """No secret fits."""
    if not case.secrets:
        return no_secret()
    count = len(case.secrets)
    return UnverifiedError(
        "signature", f"{what} does not fit {'the secret' if count == 1 else f'any of {count} secrets'}"
    )


def first_same(case: Case, given: bytes, what: str) -> int:
    """Which secret was given. Raises UnverifiedError."""
    for number, secret in enumerate(case.secrets):
        if same(given, secret):
            return number
    raise unfit(what, case)


def with_headers(request: Request, headers: Sequence[tuple[str, str]]) -> Request:
    """The request with these headers in the place of those it had by these names."""
    names = {name.lower() for name, _ in headers}
    kept = [(name, value) for name, value in request.headers if name.lower() not in names]
    return replace(request, headers=[*kept, *headers])
