"""LINE: the Messaging API."""

from protocol.naming import Each, Json
from protocol.providers.provider import MEMORY, READ, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="LINE",
    event_type=None,
    delivery_id=None,
    event_types=(Json("events.0.type"),),
    delivery_ids=(Each("events", ("webhookEventId",)),),
    scheme=Hmac("X-Line-Signature", encoding="base64"),
    patience_seconds=2,
    setup="LINE Developers console → Messaging API: the webhook URL; then Verify.",
    credential="the channel secret",
    duplicates="a redelivery brings the same webhookEventId, and isRedelivery true",
    facts=(
        *told(
            "https://github.com/line/line-bot-sdk-python/blob/master/tests/test_webhook.py",
            READ,
            signature="HMAC-SHA256 of the body, base64; published vector",
        ),
        *told(
            "https://developers.line.biz/en/docs/messaging-api/receiving-messages/",
            MEMORY,
            names="events[].type, events[].webhookEventId; the first event's type here; none when it only tries "
            "the URL",
            success="200",
            patience="2 s",
            retries="only where redelivery is switched on",
        ),
    ),
    sample=Sample(
        {
            "destination": "U0000000000000000000000000000000",
            "events": [
                {
                    "type": "message",
                    "webhookEventId": "{delivery}",
                    "deliveryContext": {"isRedelivery": False},
                    "message": {"type": "text", "id": "1", "text": "Is the lamp lit?"},
                }
            ],
        },
    ),
)
