"""Sentry: the integration platform."""

from protocol.providers.provider import MEMORY, QUOTED, READ, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Sentry",
    event_type="Sentry-Hook-Resource",
    delivery_id="Request-ID",
    scheme=Hmac("Sentry-Hook-Signature"),
    patience_seconds=1,
    setup="Settings → Developer Settings → your integration: the webhook URL; the secret is its client secret.",
    credential="the integration's client secret",
    duplicates="Request-ID names the delivery",
    facts=(
        *told(
            "https://docs.sentry.io/integrations/integration-platform/webhooks/",
            READ,
            names="Sentry-Hook-Resource, Request-ID; the action stands in the body",
            patience="1 s; 1,000 time-outs in 24 h end the subscription",
        ),
        *told(
            "https://docs.sentry.io/integrations/integration-platform/webhooks/",
            QUOTED,
            signature="HMAC-SHA256 of the body, hex; Sentry-Hook-Timestamp is not signed, and not judged",
        ),
        *told(
            "https://docs.sentry.io/integrations/integration-platform/webhooks/",
            MEMORY,
            success="2xx",
            retries="none stated",
        ),
    ),
    sample=Sample(
        {
            "action": "created",
            "data": {"issue": {"id": "170", "title": "LampError: no oil"}},
            "actor": {"type": "user"},
        },
        {"Sentry-Hook-Resource": "issue", "Request-ID": "{delivery}"},
    ),
)
