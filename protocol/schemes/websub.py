"""WebSub: an HMAC whose algorithm the sender names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from protocol.request import Request
from protocol.schemes.keyed import ALGORITHMS, Hmac
from protocol.verdict import Case, UnverifiedError

HEADER = "X-Hub-Signature"
BY_METHOD = {name: Hmac(HEADER, algorithm=name, prefix=f"{name}=") for name in ALGORITHMS}


@dataclass(frozen=True, slots=True)
class WebSub:
    """The secret is the subscription's hub.secret."""

    tolerance_seconds: ClassVar[int | None] = None

    def check(self, case: Case) -> int:
        method = case.needed_header(HEADER).partition("=")[0]
        if method not in BY_METHOD:
            raise UnverifiedError("format", f"{HEADER} names none of {', '.join(ALGORITHMS)}")
        return BY_METHOD[method].check(case)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        return BY_METHOD["sha256"].sign(request, key, at, options)

    def headers(self) -> tuple[str, ...]:
        return (HEADER,)
