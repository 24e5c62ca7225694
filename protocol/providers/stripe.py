"""Stripe."""

from protocol.naming import Json
from protocol.providers.provider import QUOTED, READ, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Stripe",
    event_type=None,
    delivery_id=None,
    event_types=(Json("type"),),
    delivery_ids=(Json("id"),),
    scheme=Hmac(
        "Stripe-Signature",
        prefix="v1=",
        separator=",",
        timestamp_mark="t=",
        signed="{timestamp}.{body}",
        tolerance_seconds=300,
    ),
    setup="Developers → Webhooks → Add destination: the URL and the events; then copy its signing secret.",
    credential="the endpoint's signing secret, whsec_ included",
    duplicates="a retry bears the same event id in its body, and a new timestamp and signature",
    facts=(
        *told(
            "https://github.com/stripe/stripe-dotnet/blob/master/src/StripeTests/Services/Events/EventUtilityTest.cs",
            READ,
            signature="HMAC-SHA256 of t, a dot and the body, hex, as v1; several v1 while a secret is rolled; "
            "v0 is not "
            "looked at; published vectors. Stripe's libraries refuse what is older than 300 s; here also what is newer",
            names="type and id in the body",
        ),
        *told(
            "https://docs.stripe.com/webhooks",
            QUOTED,
            success="2xx",
            patience="not stated: quickly, before any complex logic",
            retries="live: for 3 days, ever more slowly; sandbox: 3 in a few hours; in no order",
        ),
    ),
    sample=Sample(
        {
            "id": "evt_{delivery}",
            "object": "event",
            "type": "invoice.paid",
            "livemode": False,
            "data": {"object": {"id": "in_sample", "object": "invoice", "amount_paid": 4200, "currency": "eur"}},
        },
        credential="whsec_sample_of_a_signing_secret",
    ),
)
