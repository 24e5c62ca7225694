"""HubSpot."""

from protocol.naming import Each, Json
from protocol.providers.provider import MEMORY, READ, URL, Provider, Sample, told
from protocol.schemes.hubspot import HubSpot

PROVIDER = Provider(
    title="HubSpot",
    event_type=None,
    delivery_id=None,
    event_types=(Json("0.subscriptionType"),),
    # eventId is not unique alone, and attemptNumber differs in each retry.
    delivery_ids=(Each("", ("subscriptionId", "eventId", "objectId", "occurredAt")),),
    scheme=HubSpot(),
    options=(URL,),
    patience_seconds=5,
    setup="Your app → Webhooks: the target URL.",
    credential="the app's client secret",
    duplicates="the key is derived from subscription, event, object and time of every event in the body",
    facts=(
        *told(
            "https://github.com/HubSpot/hubspot-api-python/blob/master/tests/spec/utils/test_signature.py",
            READ,
            signature="v3: HMAC-SHA256 of method, URL, body and time, base64, 300 s; before it v1 and v2: SHA-256 that "
            "begins with the secret, hex, without a time; published vectors. Where v3 is there, it alone decides",
        ),
        *told(
            "https://developers.hubspot.com/docs/api/webhooks",
            MEMORY,
            names="an array; subscriptionType of the first is the event type here; eventId, attemptNumber",
            success="2xx",
            patience="5 s",
            retries="10 in 24 h",
        ),
    ),
    sample=Sample(
        [
            {
                "eventId": 100,
                "subscriptionId": 138,
                "objectId": "{delivery}",
                "occurredAt": 1700000000000,
                "subscriptionType": "contact.creation",
                "attemptNumber": 0,
            }
        ],
    ),
)
