"""Gitea and Forgejo."""

from protocol.naming import Header
from protocol.providers.provider import MEMORY, QUOTED, READ, Provider, Sample, told
from protocol.schemes.choice import FirstOf
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Gitea, Forgejo",
    event_type="X-Gitea-Event",
    delivery_id="X-Gitea-Delivery",
    event_types=(Header("X-Forgejo-Event"),),
    delivery_ids=(Header("X-Forgejo-Delivery"),),
    scheme=FirstOf((Hmac("X-Gitea-Signature"), Hmac("X-Forgejo-Signature"))),
    patience_seconds=5,
    setup="Settings → Webhooks → Add webhook → Gitea: the URL, POST, application/json, the secret.",
    credential="the webhook's secret",
    duplicates="a redelivery by hand bears the X-Gitea-Delivery of the first",
    facts=(
        *told("https://docs.gitea.com/usage/webhooks", READ, names="X-Gitea-Event, X-Gitea-Delivery"),
        *told(
            "https://docs.gitea.com/usage/webhooks",
            QUOTED,
            signature="HMAC-SHA256 of the body, hex, without a prefix; Forgejo sends it under both names",
        ),
        *told(
            "https://docs.gitea.com/administration/config-cheat-sheet",
            MEMORY,
            success="2xx",
            patience="5 s (DELIVER_TIMEOUT)",
            retries="none; redelivery by hand",
        ),
    ),
    sample=Sample(
        {"ref": "refs/heads/main", "repository": {"full_name": "example/lighthouse"}, "pusher": {"login": "keeper"}},
        {"X-Gitea-Event": "push", "X-Gitea-Delivery": "{delivery}"},
    ),
)
