"""Handshakes as each sender begins them: for trying a source out."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from protocol import challenge, content
from protocol.challenge import Handshake
from protocol.providers.provider import Provider
from protocol.request import Request
from protocol.signature import NO_OPTIONS

WORD = "lamp-4711"  # what is to come back


class Asking(NamedTuple):
    """The query, or the body to be signed, of a sender that asks."""

    method: str
    query: Mapping[str, str] = {}
    body: Mapping[str, Any] | None = None


ASKING: Mapping[Handshake, Callable[[Mapping[str, str]], Asking]] = {
    challenge.slack: lambda _: Asking("POST", body={"type": "url_verification", "challenge": WORD, "token": "unused"}),
    challenge.meta: lambda options: Asking(
        "GET",
        {"hub.mode": "subscribe", "hub.challenge": WORD, "hub.verify_token": options.get("verify_token", "")},
    ),
    challenge.discord: lambda _: Asking(
        "POST", body={"version": 1, "application_id": "1234560123453231555", "type": 0}
    ),
    challenge.zoom: lambda _: Asking(
        "POST", body={"event": "endpoint.url_validation", "payload": {"plainToken": WORD}, "event_ts": 1700000000000}
    ),
    challenge.microsoft_graph: lambda _: Asking("POST", {"validationToken": WORD}),
    challenge.dropbox: lambda _: Asking("GET", {"challenge": WORD}),
    challenge.x: lambda _: Asking("GET", {"crc_token": WORD}),
    challenge.websub: lambda options: Asking(
        "GET",
        {
            "hub.mode": "subscribe",
            "hub.topic": (options.get("topic", "").split() or [""])[0],
            "hub.challenge": WORD,
            "hub.lease_seconds": "864000",
        },
    ),
    challenge.watson_work: lambda _: Asking("POST", body={"type": "verification", "challenge": WORD}),
}


def sample_handshake(
    provider: Provider, key: str, at: float, *, target: str, host: str, options: Mapping[str, str] = NO_OPTIONS
) -> Request | None:
    """The provider's handshake, signed where it signs it; None where it has none."""
    if provider.handshake is None:
        return None
    asking = ASKING[provider.handshake](options)
    target += f"?{urlencode(asking.query)}" if asking.query else ""
    if asking.body is None:
        return Request(asking.method, target, [("Host", host)], b"")
    headers = [("Host", host), ("Content-Type", "application/json")]
    request = Request(asking.method, target, headers, content.to_json(asking.body))
    return provider.scheme.sign(request, key, at, options)
