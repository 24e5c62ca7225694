"""Slack: the Events API, commands, interactivity."""

from protocol import challenge
from protocol.naming import Form, Json
from protocol.providers.provider import MEMORY, QUOTED, READ, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Slack",
    event_type=None,
    delivery_id=None,
    event_types=(Json("event.type"), Json("type"), Form("command"), Form("payload", "type")),
    delivery_ids=(Json("event_id"),),
    scheme=Hmac(
        "X-Slack-Signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp_header="X-Slack-Request-Timestamp",
        tolerance_seconds=300,
    ),
    handshake=challenge.slack,
    patience_seconds=3,
    setup="Your app → Event Subscriptions: the URL, after the signing secret (Basic Information) is here.",
    credential="the app's signing secret",
    duplicates="a retry bears the same event_id in its body, and X-Slack-Retry-Num",
    facts=(
        *told(
            "https://docs.slack.dev/authentication/verifying-requests-from-slack",
            READ,
            signature="HMAC-SHA256 of v0, the time and the body, between colons, hex, behind v0=; 300 s; "
            "published vector",
            handshake="a POST of type url_verification; its challenge is echoed",
        ),
        *told(
            "https://docs.slack.dev/apis/events-api/",
            QUOTED,
            names="event.type and event_id in the body; of commands and interactivity a form",
            success="2xx, after 2 redirects at most",
            patience="3 s",
            retries="3: at once, after 1 min, after 5 min; X-Slack-No-Retry: 1 in the answer stops them",
        ),
        *told("https://docs.slack.dev/apis/events-api/", MEMORY, retries="over 95 % failing in an hour: switched off"),
    ),
    sample=Sample(
        {
            "type": "event_callback",
            "team_id": "T0SAMPLE",
            "event_id": "Ev{delivery}",
            "event": {"type": "app_mention", "user": "U0KEEPER", "text": "is the lamp lit?", "channel": "C0SAMPLE"},
        },
    ),
)
