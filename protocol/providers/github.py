"""GitHub: repositories, organizations, apps."""

from protocol.providers.provider import QUOTED, READ, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="GitHub",
    event_type="X-GitHub-Event",
    delivery_id="X-GitHub-Delivery",
    scheme=Hmac("X-Hub-Signature-256", prefix="sha256="),
    patience_seconds=10,
    setup="Settings → Webhooks → Add webhook: the URL, content type application/json, the secret.",
    credential="the webhook's secret",
    duplicates="a redelivery, by hand or by API, bears the same X-GitHub-Delivery",
    facts=(
        *told(
            "https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries",
            READ,
            signature="HMAC-SHA256 of the body, hex, behind sha256=; the older X-Hub-Signature (SHA-1) is not "
            "looked at",
        ),
        *told(
            "https://docs.github.com/webhooks/webhook-events-and-payloads",
            READ,
            names="X-GitHub-Event, X-GitHub-Delivery",
            success="2xx",
            patience="10 s; GitHub Enterprise Server 30 s",
            retries="none by itself; redelivery by hand or API",
        ),
        *told("https://docs.github.com/webhooks/testing-and-troubleshooting-webhooks", QUOTED, retries="for 3 days"),
    ),
    sample=Sample(
        {
            "ref": "refs/heads/main",
            "after": "6dcb09b5b57875f334f61aebed695e2e4193db5e",
            "repository": {"full_name": "example/lighthouse", "default_branch": "main"},
            "pusher": {"name": "keeper"},
            "commits": [
                {
                    "id": "6dcb09b5b57875f334f61aebed695e2e4193db5e",
                    "message": "Light the lamp",
                    "author": {"name": "Keeper", "username": "keeper"},
                }
            ],
        },
        {"X-GitHub-Event": "push", "X-GitHub-Delivery": "{delivery}", "User-Agent": "GitHub-Hookshot/sample"},
    ),
)
