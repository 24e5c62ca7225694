"""SendGrid: the event webhook."""

from protocol.naming import Each, Json
from protocol.providers.provider import MEMORY, READ, Provider, Sample, told
from protocol.schemes.asymmetric import Signed

PROVIDER = Provider(
    title="SendGrid",
    event_type=None,
    delivery_id=None,
    event_types=(Json("0.event"),),
    delivery_ids=(Each("", ("sg_event_id",)),),
    scheme=Signed(
        "ecdsa",
        "X-Twilio-Email-Event-Webhook-Signature",
        "X-Twilio-Email-Event-Webhook-Timestamp",
        encoding="base64",
    ),
    patience_seconds=10,
    setup="Settings → Mail Settings → Event Webhook: the URL, signature verification on; copy the verification key.",
    credential="the verification key: a public key, base64",
    duplicates="a retry brings the same events: the key is derived from the sg_event_id of all of them",
    facts=(
        *told(
            "https://github.com/sendgrid/sendgrid-python/blob/main/test/unit/test_eventwebhook.py",
            READ,
            signature="ECDSA (P-256, SHA-256) over the time and the body with its last CRLF, base64 of DER; published "
            "vectors. SendGrid's library judges no time; here it is judged where tolerance_seconds says so",
            names="an array; event and sg_event_id of each item. The first item's is the event type here",
        ),
        *told(
            "https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event",
            MEMORY,
            success="2xx",
            patience="10 s",
            retries="for 24 h",
        ),
    ),
    sample=Sample(
        [{"email": "keeper@example.com", "event": "delivered", "sg_event_id": "{delivery}", "timestamp": 1700000000}],
        key="p256",
    ),
)
