"""Why a delivery may not be verified: the usual mistakes, each tried. Hints for a person, never a judgement."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from protocol import content
from protocol.naming import parsed
from protocol.request import Request
from protocol.schemes.choice import ByOptions, FirstOf
from protocol.schemes.keyed import Hmac
from protocol.signature import NO_OPTIONS, Signs, as_bytes, judge
from protocol.verdict import Refused, Scheme, UnverifiedError, Verified

AGES_ENDLESS = {"tolerance_seconds": "0"}
QUOTES = b"'\""
UNEXPLAINED = (
    "none of the usual mistakes explains it: the sender signs with another secret, or it signed another body or URL"
)


def hints(
    provider: Signs,
    request: Request,
    secrets: Sequence[str | bytes],
    received_at: float,
    *,
    options: Mapping[str, str] = NO_OPTIONS,
    certificate: bytes | None = None,
) -> list[str]:
    """What would verify a refused delivery, one line each; none where it is verified."""

    def fits(scheme: Scheme, sent: Request, *keys: bytes) -> bool:
        # Any time will do here: one mistake is looked for at once.
        said = {**options, **AGES_ENDLESS}
        verdict = judge(_Of(scheme), sent, keys, received_at, options=said, certificate=certificate)
        return isinstance(verdict, Verified)

    keys = [as_bytes(secret) for secret in secrets]
    verdict = judge(provider, request, secrets, received_at, options=options, certificate=certificate)
    if isinstance(verdict, Verified):
        return []
    late = f"its time is not near the receipt, else it fits: {verdict.reason}"
    found = [late] if verdict.check == "timestamp" else []
    found += [says for says, key in other_secrets(keys) if fits(provider.scheme, request, key)]
    bodies = (says for says, body in other_bodies(request) if fits(provider.scheme, replace(request, body=body), *keys))
    found += [says for says in [next(bodies, None)] if says]  # one: a line's end is lost in a rewriting too
    scheme = decisive(provider.scheme, request, options)
    found += [says for says, other in other_schemes(scheme) if fits(other, request, *keys)]
    found += missing(scheme, request, verdict)
    return found or ([UNEXPLAINED] if verdict.check == "signature" else [])


class _Of:
    """A provider that is its scheme alone."""

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme

    @property
    def scheme(self) -> Scheme:
        return self._scheme


def decisive(scheme: Scheme, request: Request, options: Mapping[str, str]) -> Scheme:
    """Of several schemes the one that judges this request; of a described one what its options make it."""
    if isinstance(scheme, FirstOf):
        return scheme.chosen(request)
    try:
        return scheme.scheme(options) if isinstance(scheme, ByOptions) else scheme
    except UnverifiedError:  # they describe none
        return scheme


def other_secrets(keys: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    for key in keys:
        if (bare := key.strip()) != key:
            yield "the secret has white space around it: without, it fits", bare
        if (unquoted := bare.strip(QUOTES)) != bare:
            yield "the secret has quotes around it: without, it fits", unquoted
        yield "the secret lacks the line feed that ends it at the sender's", key + b"\n"


def other_bodies(request: Request) -> Iterator[tuple[str, bytes]]:
    """What the body may have been before somebody touched it."""
    body = request.body
    bare = body.rstrip(b"\r\n")
    for ending, name in ((b"", "without a line's end"), (b"\n", "with a line feed"), (b"\r\n", "with CR LF")):
        if bare + ending != body:
            yield f"the body was changed on the way: it fits {name}", bare + ending
    if b"\r\n" in bare:
        yield "the body was changed on the way: with LF for CR LF it fits", body.replace(b"\r\n", b"\n")
    document = parsed(body)
    if isinstance(document, dict | list):
        for written in content.writings(document):
            if written != body:
                yield "the body was read as JSON and written again on the way: written differently it fits", written


def other_schemes(scheme: Scheme) -> Iterator[tuple[str, Scheme]]:
    """The same with another algorithm or encoding: then the header is right, and what is expected of it is not."""
    if isinstance(scheme, Hmac):
        for algorithm in ("sha1", "sha256", "sha512"):
            if algorithm != scheme.algorithm:
                yield (
                    f"it is signed with {algorithm}, not with {scheme.algorithm}",
                    replace(scheme, algorithm=algorithm),
                )
        for encoding in ("hex", "hex-upper", "base64"):
            if encoding != scheme.encoding:
                yield (
                    f"the signature is written in {encoding}, not in {scheme.encoding}",
                    replace(scheme, encoding=encoding),
                )


def missing(scheme: Scheme, request: Request, verdict: Refused) -> Iterator[str]:
    """A header under another name: of an older scheme, or none at all."""
    if verdict.check != "header":
        return
    older = (request.header("X-Hub-Signature") or "").startswith("sha1=")
    if older and isinstance(scheme, Hmac) and scheme.header == "X-Hub-Signature-256":
        yield "it bears the older X-Hub-Signature (SHA-1) alone: have the sender sign with SHA-256"
    else:
        yield "the sender signs nothing: it may not know the secret yet, or a proxy takes the header away"
