"""Square."""

from protocol.naming import Json
from protocol.providers.provider import MEMORY, READ, URL, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Square",
    event_type=None,
    delivery_id=None,
    event_types=(Json("type"),),
    delivery_ids=(Json("event_id"),),
    scheme=Hmac("x-square-hmacsha256-signature", encoding="base64", signed="{url}{body}"),
    options=(URL,),
    patience_seconds=10,
    setup="Developer console → your app → Webhooks → Subscriptions: the URL; then copy its signature key.",
    credential="the subscription's signature key",
    duplicates="a retry bears the same event_id in its body, and square-retry-number",
    facts=(
        *told(
            "https://github.com/square/square-python-sdk/blob/master/tests/integration/test_webhooks_helper.py",
            READ,
            signature="HMAC-SHA256 of the URL and the body, base64; published vectors",
        ),
        *told(
            "https://developer.squareup.com/docs/webhooks/overview",
            READ,
            names="type and event_id in the body",
            success="2xx",
            patience="10 s, in an older page; today: as soon as possible",
            retries="for 24 h (an older page: 72 h); 3 weeks of failing switch it off",
        ),
        *told("https://developer.squareup.com/docs/webhooks/overview", MEMORY, retries="square-retry-number"),
    ),
    sample=Sample(
        {
            "merchant_id": "SAMPLE",
            "type": "payment.updated",
            "event_id": "{delivery}",
            "created_at": "{iso}",
            "data": {"type": "payment", "id": "sample"},
        },
    ),
)
