"""Watson Work: outbound webhooks of a Watson Workspace app."""

from protocol import challenge
from protocol.naming import Derived, Header, Json
from protocol.providers.provider import READ, Provider, Sample, Success, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Watson Work",
    event_type=None,
    delivery_id=None,
    event_types=(Json("type"),),
    # The index counts by app and space; the source is the app.
    delivery_ids=(Derived((Json("spaceId"), Header("X-OUTBOUND-INDEX"))),),
    scheme=Hmac("X-OUTBOUND-TOKEN"),
    handshake=challenge.watson_work,
    success=Success(201, (), b""),
    patience_seconds=3,
    setup="The app's webhook: the URL, the events, the secret; then enable it.",
    credential="the webhook's secret",
    duplicates="a retry bears the same X-OUTBOUND-INDEX in the same space, and a higher X-OUTBOUND-RETRY-COUNT",
    facts=(
        *told(
            "https://github.com/watsonwork/watsonwork-webhook-proxy",
            READ,
            signature="HMAC-SHA256 of the body, lower-case hex; published vectors",
            handshake="a signed POST of type verification; the answer is signed the same way",
        ),
        *told(
            "https://github.com/watsonwork/watsonwork-developer-docs/blob/master/references/V1_OutboundCallback.md",
            READ,
            names="type in the body; X-OUTBOUND-INDEX, a counter of its own for each app and space",
            success="200, 201, 203 and 204; 202 is none",
            patience="3 s",
            retries="every 30 s for 2 h, then after 3, 6, 12, 24, 36 and 72 h; then it is dropped",
        ),
    ),
    sample=Sample(
        {
            "type": "message-created",
            "spaceId": "sample-space",
            "messageId": "{delivery}",
            "content": "Is the lamp lit?",
        },
        {"X-OUTBOUND-INDEX": "{delivery}", "X-OUTBOUND-RETRY-COUNT": "0"},
    ),
)
