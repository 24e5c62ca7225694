"""HMAC, as most senders sign: what is signed, where the signature stands and what is written around it."""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

from protocol import content
from protocol.naming import at_path, json_of, scalar
from protocol.request import Request
from protocol.schemes.template import fill, latin, names_in
from protocol.signature import SIGNATURES_MAX, as_bytes, mac, same, unfit, with_headers
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
        parts = [part.strip() for part in value.split(self.separator)] if self.separator else [value]
        given = self.signatures_in(parts)
        if not given:
            raise UnverifiedError("format", f"{self.header} has no signature that begins with {self.prefix!r}")
        timestamp = self.timestamp_of(case, parts)
        encode, algorithm = ENCODE[self.encoding], self.algorithm
        for message in self.messages(case, timestamp):
            for number, secret in enumerate(case.secrets):
                expected = encode(mac(secret, message, algorithm))
                if [each for each in given if same(expected, each)]:
                    self.judge_time(case, timestamp)
                    return number
        raise self.why_unfit(case, given)

    def signatures_in(self, parts: list[str]) -> list[bytes]:
        """The signatures, without their prefix."""
        prefix, cut = self.prefix, len(self.prefix)
        return [latin(part[cut:]) for part in parts if part.startswith(prefix)][:SIGNATURES_MAX]

    def timestamp_of(self, case: Case, parts: list[str]) -> str:
        """The time as the sender wrote it. Raises UnverifiedError where there is none."""
        if self.timestamp_header:
            return case.needed_header(self.timestamp_header)
        if not self.timestamp_mark:
            return ""
        for part in parts:
            if part.startswith(self.timestamp_mark):
                return part[len(self.timestamp_mark) :]
        raise UnverifiedError("format", f"{self.header} has no part that begins with {self.timestamp_mark!r}")

    def messages(self, case: Case, timestamp: str) -> Iterable[bytes]:
        """What may have been signed: one text, or one for each name that the request's URL may have."""
        if self.signed == "{body}":
            return (case.request.body,)
        names = names_in(self.signed)
        known = {"body": case.request.body, "timestamp": latin(timestamp)}
        if "id" in names:
            known["id"] = latin(case.needed_header(self.id_header))
        if "method" in names:
            known["method"] = latin(case.request.method)
        return self.with_urls(case, known) if "url" in names else (fill(self.signed, known),)

    def with_urls(self, case: Case, known: dict[str, bytes]) -> Iterator[bytes]:
        for url in case.urls():
            known["url"] = url.encode("utf-8", "surrogateescape")
            yield fill(self.signed, known)

    def judge_time(self, case: Case, timestamp: str) -> None:
        if self.timestamp_in_body:
            timestamp = scalar(at_path(json_of(case.request), self.timestamp_in_body)) or ""
        if self.timestamp_mark or self.timestamp_header or self.timestamp_in_body:
            case.judge_time(timestamp, self.tolerance_seconds, 1000 if self.milliseconds else 1)

    def why_unfit(self, case: Case, given: list[bytes]) -> UnverifiedError:
        """What is wrong with signatures that no secret fits: already their form, or only their bytes."""
        length = len(ENCODE[self.encoding](mac(b"", b"", self.algorithm)))
        looks = LOOKS[self.encoding]
        if not any(len(each) == length and looks.fullmatch(each.decode("latin-1")) for each in given):
            form = f"{length} characters of {self.encoding}" + (f" behind {self.prefix!r}" if self.prefix else "")
            return UnverifiedError("format", f"{self.header} is not {form}")
        return unfit(self.header, case)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        stamp = str(int(at * 1000 if self.milliseconds else at))
        headers = [(self.timestamp_header, stamp)] if self.timestamp_header else []
        draft = with_headers(request, headers)
        if self.timestamp_in_body:
            draft = replace(draft, body=content.with_field(draft.body, self.timestamp_in_body, int(stamp)))
        message = next(iter(self.messages(Case(draft, (), at, options), stamp)))
        signature = self.prefix + ENCODE[self.encoding](mac(as_bytes(key), message, self.algorithm)).decode()
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
    if options.get("milliseconds", "false") not in ("true", "false"):
        raise ValueError("milliseconds is true or false")
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
