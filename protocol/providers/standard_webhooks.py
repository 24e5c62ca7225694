"""Standard Webhooks: Svix, OpenAI, Clerk, Resend and many others."""

from protocol.naming import Header, Json
from protocol.providers.provider import QUOTED, READ, Provider, Sample, told
from protocol.schemes.standard import StandardWebhooks

PROVIDER = Provider(
    title="Standard Webhooks",
    event_type=None,
    delivery_id="webhook-id",
    event_types=(Json("type"),),
    delivery_ids=(Header("svix-id"),),
    scheme=StandardWebhooks(),
    patience_seconds=15,
    setup="Wherever the sender takes the URL; then copy the endpoint's secret.",
    credential="whsec_ and base64 (v1), or a public key, whpk_ and base64 (v1a)",
    duplicates="a retry bears the same webhook-id (or svix-id), and a new timestamp and signature",
    facts=(
        *told(
            "https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md",
            READ,
            signature="over id, time and body, dots between, base64; v1: HMAC-SHA256, v1a: Ed25519; several; 300 s; "
            "published vectors. Svix's own names, svix-*, as well",
            names="webhook-id; type in the body",
            success="2xx; 410 switches the endpoint off; 429, 502 and 504 slow the sender",
            patience="15 to 30 s is advised",
            retries="at once, then after 5 s, 5 and 30 min, 2, 5, 10, 14, 20 and 24 h is advised",
        ),
        *told("https://docs.svix.com/retries", QUOTED, patience="Svix: 15 s"),
    ),
    sample=Sample(
        {"type": "lamp.lit", "timestamp": "{iso}", "data": {"lighthouse": "sample"}},
        {"webhook-id": "msg_{delivery}"},
        credential="whsec_c2FtcGxlLXNpZ25pbmctc2VjcmV0LW9mLTMyLWJ5dGVz",
    ),
)
