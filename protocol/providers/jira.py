"""Jira Cloud."""

from protocol.naming import Json
from protocol.providers.provider import MEMORY, QUOTED, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Jira Cloud",
    event_type=None,
    delivery_id="X-Atlassian-Webhook-Identifier",
    event_types=(Json("webhookEvent"),),
    scheme=Hmac("X-Hub-Signature", prefix="sha256="),
    patience_seconds=20,
    setup="System → WebHooks → Create a WebHook: the URL, the events, the secret.",
    credential="the webhook's secret",
    duplicates="a retry bears the same X-Atlassian-Webhook-Identifier",
    facts=(
        *told(
            "https://developer.atlassian.com/cloud/jira/platform/webhooks/",
            QUOTED,
            signature="HMAC-SHA256 of the body, hex, behind sha256=; published vector",
            patience="20 s, 5 s to connect",
            retries="5 after 408, 409, 425, 429, a 5xx or a time-out, at random between 5 and 15 min",
        ),
        *told(
            "https://developer.atlassian.com/cloud/jira/platform/webhooks/",
            MEMORY,
            names="webhookEvent in the body; X-Atlassian-Webhook-Identifier, the same in each retry",
            success="2xx",
        ),
    ),
    sample=Sample(
        {"timestamp": 1700000000000, "webhookEvent": "jira:issue_created", "issue": {"id": "10002", "key": "LAMP-7"}},
        {"X-Atlassian-Webhook-Identifier": "{delivery}"},
    ),
)
