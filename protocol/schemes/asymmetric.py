"""A signature by a private key over a time and the body: Ed25519 (Discord and others), ECDSA (SendGrid)."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from protocol import keys
from protocol.request import Request
from protocol.schemes.template import fill
from protocol.signature import unfit, with_headers
from protocol.verdict import Case, UnverifiedError


@dataclass(frozen=True, slots=True)
class Signed:
    """The source's secrets are public keys. `signed`: as in Hmac, of {timestamp} and {body}."""

    kind: Literal["ed25519", "ecdsa"]
    header: str
    timestamp_header: str = ""
    encoding: Literal["hex", "base64"] = "hex"
    signed: str = "{timestamp}{body}"
    tolerance_seconds: int | None = None

    def check(self, case: Case) -> int:
        signature = self.decoded(case.needed_header(self.header))
        timestamp = case.needed_header(self.timestamp_header) if self.timestamp_header else ""
        message = self.message(case.request, timestamp)
        fits = keys.ed25519_fits if self.kind == "ed25519" else keys.ecdsa_fits
        for number, secret in enumerate(case.secrets):
            if fits(public_key(secret), signature, message):
                if self.tolerance_seconds or "tolerance_seconds" in case.options:
                    case.judge_time(timestamp, self.tolerance_seconds)
                return number
        raise unfit(self.header, case)

    def decoded(self, value: str) -> bytes:
        try:
            return bytes.fromhex(value) if self.encoding == "hex" else base64.b64decode(value, validate=True)
        except ValueError:
            raise UnverifiedError("format", f"{self.header} is not {self.encoding}") from None

    def message(self, request: Request, timestamp: str) -> bytes:
        return fill(self.signed, {"timestamp": timestamp.encode("latin-1", "replace"), "body": request.body})

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        stamp = str(int(at))
        signature = keys.signed(key, self.message(request, stamp))
        text = signature.hex() if self.encoding == "hex" else base64.b64encode(signature).decode()
        times = [(self.timestamp_header, stamp)] if self.timestamp_header else []
        return with_headers(request, [(self.header, text), *times])

    def headers(self) -> tuple[str, ...]:
        return tuple(name for name in (self.header, self.timestamp_header) if name)


def public_key(secret: bytes) -> object:
    """Raises UnverifiedError where the source's secret is no public key: it then verifies nothing."""
    try:
        return keys.public_key(secret.decode())
    except ValueError:
        raise UnverifiedError("secret", "a secret of the source is no public key") from None


def ed25519_by(options: Mapping[str, str]) -> Signed:
    """The Ed25519 scheme that a source's options describe. Raises ValueError."""
    encoding, stamp = options.get("encoding", "hex"), options.get("timestamp_header", "")
    signed = options.get("signed", "{timestamp}{body}" if stamp else "{body}")
    if encoding not in ("hex", "base64"):
        raise ValueError("encoding is hex or base64")
    if "{body}" not in signed:
        raise ValueError("signed has no {body} in it: nothing would protect the body")
    if any(name in signed for name in ("{id}", "{url}", "{method}")):
        raise ValueError("signed is made of {timestamp} and {body}")
    if "{timestamp}" in signed and not stamp:
        raise ValueError("signed has a {timestamp}: timestamp_header says where it stands")
    return Signed(
        "ed25519",
        options.get("header", "X-Signature-Ed25519"),
        stamp,
        "hex" if encoding == "hex" else "base64",
        signed,
        int(options.get("tolerance_seconds", "300")) if stamp else None,
    )
