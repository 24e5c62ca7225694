"""Shopify."""

from protocol.providers.provider import READ, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Shopify",
    event_type="X-Shopify-Topic",
    delivery_id="X-Shopify-Webhook-Id",
    scheme=Hmac("X-Shopify-Hmac-Sha256", encoding="base64"),
    patience_seconds=5,
    setup="shopify.app.toml or the Admin API: a subscription with the URL; the secret is the app's client secret.",
    credential="the app's client secret; of webhooks made in the admin, the key shown there",
    duplicates="a retry bears the same X-Shopify-Webhook-Id; X-Shopify-Event-Id is the same for all hooks of one event",
    facts=(
        *told(
            "https://github.com/Shopify/shopify-api-js/blob/main/packages/shopify-api/lib/webhooks/",
            READ,
            signature="HMAC-SHA256 of the body, base64; published vector",
            names="X-Shopify-Topic, X-Shopify-Webhook-Id",
        ),
        *told(
            "https://shopify.dev/changelog (10 September 2024)",
            READ,
            success="2xx",
            patience="5 s in all, 1 s to connect",
            retries="8 in 4 h, with the first payload; 8 failures in a row delete a subscription made by API",
        ),
    ),
    sample=Sample(
        {"id": 820982911, "name": "#1001", "total_price": "42.00", "currency": "EUR", "line_items": []},
        {
            "X-Shopify-Topic": "orders/create",
            "X-Shopify-Webhook-Id": "{delivery}",
            "X-Shopify-Shop-Domain": "lighthouse.myshopify.com",
        },
    ),
)
