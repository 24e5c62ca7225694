"""Paddle Billing."""

from protocol.naming import Json
from protocol.providers.provider import QUOTED, READ, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Paddle",
    event_type=None,
    delivery_id=None,
    event_types=(Json("event_type"),),
    delivery_ids=(Json("event_id"),),
    scheme=Hmac(
        "Paddle-Signature",
        prefix="h1=",
        separator=";",
        timestamp_mark="ts=",
        signed="{timestamp}:{body}",
        tolerance_seconds=5,
    ),
    patience_seconds=5,
    setup="Developer tools → Notifications → New destination: the URL; then copy its secret key.",
    credential="the destination's secret key, pdl_ntfset_ included",
    duplicates="a retry bears the same event_id in its body",
    facts=(
        *told(
            "https://github.com/PaddleHQ/paddle-python-sdk/blob/main/tests/Unit/Notification/test_Verifier.py",
            READ,
            signature="HMAC-SHA256 of the time, a colon and the body, hex, as h1; several while a secret is "
            "rotated; 5 s, "
            "as in Paddle's own libraries; published vectors",
        ),
        *told(
            "https://developer.paddle.com/webhooks/overview",
            QUOTED,
            names="event_type, event_id and notification_id in the body",
            success="200",
            patience="5 s",
            retries="live: 60 in 3 days, 20 of them in the first hour; sandbox: 3 in 15 min",
        ),
    ),
    sample=Sample(
        {
            "event_id": "evt_{delivery}",
            "event_type": "transaction.completed",
            "occurred_at": "{iso}",
            "notification_id": "ntf_sample",
            "data": {"id": "txn_sample", "status": "completed", "currency_code": "EUR"},
        },
    ),
)
