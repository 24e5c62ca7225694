"""PagerDuty: V3 webhooks."""

from protocol.naming import Json
from protocol.providers.provider import MEMORY, QUOTED, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="PagerDuty",
    event_type=None,
    delivery_id=None,
    event_types=(Json("event.event_type"),),
    delivery_ids=(Json("event.id"),),
    scheme=Hmac("X-PagerDuty-Signature", prefix="v1=", separator=","),
    patience_seconds=5,
    setup="Integrations → Generic Webhooks (v3) → New Webhook: the URL; then copy the secret, which is shown once.",
    credential="the subscription's signing secret",
    duplicates="a retry bears the same event.id in its body",
    facts=(
        *told(
            "https://github.com/PagerDuty/developer-docs/tree/main/docs/webhooks",
            QUOTED,
            signature="HMAC-SHA256 of the body, hex, behind v1=; several while a secret is rotated",
            names="event.event_type and event.id in the body",
        ),
        *told(
            "https://github.com/PagerDuty/developer-docs/tree/main/docs/webhooks",
            MEMORY,
            success="2xx",
            patience="5 s",
            retries="some, then the subscription is switched off for a time",
        ),
    ),
    sample=Sample(
        {
            "event": {
                "id": "{delivery}",
                "event_type": "incident.triggered",
                "resource_type": "incident",
                "occurred_at": "{iso}",
                "data": {"id": "PSAMPLE", "type": "incident", "title": "The lamp is out"},
            }
        },
    ),
)
