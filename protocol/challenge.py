"""Handshakes: what a sender asks before it sends, answered in the request. Such a request is no event."""

import base64
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from protocol import content
from protocol.naming import json_of
from protocol.request import Request
from protocol.schemes import sns
from protocol.signature import NO_OPTIONS, Signs, as_bytes, judge, same
from protocol.verdict import Verified

# A challenge that we sign or echo. Where we sign it, this is what keeps anybody from having us sign a body: no JSON
# and no form can be written in these letters alone.
WORD = re.compile(r"[A-Za-z0-9_.~+/=-]{1,512}")
TEXT_CHARACTERS_MAX = 4096
PLAIN = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))
JSON = (("Content-Type", "application/json"),)


class Answer(NamedTuple):
    """What is answered at once."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


NOT_VERIFIED = Answer(401, PLAIN, b"not verified\n")
FORBIDDEN = Answer(403, PLAIN, b"the verify token is another\n")
NOT_PENDING = Answer(404, PLAIN, b"no such subscription is pending\n")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that may be a handshake, and what the source knows."""

    provider: Signs
    request: Request
    secrets: tuple[bytes, ...]
    received_at: float
    options: Mapping[str, str]

    def secret_that_fits(self) -> bytes | None:
        """The secret that the request is signed with; None where it is not verified."""
        verdict = judge(self.provider, self.request, self.secrets, self.received_at, options=self.options)
        return self.secrets[verdict.secret or 0] if isinstance(verdict, Verified) and self.secrets else None

    @property
    def is_verified(self) -> bool:
        return self.secret_that_fits() is not None

    def posts(self, word: bytes) -> bool:
        """Whether it is a POST with this word in it: most are events, and need not be parsed."""
        return self.request.method == "POST" and word in self.request.body

    def field(self, name: str, *path: str) -> Any:
        """A field of a JSON object; None where the body is none."""
        value = json_of(self.request)
        for step in (name, *path):
            value = value.get(step) if isinstance(value, dict) else None
        return value


Handshake: TypeAlias = Callable[[Asked], Answer | None]


class Greets(Signs, Protocol):
    """What is asked of a provider here."""

    @property
    def handshake(self) -> Handshake | None: ...


def answer(
    provider: Greets,
    request: Request,
    secrets: Sequence[str | bytes],
    received_at: float,
    *,
    options: Mapping[str, str] = NO_OPTIONS,
) -> Answer | None:
    """The answer to a provider's handshake; None where the request is none, and an event like any other.

    Of several secrets the first is the newest: what no signature of the sender's shows is signed with that one.
    """
    if provider.handshake is None:
        return None
    keys = tuple(key for key in map(as_bytes, secrets) if key)
    return provider.handshake(Asked(provider, request, keys, received_at, options))


def slack(asked: Asked) -> Answer | None:
    """Slack asks once for each URL: the challenge comes back as it was sent."""
    if not asked.posts(b"url_verification") or asked.field("type") != "url_verification":
        return None
    challenge = text_of(asked.field("challenge"))
    if challenge is None:
        return None
    return plain(challenge) if asked.is_verified or not asked.secrets else NOT_VERIFIED


def meta(asked: Asked) -> Answer | None:
    """Meta proves that it knows the verify token entered there."""
    query = asked.request.query()
    if asked.request.method != "GET" or query.get("hub.mode") != "subscribe":
        return None
    expected, challenge = asked.options.get("verify_token", ""), text_of(query.get("hub.challenge"))
    if not expected or not same(_bytes(expected), _bytes(query.get("hub.verify_token", ""))) or challenge is None:
        return FORBIDDEN
    return plain(challenge)


def discord(asked: Asked) -> Answer | None:
    """Discord pings, now and then with a bad signature to see whether it is refused; that must be a 401."""
    if asked.request.method != "POST" or asked.request.header("X-Signature-Ed25519") is None:
        return None
    kind = asked.field("type")
    if not asked.is_verified:
        return NOT_VERIFIED
    if isinstance(kind, bool) or kind not in (0, 1) or asked.field("event") is not None:
        return None
    # Of webhook events a ping is type 0 and wants nothing back; of interactions it is type 1 and wants its echo.
    return Answer(204) if kind == 0 else Answer(200, JSON, b'{"type":1}')


def zoom(asked: Asked) -> Answer | None:
    """Zoom has a token signed when the URL is entered, and every 72 hours."""
    if not asked.posts(b"url_validation") or asked.field("event") != "endpoint.url_validation":
        return None
    token, secret = asked.field("payload", "plainToken"), asked.secret_that_fits()
    if secret is None or not isinstance(token, str) or not WORD.fullmatch(token):
        return NOT_VERIFIED
    signed = hmac.digest(secret, token.encode(), "sha256").hex()
    return Answer(200, JSON, content.to_json({"plainToken": token, "encryptedToken": signed}))


def microsoft_graph(asked: Asked) -> Answer | None:
    """Graph wants its token back, decoded, within 10 seconds."""
    token = asked.request.query().get("validationToken")
    if asked.request.method not in ("POST", "GET") or token is None:
        return None
    token = text_of(token)
    return plain(token) if token is not None else Answer(400, PLAIN, b"no validation token\n")


def dropbox(asked: Asked) -> Answer | None:
    """Dropbox wants its challenge back, in a form that no browser takes for a page."""
    challenge = text_of(asked.request.query().get("challenge"))
    if asked.request.method != "GET" or challenge is None:
        return None
    return plain(challenge)


def x(asked: Asked) -> Answer | None:
    """X has a token signed when a webhook is made, and about every hour."""
    token = asked.request.query().get("crc_token")
    if asked.request.method != "GET" or token is None:
        return None
    if not asked.secrets or not WORD.fullmatch(token):
        return NOT_VERIFIED
    signed = base64.b64encode(hmac.digest(asked.secrets[0], token.encode(), "sha256")).decode()
    return Answer(200, JSON, content.to_json({"response_token": f"sha256={signed}"}))


def websub(asked: Asked) -> Answer | None:
    """A hub asks whether to begin or to end: the source wants the topics of its option `topic`, and no other."""
    query = asked.request.query()
    if asked.request.method != "GET" or "hub.mode" not in query:
        return None
    if query["hub.mode"] == "denied":
        return plain("")
    topics = asked.options.get("topic", "").split()
    agreed = {"subscribe": query.get("hub.topic") in topics, "unsubscribe": query.get("hub.topic") not in topics}
    challenge = text_of(query.get("hub.challenge"))
    return plain(challenge) if agreed.get(query["hub.mode"]) and challenge is not None else NOT_PENDING


def watson_work(asked: Asked) -> Answer | None:
    """Watson Work wants its challenge back in a body that is signed as its own was."""
    if not asked.posts(b"verification") or asked.field("type") != "verification":
        return None
    challenge, secret = text_of(asked.field("challenge")), asked.secret_that_fits()
    if secret is None or challenge is None:
        return NOT_VERIFIED
    body = content.to_json({"response": challenge})
    signed = hmac.digest(secret, body, "sha256").hex()
    return Answer(200, (*JSON, ("X-OUTBOUND-TOKEN", signed)), body)


def sns_confirmation(request: Request) -> str | None:
    """The URL that confirms a subscription when it is fetched; None where there is none, or it is not Amazon's.

    Not in the request: first the message is verified. Nor for the end of a subscription: its URL begins it again.
    """
    document = json_of(request)
    kind = document.get("Type") if isinstance(document, dict) else None
    return sns.subscribe_url(request) if kind == "SubscriptionConfirmation" else None


def plain(text: str) -> Answer:
    """The text and nothing else; no browser takes it for a page."""
    return Answer(200, PLAIN, text.encode("utf-8", "replace"))


def text_of(value: object) -> str | None:
    """A challenge that may be echoed: text, and not too much of it."""
    return value if isinstance(value, str) and 0 < len(value) <= TEXT_CHARACTERS_MAX else None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
