"""X, once Twitter: the Account Activity API."""

from protocol import challenge
from protocol.naming import json_of, same_body
from protocol.providers.provider import OURS, READ, Provider, Sample, told
from protocol.request import Request
from protocol.schemes.keyed import Hmac

NOT_EVENTS = frozenset({"for_user_id", "user_has_blocked"})


def event_type(request: Request) -> str | None:
    """The name of the list that the body brings: tweet_create_events."""
    body = json_of(request)
    if not isinstance(body, dict):
        return None
    return next((name for name in body if name and name not in NOT_EVENTS), None)


PROVIDER = Provider(
    title="X",
    event_type=None,
    delivery_id=None,
    event_types=(event_type,),
    delivery_ids=(same_body,),
    scheme=Hmac("x-twitter-webhooks-signature", prefix="sha256=", encoding="base64"),
    handshake=challenge.x,
    patience_seconds=10,
    setup="POST /2/webhooks with the URL, after the secret is here: X asks at once.",
    credential="the app's consumer secret",
    duplicates="no delivery id: the same body is the same delivery",
    facts=(
        *told(
            "https://github.com/xdevplatform/docs (2871328)",
            READ,
            signature="HMAC-SHA256 of the body, base64, behind sha256=",
            handshake="GET with crc_token, when the webhook is made or PUT, and about every hour; its HMAC comes back. "
            "Only a token of letters, digits and _.~+/=- is signed, so that nobody can have a body signed here",
            success="200",
            patience="10 s",
            retries="none stated; there is a replay API",
        ),
        *told("hookd itself", OURS, names="the body's first list; the key is the body's hash"),
    ),
    sample=Sample(
        {
            "for_user_id": "2244994945",
            "tweet_create_events": [{"id_str": "{delivery}", "text": "The lamp is lit.", "user": {"id_str": "30"}}],
        },
    ),
)
