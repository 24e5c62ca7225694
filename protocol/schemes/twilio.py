"""Twilio: an HMAC over the URL and the form's sorted fields; of other bodies their hash stands in the URL."""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from protocol.content import FORM_FIELDS_MAX
from protocol.request import Request
from protocol.signature import as_bytes, mac, same, unfit, with_headers
from protocol.verdict import Case, UnverifiedError

HEADER = "X-Twilio-Signature"
BODY_HASH = "bodySHA256"
PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Twilio:
    """The secret is the account's auth token."""

    tolerance_seconds: ClassVar[int | None] = None

    def check(self, case: Case) -> int:
        given = case.needed_header(HEADER).encode("latin-1", "replace")
        fields = signed_fields(case.request)
        for url in with_and_without_port(case.urls()):
            for number, secret in enumerate(case.secrets):
                if same(signature(secret, url, fields), given):
                    return number
        raise unfit(HEADER, case)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        if not is_form(request) and request.body:
            mark = "&" if "?" in request.target else "?"
            digest = hashlib.sha256(request.body).hexdigest()
            request = replace(request, target=f"{request.target}{mark}{BODY_HASH}={digest}")
        url = next(iter(request.urls(options.get("url"))))
        return with_headers(request, [(HEADER, signature(as_bytes(key), url, signed_fields(request)).decode())])

    def headers(self) -> tuple[str, ...]:
        return (HEADER,)


def signature(secret: bytes, url: str, fields: bytes) -> bytes:
    return base64.b64encode(mac(secret, url.encode("utf-8", "surrogateescape") + fields, "sha1"))


def is_form(request: Request) -> bool:
    return (request.header("Content-Type") or "").lower().startswith("application/x-www-form-urlencoded")


def signed_fields(request: Request) -> bytes:
    """What of the body is signed. Raises UnverifiedError where nothing of it would be."""
    if (expected := request.query().get(BODY_HASH)) is not None:
        actual = hashlib.sha256(request.body).hexdigest().encode()
        if not same(actual, expected.lower().encode("utf-8", "replace")):
            raise UnverifiedError("digest", f"the body does not fit the URL's {BODY_HASH}")
        return b""
    if is_form(request):
        fields = parse_qsl(request.body.decode(), keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX)
        return "".join(name + value for name, value in sorted(set(fields))).encode()
    if request.body:
        raise UnverifiedError("digest", f"the body is no form and the URL has no {BODY_HASH}: nothing protects it")
    return b""


def with_and_without_port(urls: Iterator[str]) -> Iterator[str]:
    """Twilio signs some URLs with their port and some without."""
    for url in urls:
        yield url
        parts = urlsplit(url)
        host = parts.hostname or ""
        bare = f"[{host}]" if ":" in host else host
        netloc = bare if parts.port else f"{bare}:{PORTS.get(parts.scheme, 443)}"
        yield urlunsplit(parts._replace(netloc=netloc))
