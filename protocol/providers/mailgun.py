"""Mailgun."""

from protocol.naming import Form, Json
from protocol.providers.provider import OURS, READ, Provider, Sample, told
from protocol.schemes.in_body import Mailgun

PROVIDER = Provider(
    title="Mailgun",
    event_type=None,
    delivery_id=None,
    event_types=(Json("event-data.event"), Form("event")),
    # The token, not the event's id: what is signed is the token, and one that was seen may sign another body.
    delivery_ids=(Json("signature.token"), Form("token")),
    scheme=Mailgun(),
    setup="Send → Webhooks: the URL for each event.",
    credential="the account's HTTP webhook signing key",
    duplicates="the signature's token is the key, so that a token that was seen brings no second event",
    facts=(
        *told(
            "https://github.com/mailgun/mailgun-php/blob/master/tests/Api/WebhookTest.php",
            READ,
            signature="in the body: HMAC-SHA256 of timestamp and token, hex; the rest of the body is not covered; "
            "published vector",
        ),
        *told(
            "https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks",
            READ,
            signature="the time may be judged, not too strictly; a subaccount's events bear the primary account's "
            "parent-signature too, which is as good",
        ),
        *told(
            "hookd itself",
            OURS,
            signature="12 h: longer than it tries again, shorter than tokens are remembered (7 days), so that nothing "
            "that was sent once is handled twice",
        ),
        *told(
            "https://documentation.mailgun.com/docs/mailgun/user-manual/tracking-messages/#webhooks",
            READ,
            names="event-data.event, signature.token",
            success="200 alone; 406 means refused, do not try again",
            patience="not stated",
            retries="after 5, 10 and 15 min, 1, 2 and 4 h: 8 h in all",
        ),
    ),
    sample=Sample(
        {
            "signature": {"timestamp": "", "token": "{delivery}", "signature": ""},
            "event-data": {"id": "sample-{delivery}", "event": "delivered", "recipient": "keeper@example.com"},
        },
    ),
)
