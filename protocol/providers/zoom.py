"""Zoom."""

from protocol import challenge
from protocol.naming import Json
from protocol.providers.provider import MEMORY, QUOTED, READ, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Zoom",
    event_type=None,
    delivery_id="x-zm-trackingid",
    event_types=(Json("event"),),
    scheme=Hmac(
        "x-zm-signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp_header="x-zm-request-timestamp",
        tolerance_seconds=300,
    ),
    handshake=challenge.zoom,
    patience_seconds=3,
    setup="Your app → Feature → Event Subscriptions: the URL, after the secret token is here; then Validate.",
    credential="the app's secret token",
    duplicates="a retry bears the same x-zm-trackingid",
    facts=(
        *told(
            "https://github.com/zoom/webhook-sample",
            READ,
            signature="HMAC-SHA256 of v0, the time and the body, between colons, hex, behind v0=; the tolerance "
            "is ours",
            handshake="a signed POST of endpoint.url_validation, when the URL is entered and every 72 h; the token "
            "comes back with its HMAC",
            names="event in the body",
        ),
        *told("https://developers.zoom.us/docs/api/webhooks/", QUOTED, success="200 or 204", patience="3 s"),
        *told(
            "https://developers.zoom.us/docs/api/webhooks/",
            MEMORY,
            names="x-zm-trackingid",
            retries="3: after 5, 30 and 90 min",
        ),
    ),
    sample=Sample(
        {
            "event": "meeting.started",
            "event_ts": 1700000000000,
            "payload": {"account_id": "sample", "object": {"id": "99951234567", "topic": "Lighthouse keepers"}},
        },
        {"x-zm-trackingid": "{delivery}"},
    ),
)
