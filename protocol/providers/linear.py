"""Linear."""

from protocol.providers.provider import MEMORY, QUOTED, READ, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Linear",
    event_type="Linear-Event",
    delivery_id="Linear-Delivery",
    scheme=Hmac("Linear-Signature", timestamp_in_body="webhookTimestamp", milliseconds=True, tolerance_seconds=60),
    patience_seconds=5,
    setup="Settings → API → Webhooks → New webhook: the URL; then copy its signing secret.",
    credential="the webhook's signing secret",
    duplicates="a retry bears the same Linear-Delivery",
    facts=(
        *told(
            "https://linear.app/developers/webhooks",
            READ,
            signature="HMAC-SHA256 of the body, hex; the body's webhookTimestamp within 60 s",
            names="Linear-Event, Linear-Delivery",
        ),
        *told("https://linear.app/developers/webhooks", QUOTED, success="200", patience="5 s"),
        *told(
            "https://linear.app/developers/webhooks",
            MEMORY,
            retries="3: after 1 min, 1 h and 6 h; then it may be switched off",
        ),
    ),
    sample=Sample(
        {
            "action": "create",
            "type": "Issue",
            "data": {"id": "sample", "title": "Trim the wick", "number": 7},
            "webhookTimestamp": 0,
        },
        {"Linear-Event": "Issue", "Linear-Delivery": "{delivery}"},
    ),
)
