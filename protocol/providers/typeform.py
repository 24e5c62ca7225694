"""Typeform."""

from protocol.naming import Json
from protocol.providers.provider import MEMORY, QUOTED, READ, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Typeform",
    event_type=None,
    delivery_id=None,
    event_types=(Json("event_type"),),
    delivery_ids=(Json("event_id"),),
    scheme=Hmac("Typeform-Signature", prefix="sha256=", encoding="base64"),
    patience_seconds=30,
    setup="Connect → Webhooks → Add a webhook: the URL; then Edit: the secret.",
    credential="the webhook's secret",
    duplicates="a retry bears the same event_id in its body",
    facts=(
        *told(
            "https://www.typeform.com/developers/webhooks/secure-your-webhooks/",
            READ,
            signature="HMAC-SHA256 of the body, base64, behind sha256=",
        ),
        *told(
            "https://hookdeck.com/webhooks/platforms/guide-to-typeform-webhooks-features-and-best-practices",
            QUOTED,
            patience="30 s",
            retries="every 2 to 3 min for 10 h after 408, 423, 429 and 503",
        ),
        *told(
            "https://www.typeform.com/developers/webhooks/example-payload/",
            MEMORY,
            names="event_type and event_id in the body",
            success="2xx",
        ),
    ),
    sample=Sample(
        {
            "event_id": "{delivery}",
            "event_type": "form_response",
            "form_response": {"form_id": "sample", "token": "sample", "submitted_at": "{iso}", "answers": []},
        },
    ),
)
