"""Standard Webhooks: v1 (HMAC) and v1a (Ed25519), under its own header names and under Svix's."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from protocol import keys
from protocol.request import Request
from protocol.schemes.asymmetric import public_key
from protocol.signature import SIGNATURES_MAX, as_bytes, mac, same, unfit, with_headers
from protocol.verdict import Case, UnverifiedError

SECRET = "whsec_"  # noqa: S105 - how a secret begins
NAMES = ("webhook", "svix")
TOLERANCE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class StandardWebhooks:
    """A secret is `whsec_` and base64, for v1, or a public key `whpk_` and base64, for v1a."""

    tolerance_seconds: ClassVar[int | None] = TOLERANCE_SECONDS

    names: tuple[str, ...] = NAMES

    def check(self, case: Case) -> int:
        name = self.name_in(case.request)
        given = case.needed_header(f"{name}-signature")
        event_id, timestamp = case.needed_header(f"{name}-id"), case.needed_header(f"{name}-timestamp")
        signatures = [part.partition(",")[::2] for part in given.split(" ")][:SIGNATURES_MAX]
        message = signed(event_id, timestamp, case.request.body)
        unreadable: UnverifiedError | None = None
        for number, secret in enumerate(case.secrets):
            try:
                is_signed = any(fits(secret, version, signature, message) for version, signature in signatures)
            except UnverifiedError as error:  # another one may be good: GitLab's sources go from tokens to keys
                unreadable = unreadable or error
                continue
            if is_signed:
                case.judge_time(timestamp, TOLERANCE_SECONDS)
                return number
        if not any(version in ("v1", "v1a") and signature for version, signature in signatures):
            raise UnverifiedError("format", f"{name}-signature has no signature of version v1 or v1a")
        raise unreadable or unfit(f"{name}-signature", case)

    def name_in(self, request: Request) -> str:
        """The first by which there is a signature or an id: the id that names the delivery must be the one signed."""
        for name in self.names:
            if request.header(f"{name}-signature") is not None or request.header(f"{name}-id") is not None:
                return name
        return self.names[0]

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        name, stamp = self.names[0], str(int(at))
        event_id = request.header(f"{name}-id") or "msg_2hookd0sample0delivery"
        message = signed(event_id, stamp, request.body)
        if key.startswith(keys.STANDARD_PRIVATE):
            version, signature = "v1a", keys.signed(key, message)
        else:
            version, signature = "v1", mac(symmetric(as_bytes(key)), message, "sha256")
        value = f"{version},{base64.b64encode(signature).decode()}"
        return with_headers(
            request, [(f"{name}-id", event_id), (f"{name}-timestamp", stamp), (f"{name}-signature", value)]
        )

    def headers(self) -> tuple[str, ...]:
        return tuple(f"{self.names[0]}-{what}" for what in ("signature", "id", "timestamp"))


def signed(event_id: str, timestamp: str, body: bytes) -> bytes:
    return b"".join((f"{event_id}.{timestamp}.".encode("latin-1", "replace"), body))


def fits(secret: bytes, version: str, signature: str, message: bytes) -> bool:
    """Whether the signature is this secret's. Raises UnverifiedError where the secret is of neither form."""
    is_public = secret.startswith(keys.STANDARD_PUBLIC.encode())
    if version == "v1" and not is_public:
        expected = base64.b64encode(mac(symmetric(secret), message, "sha256"))
        return same(expected, signature.encode("latin-1", "replace"))
    if version == "v1a" and is_public:
        try:
            return keys.ed25519_fits(public_key(secret), base64.b64decode(signature, validate=True), message)
        except ValueError:
            return False
    return False


@lru_cache(keys.KEYS_MAX)
def symmetric(secret: bytes) -> bytes:
    """The key that a secret's text stands for. Raises UnverifiedError."""
    try:
        key = keys.padded_base64(secret.decode().removeprefix(SECRET))
    except ValueError:
        key = b""
    if not key:
        raise UnverifiedError("secret", f"a secret of the source is not {SECRET} and base64")
    return key
