"""Calendly."""

from protocol.naming import Derived, Json
from protocol.providers.provider import MEMORY, QUOTED, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Calendly",
    event_type=None,
    delivery_id=None,
    event_types=(Json("event"),),
    delivery_ids=(Derived((Json("event"), Json("payload.uri"), Json("created_at"))),),
    scheme=Hmac(
        "Calendly-Webhook-Signature",
        prefix="v1=",
        separator=",",
        timestamp_mark="t=",
        signed="{timestamp}.{body}",
        tolerance_seconds=300,
    ),
    patience_seconds=10,
    setup="POST /webhook_subscriptions: the URL, the events, and the secret as signing_key.",
    credential="the subscription's signing key",
    duplicates="no delivery id: a key is derived from event, payload.uri and created_at",
    facts=(
        *told(
            "https://developer.calendly.com/api-docs/ZG9jOjM2MzE2MDM4-webhook-signatures",
            QUOTED,
            signature="HMAC-SHA256 of t, a dot and the body, hex, as v1; 300 s",
            names="event, created_at and payload.uri in the body",
        ),
        *told(
            "https://developer.calendly.com/api-docs/",
            MEMORY,
            success="2xx",
            patience="10 s",
            retries="for 24 h, ever more slowly; then the subscription is switched off",
        ),
    ),
    sample=Sample(
        {
            "event": "invitee.created",
            "created_at": "{iso}",
            "payload": {
                "uri": "https://api.calendly.com/scheduled_events/sample/invitees/{delivery}",
                "name": "Keeper",
            },
        },
    ),
)
