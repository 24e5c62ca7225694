"""Judge: did the sender that a source names send this? And the schemes that most senders share."""

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from types import MappingProxyType
from typing import ClassVar, Protocol

from protocol import content
from protocol.naming import Json
from protocol.request import Request
from protocol.verdict import Case, Refused, Scheme, UnverifiedError, Verdict, Verified

__all__ = ["Refused", "Verdict", "Verified", "judge"]

SIGNATURES_MAX = 16  # in one header; a rotation has two
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


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
        keys = tuple(key for key in map(as_bytes, secrets) if key)
        return Verified(provider.scheme.check(Case(request, keys, received_at, options, certificate)))
    except UnverifiedError as why:
        return why.refused
    except ValueError:  # not UTF-8, no JSON, no base64, no number, no key: nothing that it could be verified by
        return Refused("format", "what should be verified cannot be read")


def as_bytes(secret: str | bytes) -> bytes:
    return secret.encode("utf-8", "surrogateescape") if isinstance(secret, str) else secret


def same(one: bytes, other: bytes) -> bool:
    """Whether both are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)


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
TEMPLATE = re.compile(r"\{(body|timestamp|id|url|method)\}")


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
        return [_latin(part[cut:]) for part in parts if part.startswith(self.prefix)][:SIGNATURES_MAX]

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
            return _latin(timestamp)
        if name == "id":
            return _latin(case.needed_header(self.id_header))
        return _latin(case.request.method) if name == "method" else b""

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


def _latin(text: str) -> bytes:
    return text.encode("latin-1", "replace")  # what no header can hold fits no signature


@lru_cache(256)
def _parts(template: str) -> tuple[tuple[bytes, str], ...]:
    """Each literal with the name that follows it; behind the last there is none."""
    words = [*TEMPLATE.split(template), ""]
    return tuple((literal.encode(), name) for literal, name in zip(words[::2], words[1::2], strict=True))


@lru_cache(256)
def names_in(template: str) -> tuple[str, ...]:
    return tuple(name for _, name in _parts(template) if name)


def fill(template: str, known: Mapping[str, bytes]) -> bytes:
    """The template with what is known of the request in it."""
    return b"".join([piece for literal, name in _parts(template) for piece in (literal, known[name] if name else b"")])


def with_headers(request: Request, headers: Sequence[tuple[str, str]]) -> Request:
    """The request with these headers in the place of those it had by these names."""
    names = {name.lower() for name, _ in headers}
    kept = [(name, value) for name, value in request.headers if name.lower() not in names]
    return replace(request, headers=[*kept, *headers])


@dataclass(frozen=True, slots=True)
class FirstOf:
    """Several schemes: the first whose header is there decides, and no other one may mend its verdict."""

    schemes: tuple[Scheme, ...]

    @property
    def tolerance_seconds(self) -> int | None:
        return self.schemes[0].tolerance_seconds

    def check(self, case: Case) -> int | None:
        for scheme in self.schemes:
            if case.request.header(scheme.headers()[0]) is not None:
                return scheme.check(case)
        return self.schemes[0].check(case)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        return self.schemes[0].sign(request, key, at, options)

    def headers(self) -> tuple[str, ...]:
        return self.schemes[0].headers()


@dataclass(frozen=True, slots=True)
class Token:
    """The secret itself, in a header or in the query."""

    tolerance_seconds: ClassVar[int | None] = None

    header: str = ""
    prefix: str = ""
    query: str = ""

    def check(self, case: Case) -> int:
        where = self.header or f"the query's {self.query}"
        given = case.needed_header(self.header) if self.header else case.request.query().get(self.query)
        if given is None:
            raise UnverifiedError("header", f"no {self.query} in the query")
        if not given.startswith(self.prefix):
            raise UnverifiedError("format", f"{where} does not begin with {self.prefix!r}")
        # A query's escapes are UTF-8; a header's bytes came as ISO-8859-1.
        token = given[len(self.prefix) :].encode("latin-1" if self.header else "utf-8", "replace")
        return first_same(case, token, where)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        if self.header:
            return with_headers(request, [(self.header, self.prefix + as_bytes(key).decode("latin-1"))])
        from urllib.parse import quote  # noqa: PLC0415 - only samples are signed

        mark = "&" if "?" in request.target else "?"
        return replace(request, target=f"{request.target}{mark}{self.query}={quote(key, safe='')}")

    def headers(self) -> tuple[str, ...]:
        return (self.header,) if self.header else ()


@dataclass(frozen=True, slots=True)
class Basic:
    """HTTP Basic; the secret is `user:password`."""

    tolerance_seconds: ClassVar[int | None] = None

    def check(self, case: Case) -> int:
        scheme, _, credentials = case.needed_header("Authorization").partition(" ")
        if scheme.lower() != "basic":
            raise UnverifiedError("format", "Authorization is not Basic")
        try:
            given = base64.b64decode(credentials.strip(), validate=True)
        except ValueError:
            raise UnverifiedError("format", "Authorization is not base64") from None
        return first_same(case, given, "Authorization")

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        return with_headers(request, [("Authorization", "Basic " + base64.b64encode(as_bytes(key)).decode())])

    def headers(self) -> tuple[str, ...]:
        return ("Authorization",)


def first_same(case: Case, given: bytes, what: str) -> int:
    """Which secret was given. Raises UnverifiedError."""
    for number, secret in enumerate(case.secrets):
        if same(given, secret):
            return number
    raise unfit(what, case)


@dataclass(frozen=True, slots=True)
class Nothing:
    """The sender proves nothing, and nothing is checked."""

    tolerance_seconds: ClassVar[int | None] = None

    def check(self, case: Case) -> None:
        return None

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        return request

    def headers(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class ByOptions:
    """A scheme that the source itself describes: `make` turns its options into it."""

    tolerance_seconds: ClassVar[int | None] = None

    make: Callable[[Mapping[str, str]], Scheme]

    def check(self, case: Case) -> int | None:
        return self.scheme(case.options).check(case)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        return self.scheme(options).sign(request, key, at, options)

    def headers(self) -> tuple[str, ...]:
        return self.scheme(NO_OPTIONS).headers()

    def scheme(self, options: Mapping[str, str]) -> Scheme:
        """Raises UnverifiedError where the options describe none."""
        try:
            return _made(self.make, frozenset(options.items()))
        except (ValueError, TypeError):
            raise UnverifiedError("options", "the source's options describe no scheme") from None


@lru_cache(1024)
def _made(make: Callable[[Mapping[str, str]], Scheme], options: frozenset[tuple[str, str]]) -> Scheme:
    return make(dict(options))


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


def token_by(options: Mapping[str, str]) -> Token:
    """The Token that a source's options describe. Raises ValueError."""
    if options.get("query"):
        if options.get("header"):
            raise ValueError("the token stands in a header or in the query, not in both")
        return Token(query=options["query"])
    return Token(header=options.get("header", "Authorization"), prefix=options.get("prefix", ""))
