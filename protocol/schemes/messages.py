"""HTTP message signatures (RFC 9421), with the body's digest (RFC 9530)."""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import parse_qsl, quote, urlsplit

from protocol import keys
from protocol.request import QUERY_FIELDS_MAX, Request, path_of
from protocol.schemes.structured import ITEM, MEMBER_INPUT, byte_values, members, parameters_of
from protocol.signature import SIGNATURES_MAX, as_bytes, same, unfit, with_headers
from protocol.verdict import Case, UnverifiedError

TOLERANCE_SECONDS = 300
COMPONENTS_MAX = 64
HMAC = "hmac-sha256"
DIGESTS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}


@dataclass(frozen=True, slots=True)
class Label:
    """One signature's line of Signature-Input: `raw` as sent, its components, its parameters."""

    raw: str
    components: tuple[str, ...]
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MessageSignature:
    """A secret is a shared key (HMAC-SHA256) or a public key: Ed25519, ECDSA P-256 or P-384, RSA.

    The key decides the algorithm, never the message. What must be signed the source's option `covered` says;
    `content-digest` unless it says otherwise, for else nothing protects the body.
    """

    tolerance_seconds: ClassVar[int | None] = TOLERANCE_SECONDS

    def check(self, case: Case) -> int:
        inputs = dict(labels_of(case))
        given = signatures_of(case)
        known = [label for label in inputs if label in given][:SIGNATURES_MAX]
        if not known:
            raise UnverifiedError("format", "Signature has no label that Signature-Input has")
        why: UnverifiedError | None = None
        for label in known:
            try:
                return self.check_label(case, inputs[label], given[label])
            except UnverifiedError as error:  # another label may be ours: proxies sign too
                why = why or error
        raise why or unfit("Signature", case)

    def check_label(self, case: Case, label: Label, signature: bytes) -> int:
        missing = [name for name in covered(case) if f'"{name}"' not in label.components]
        if missing:
            raise UnverifiedError("header", f"{missing[0]} is not signed")
        message = base(case, label)
        number = self.secret_of(case, label, signature, message)
        judge_times(case, label)
        if '"content-digest"' in label.components:
            judge_digest(case)
        return number

    def secret_of(self, case: Case, label: Label, signature: bytes, message: bytes) -> int:
        for number, secret in enumerate(case.secrets):
            algorithm, fits = verifier(secret, case.options, label)
            if label.parameters.get("alg", f'"{algorithm}"') == f'"{algorithm}"' and fits(signature, message):
                return number
        raise unfit("Signature", case)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
        request = with_headers(request, [("Content-Digest", f"sha-256=:{digest}:")])
        if request.header("Host") is None:
            request = with_headers(request, [("Host", "hooks.example.com")])
        names = ('"@method"', '"@path"', '"content-digest"')
        raw = f'({" ".join(names)});created={int(at)};keyid="sample"'
        message = base(Case(request, (), at, options), Label(raw, names, {}))
        if key.startswith(("-----", keys.STANDARD_PRIVATE)):
            signature = keys.signed(key, message)
        else:
            signature = hmac.digest(shared(as_bytes(key), options), message, "sha256")
        value = f"sig1=:{base64.b64encode(signature).decode()}:"
        return with_headers(request, [("Signature-Input", f"sig1={raw}"), ("Signature", value)])

    def headers(self) -> tuple[str, ...]:
        return ("Signature", "Signature-Input")


def covered(case: Case) -> list[str]:
    words = case.options.get("covered", "content-digest").lower().split()
    return [word for word in words if case.request.body or word != "content-digest"]


def combined(case: Case, name: str) -> str:
    """A field's lines as one. Raises UnverifiedError."""
    values = case.request.values(name)
    if not values:
        raise UnverifiedError("header", f"no {name} header")
    return ", ".join(re.sub(r"[ \t]*\r?\n[ \t]+", " ", value.strip()) for value in values)


def labels_of(case: Case) -> list[tuple[str, Label]]:
    """What Signature-Input says of each signature. Raises UnverifiedError."""
    found = []
    for match in members(combined(case, "Signature-Input"), MEMBER_INPUT, "Signature-Input"):
        components = tuple(re.findall(ITEM, match[3]))
        if len(components) > COMPONENTS_MAX or len(set(components)) != len(components):
            raise UnverifiedError("format", "Signature-Input names too many components, or one twice")
        found.append((match[1], Label(match[2], components, parameters_of(match[4]))))
    return found


def signatures_of(case: Case) -> dict[str, bytes]:
    return byte_values(combined(case, "Signature"), "Signature")


def base(case: Case, label: Label) -> bytes:
    """The signature base: a line for each component, and one for the parameters. Raises UnverifiedError."""
    lines = [f"{component}: {component_value(case, component)}" for component in label.components]
    return "\n".join([*lines, f'"@signature-params": {label.raw}']).encode("latin-1", "replace")


def component_value(case: Case, component: str) -> str:
    name, _, rest = component[1:].partition('"')
    parameters = parameters_of(rest)
    if name == "@query-param":
        return query_parameter(case, parameters)
    if parameters:  # sf, bs, key, tr, req: no webhook's sender was seen to need them
        raise UnverifiedError("format", "Signature-Input has a component with a parameter that is not supported")
    if not name.startswith("@"):
        if case.request.header(name) is None:
            raise UnverifiedError("header", "a header that Signature-Input names is not there")
        return combined(case, name)
    if name not in DERIVED:
        raise UnverifiedError("format", "Signature-Input has a derived component that is not supported")
    return DERIVED[name](case)


def query_parameter(case: Case, parameters: Mapping[str, str]) -> str:
    wanted = parameters.get("name", "")[1:-1]
    pairs = parse_qsl(query_text(case), keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
    found = [quote(value, safe="") for name, value in pairs if quote(name, safe="") == wanted]
    if set(parameters) != {"name"} or len(found) != 1:
        raise UnverifiedError("format", "a @query-param does not stand in the query exactly once")
    return found[0]


def query_text(case: Case) -> str:
    return case.request.target.partition("?")[2]


def url_of(case: Case) -> str:
    """The source's option `url`, else https and the host asked for."""
    return next(iter(case.urls()))


def authority(case: Case) -> str:
    parts = urlsplit(url_of(case))
    default = {"https": ":443", "http": ":80"}.get(parts.scheme, "")
    return parts.netloc.lower().removesuffix(default)


DERIVED: dict[str, Callable[[Case], str]] = {
    "@method": lambda case: case.request.method,
    "@target-uri": url_of,
    "@authority": authority,
    "@scheme": lambda case: urlsplit(url_of(case)).scheme.lower(),
    "@request-target": lambda case: case.request.target,
    "@path": lambda case: path_of(case.request.target),
    "@query": lambda case: "?" + query_text(case),
}


def verifier(secret: bytes, options: Mapping[str, str], label: Label) -> tuple[str, Callable[[bytes, bytes], bool]]:
    """The algorithm that this secret is for, and its test. Raises UnverifiedError where the secret is no key."""
    if not secret.startswith((b"-----", keys.STANDARD_PUBLIC.encode())):
        key = shared(secret, options)
        return HMAC, lambda signature, message: same(hmac.digest(key, message, "sha256"), signature)
    try:
        public = keys.public_key(secret.decode())
    except ValueError:
        public = None
    algorithm = keys.algorithm_of(public)
    if algorithm is None:
        raise UnverifiedError("secret", "a secret of the source is no key that is supported")
    # An RSA key serves two algorithms, and both of them prove that it signed.
    if algorithm.startswith("rsa") and label.parameters.get("alg") == '"rsa-v1_5-sha256"':
        algorithm = "rsa-v1_5-sha256"
    return algorithm, lambda signature, message: keys.message_signature_fits(public, algorithm, signature, message)


def shared(secret: bytes, options: Mapping[str, str]) -> bytes:
    """The option `secret_encoding` says whether the secret is base64 of the key, or the key itself."""
    return keys.padded_base64(secret.decode()) if options.get("secret_encoding") == "base64" else secret


def judge_times(case: Case, label: Label) -> None:
    """`created` must be near the receipt and `expires` after it. Raises UnverifiedError."""
    tolerance = int(case.options.get("tolerance_seconds", TOLERANCE_SECONDS))
    if not tolerance:
        return
    if "created" not in label.parameters:
        raise UnverifiedError("timestamp", "the signature does not say when it was created")
    case.judge_time(label.parameters["created"], TOLERANCE_SECONDS)
    expires = label.parameters.get("expires")
    if expires is not None and int(expires) < case.received_at:
        raise UnverifiedError("timestamp", "the signature had expired when it was received")


def judge_digest(case: Case) -> None:
    """Every digest that is known must fit the body, and one must be known. Raises UnverifiedError."""
    given = byte_values(combined(case, "Content-Digest"), "Content-Digest")
    known = {name: digest for name, digest in given.items() if name in DIGESTS}
    if not known:
        raise UnverifiedError("format", "Content-Digest has neither sha-256 nor sha-512")
    if not all(same(DIGESTS[name](case.request.body).digest(), digest) for name, digest in known.items()):
        raise UnverifiedError("digest", "the body does not fit its Content-Digest")
