"""Bitbucket Cloud."""

from protocol.providers.provider import MEMORY, QUOTED, READ, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Bitbucket Cloud",
    event_type="X-Event-Key",
    delivery_id="X-Request-UUID",
    scheme=Hmac("X-Hub-Signature", prefix="sha256="),
    patience_seconds=10,
    setup="Repository settings → Webhooks → Add webhook: the URL and the secret.",
    credential="the webhook's secret",
    duplicates="a retry bears the same X-Request-UUID and a higher X-Attempt-Number",
    facts=(
        *told(
            "https://support.atlassian.com/bitbucket-cloud/docs/manage-webhooks/",
            QUOTED,
            signature="HMAC-SHA256 of the body, hex, behind sha256=, under the older header name",
        ),
        *told(
            "https://support.atlassian.com/bitbucket-cloud/docs/event-payloads/",
            READ,
            names="a payload has 256 kB at most",
        ),
        *told(
            "https://support.atlassian.com/bitbucket-cloud/docs/manage-webhooks/",
            MEMORY,
            names="X-Event-Key, X-Request-UUID, X-Attempt-Number",
            success="2xx",
            patience="10 s",
            retries="2 more after a 5xx or a time-out",
        ),
    ),
    sample=Sample(
        {"repository": {"full_name": "example/lighthouse"}, "actor": {"nickname": "keeper"}, "push": {"changes": []}},
        {"X-Event-Key": "repo:push", "X-Request-UUID": "{delivery}", "X-Attempt-Number": "1"},
    ),
)
