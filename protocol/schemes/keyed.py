"""HMAC, as most senders sign: what is signed, where the signature stands and what is written around it."""

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

from protocol import content
from protocol.naming import Json
from protocol.request import Request
from protocol.schemes.template import fill, latin, names_in
from protocol.signature import SIGNATURES_MAX, as_bytes, same, unfit, with_headers
from protocol.verdict import Case, UnverifiedError

ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "hex": binascii.hexlify,
    "hex-upper": lambda digest: binascii.hexlify(digest).upper(),
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
}
LOOKS = {
    "hex": re.compile(r"([0-9a-f]{2})+"),
    "hex-upper": re.compile(r"([0-9A-F]{2})+"),
    "base64": re.compile(r"[A-Za-z0-9+/]+={0,2}"),
    "base64url": re.compile(r"[A-Za-z0-9_-]+={0,2}"),
}
ALGORITHMS = ("sha1", "sha256", "sha384", "sha512")


@dataclass(frozen=True, slots=True)
class Hmac:
    """A keyed hash of a text made of the request.

    `signed`: that text, with {body}, {timestamp}, {id}, {url} and {method} in it. Where `separator` divides the
    header, each part that begins with `prefix` is a signature, and the one that begins with `timestamp_mark` the time.
    `timestamp_in_body`: the path of a time in a JSON body, in milliseconds as `milliseconds` says.
    """

    header: str
    algorithm: str = "sha256"
    encoding: str = "hex"
    prefix: str = ""
    signed: str = "{body}"
    separator: str = ""
    timestamp_mark: str = ""
    timestamp_header: str = ""
    timestamp_in_body: str = ""
    milliseconds: bool = False
    id_header: str = ""
    tolerance_seconds: int | None = None

    def check(self, case: Case) -> int:
        value = case.needed_header(self.header)
        given = self.signatures_in(value)
        if not given:
            raise UnverifiedError("format", f"{self.header} has no signature that begins with {self.prefix!r}")
        timestamp = self.timestamp_of(case, value)
        for message in self.messages(case, timestamp):
            for number, secret in enumerate(case.secrets):
                expected = ENCODE[self.encoding](hmac.digest(secret, message, self.algorithm))
                if any(same(expected, each) for each in given):
                    self.judge_time(case, timestamp)
                    return number
        raise self.why_unfit(case, value)

    def signatures_in(self, value: str) -> list[bytes]:
        """The signatures of the header's value, without their prefix."""
        cut = len(self.prefix)
        parts = [part.strip() for part in value.split(self.separator)] if self.separator else [value]
        return [latin(part[cut:]) for part in parts if part.startswith(self.prefix)][:SIGNATURES_MAX]

    def timestamp_of(self, case: Case, value: str) -> str:
        """The time as the sender wrote it. Raises UnverifiedError where there is none."""
        if self.timestamp_mark:
            parts = (part.strip() for part in value.split(self.separator))
            found = next((part for part in parts if part.startswith(self.timestamp_mark)), None)
            if found is None:
                raise UnverifiedError("format", f"{self.header} has no part that begins with {self.timestamp_mark!r}")
            return found[len(self.timestamp_mark) :]
        return case.needed_header(self.timestamp_header) if self.timestamp_header else ""

    def messages(self, case: Case, timestamp: str) -> Iterator[bytes]:
        """What may have been signed: one text, or one for each name that the request's URL may have."""
        if self.signed == "{body}":
            yield case.request.body
            return
        known = {name: self.known(name, case, timestamp) for name in names_in(self.signed)}
        if "url" not in known:
            yield fill(self.signed, known)
            return
        for url in case.urls():
            yield fill(self.signed, known | {"url": url.encode("utf-8", "surrogateescape")})

    def known(self, name: str, case: Case, timestamp: str) -> bytes:
        """What stands for {name} in the signed text; of the URL, which may have several, nothing yet."""
        if name == "body":
            return case.request.body
        if name == "timestamp":
            return latin(timestamp)
        if name == "id":
            return latin(case.needed_header(self.id_header))
        return latin(case.request.method) if name == "method" else b""

    def judge_time(self, case: Case, timestamp: str) -> None:
        unit = 1000 if self.milliseconds else 1
        if self.timestamp_in_body:
            timestamp = Json(self.timestamp_in_body)(case.request) or ""
        if timestamp or self.timestamp_in_body:
            case.judge_time(timestamp, self.tolerance_seconds, unit)

    def why_unfit(self, case: Case, value: str) -> UnverifiedError:
        """What is wrong with a signature that no secret fits: already its form, or only its bytes."""
        length = len(ENCODE[self.encoding](hmac.digest(b"", b"", self.algorithm)))
        given = [each.decode("latin-1") for each in self.signatures_in(value)]
        if not any(len(each) == length and LOOKS[self.encoding].fullmatch(each) for each in given):
            form = f"{length} characters of {self.encoding}" + (f" behind {self.prefix!r}" if self.prefix else "")
            return UnverifiedError("format", f"{self.header} is not {form}")
        return unfit(self.header, case)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        stamp = str(int(at * 1000 if self.milliseconds else at))
        headers = [(self.timestamp_header, stamp)] if self.timestamp_header else []
        draft = with_headers(request, headers)
        if self.timestamp_in_body:
            draft = replace(draft, body=content.with_field(draft.body, self.timestamp_in_body, int(stamp)))
        message = next(self.messages(Case(draft, (), at, options), stamp))
        signature = self.prefix + ENCODE[self.encoding](hmac.digest(as_bytes(key), message, self.algorithm)).decode()
        marked = f"{self.timestamp_mark}{stamp}{self.separator}" if self.timestamp_mark else ""
        return with_headers(draft, [(self.header, marked + signature)])

    def headers(self) -> tuple[str, ...]:
        return tuple(name for name in (self.header, self.timestamp_header, self.id_header) if name)


def hmac_by(options: Mapping[str, str]) -> Hmac:
    """The Hmac that a source's options describe. Raises ValueError."""
    words = {each.name for each in fields(Hmac)} - {"milliseconds", "tolerance_seconds"}
    scheme = Hmac(
        **{"header": "X-Signature"} | {name: value for name, value in options.items() if name in words},
        milliseconds=options.get("milliseconds", "false") == "true",
        tolerance_seconds=int(options.get("tolerance_seconds", "300")),
    )
    if scheme.algorithm not in ALGORITHMS or scheme.encoding not in ENCODE:
        raise ValueError(f"algorithm is one of {', '.join(ALGORITHMS)}, encoding one of {', '.join(ENCODE)}")
    if "{body}" not in scheme.signed:
        raise ValueError("signed has no {body} in it: nothing would protect the body")
    if "{timestamp}" in scheme.signed and not (scheme.timestamp_header or scheme.timestamp_mark):
        raise ValueError("signed has a {timestamp}: timestamp_header or timestamp_mark says where it stands")
    if "{id}" in scheme.signed and not scheme.id_header:
        raise ValueError("signed has an {id}: id_header says where it stands")
    if scheme.timestamp_mark and not scheme.separator:
        raise ValueError("timestamp_mark is a part of the header: separator says what divides it")
    return scheme
