"""HubSpot: v3 (HMAC), and before it v1 and v2 (a hash that begins with the secret)."""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from protocol.request import Request
from protocol.signature import as_bytes, mac, same, unfit, with_headers
from protocol.verdict import Case

V3, V3_TIME = "X-HubSpot-Signature-v3", "X-HubSpot-Request-Timestamp"
OLD, VERSION = "X-HubSpot-Signature", "X-HubSpot-Signature-Version"
TOLERANCE_SECONDS = 300
# What v3 signs decoded, and nothing else.
DECODED = re.compile(r"%(3A|2F|3F|40|21|24|27|28|29|2A|2C|3B)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HubSpot:
    """The secret is the app's client secret. Where a v3 signature is there, it alone decides."""

    tolerance_seconds: ClassVar[int | None] = TOLERANCE_SECONDS

    def check(self, case: Case) -> int:
        if case.request.header(V3) is None and case.request.header(OLD) is not None:
            return self.check_old(case)
        given, stamp = case.needed_header(V3).encode("latin-1", "replace"), case.needed_header(V3_TIME)
        for url in decoded_too(case.urls()):
            for number, secret in enumerate(case.secrets):
                if same(signature(secret, case.request, url, stamp), given):
                    case.judge_time(stamp, TOLERANCE_SECONDS, 1000)
                    return number
        raise unfit(V3, case)

    def check_old(self, case: Case) -> int:
        given = case.needed_header(OLD).encode("latin-1", "replace")
        request = case.request
        before = [b""]
        if (request.header(VERSION) or "v1").lower() == "v2":
            before = [(request.method + url).encode("utf-8", "surrogateescape") for url in case.urls()]
        for number, secret in enumerate(case.secrets):
            hashes = (hashlib.sha256(secret + each + request.body).hexdigest().encode() for each in before)
            if any(same(each, given) for each in hashes):
                return number
        raise unfit(OLD, case)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        stamp = str(int(at * 1000))
        url = next(iter(request.urls(options.get("url"))))
        value = signature(as_bytes(key), request, url, stamp).decode()
        return with_headers(request, [(V3, value), (V3_TIME, stamp)])

    def headers(self) -> tuple[str, ...]:
        return (V3, V3_TIME)


def signature(secret: bytes, request: Request, url: str, stamp: str) -> bytes:
    head = f"{request.method}{url}".encode("utf-8", "surrogateescape")
    message = b"".join((head, request.body, stamp.encode("latin-1", "replace")))
    return base64.b64encode(mac(secret, message, "sha256"))


def decoded_too(urls: Iterator[str]) -> Iterator[str]:
    for url in urls:
        yield url
        if (decoded := DECODED.sub(lambda found: chr(int(found[1], 16)), url)) != url:
            yield decoded
