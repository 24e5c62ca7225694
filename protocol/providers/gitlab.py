"""GitLab: a token in clear, or the newer signing token."""

from protocol.naming import Header
from protocol.providers.provider import MEMORY, QUOTED, READ, Provider, Sample, told
from protocol.schemes.choice import FirstOf
from protocol.schemes.shown import Token
from protocol.schemes.standard import StandardWebhooks

PROVIDER = Provider(
    title="GitLab",
    event_type="X-Gitlab-Event",
    # The same, but this one is signed, where anything is.
    delivery_id="webhook-id",
    delivery_ids=(Header("Idempotency-Key"),),
    scheme=FirstOf((StandardWebhooks(("webhook",)), Token(header="X-Gitlab-Token"))),
    patience_seconds=10,
    setup="Settings → Webhooks: the URL, and a signing token (else a secret token).",
    credential="the signing token (whsec_…), which signs each delivery; or the secret token, which travels in clear",
    duplicates="a retry bears the same webhook-id, or Idempotency-Key; hooks of one event share X-Gitlab-Event-UUID",
    facts=(
        *told(
            "https://gitlab.com/gitlab-org/gitlab/-/merge_requests/230944",
            READ,
            signature="X-Gitlab-Token is the secret token itself; a signing token signs as Standard Webhooks do, "
            "behind the flag webhook_signing_token at first",
        ),
        *told(
            "https://docs.gitlab.com/user/project/integrations/webhooks",
            READ,
            names="X-Gitlab-Event, Idempotency-Key (= webhook-id)",
        ),
        *told(
            "https://docs.gitlab.com/user/project/integrations/webhooks",
            QUOTED,
            success="2xx",
            patience="10 s",
            retries="none for an event; 4 failures in a row switch the webhook off, for 1 min growing to 24 h",
        ),
        *told("https://docs.gitlab.com/user/project/integrations/webhooks", MEMORY, retries="40 failures: for good"),
    ),
    sample=Sample(
        {
            "object_kind": "push",
            "ref": "refs/heads/main",
            "project": {"path_with_namespace": "example/lighthouse"},
            "user_username": "keeper",
        },
        {"X-Gitlab-Event": "Push Hook", "Idempotency-Key": "{delivery}", "webhook-id": "{delivery}"},
        credential="whsec_c2FtcGxlLXNpZ25pbmctdG9rZW4tb2YtMzItYnl0ZXM=",
    ),
)
