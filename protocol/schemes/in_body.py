"""What proves the sender stands in the body: Mailgun's signature, Microsoft Graph's clientState."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from protocol import content
from protocol.naming import at_path, form_of, scalar
from protocol.request import Request
from protocol.signature import as_bytes, mac, no_secret, same, unfit
from protocol.verdict import Case, UnverifiedError

# Longer than Mailgun tries again (8 h), for it does not say whether a retry is signed anew; shorter than tokens are
# remembered (7 days), so that nothing that was sent once comes through a second time.
MAILGUN_TOLERANCE_SECONDS = 12 * 3600


@dataclass(frozen=True, slots=True)
class Mailgun:
    """The secret is the account's webhook signing key. The signature covers a time and a token, not the rest.

    What a subaccount sends is signed by the primary account too.
    """

    tolerance_seconds: ClassVar[int | None] = MAILGUN_TOLERANCE_SECONDS

    def check(self, case: Case) -> int:
        stamp, token, given = mailgun_words(case.request)
        for number, secret in enumerate(case.secrets):
            expected = mailgun_signature(secret, stamp, token)
            if [each for each in given if same(expected, each.encode("utf-8", "surrogatepass"))]:
                case.judge_time(stamp, MAILGUN_TOLERANCE_SECONDS)
                return number
        raise unfit("the body's signature", case)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        stamp = str(int(at))
        token = str(at_path(content.parse_json(request.body), "signature.token") or "")
        signature = mailgun_signature(as_bytes(key), stamp, token).decode()
        body = content.with_field(request.body, "signature.timestamp", stamp)
        return replace(request, body=content.with_field(body, "signature.signature", signature))

    def headers(self) -> tuple[str, ...]:
        return ()


def mailgun_words(request: Request) -> tuple[str, str, list[str]]:
    """Time, token and signatures: of today's JSON, or of the older form. Raises UnverifiedError."""
    fields: Any = form_of(request) or at_path(content.parse_json(request.body), "signature")
    if not isinstance(fields, dict):
        raise UnverifiedError("format", "the body has no signature")
    stamp, token, signature = (scalar(fields.get(name)) for name in ("timestamp", "token", "signature"))
    if stamp is None or token is None or signature is None:
        raise UnverifiedError("format", "the body's signature lacks a timestamp, a token or the signature itself")
    parent = scalar(fields.get("parent-signature"))
    return stamp, token, [signature, parent] if parent else [signature]


def mailgun_signature(secret: bytes, stamp: str, token: str) -> bytes:
    message = (stamp + token).encode("utf-8", "surrogatepass")
    return mac(secret, message, "sha256").hex().encode()


@dataclass(frozen=True, slots=True)
class ClientState:
    """The secret is the subscription's clientState, and every notification of the body must bear it."""

    tolerance_seconds: ClassVar[int | None] = None

    def check(self, case: Case) -> int:
        items = at_path(content.parse_json(case.request.body), "value")
        if not isinstance(items, list) or not items:
            raise UnverifiedError("format", "the body has no notifications")
        states = [state_of(item) for item in items]
        if not case.secrets:
            raise no_secret()
        # Notifications of several subscriptions may travel together, each with its own secret.
        found = [next((n for n, secret in enumerate(case.secrets) if same(state, secret)), None) for state in states]
        if any(number is None for number in found):
            raise unfit("a notification's clientState", case)
        return found[0] or 0

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        document = content.parse_json(request.body)
        for item in document["value"]:
            item["clientState"] = key
        return replace(request, body=content.to_json(document))

    def headers(self) -> tuple[str, ...]:
        return ()


def state_of(item: Any) -> bytes:
    state = item.get("clientState") if isinstance(item, dict) else None
    if not isinstance(state, str):
        raise UnverifiedError("format", "a notification has no clientState")
    return state.encode("utf-8", "surrogatepass")
