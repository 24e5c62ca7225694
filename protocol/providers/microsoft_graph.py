"""Microsoft Graph: change notifications."""

from protocol import challenge
from protocol.naming import Each, Json
from protocol.providers.provider import MEMORY, READ, Provider, Sample, Success, told
from protocol.schemes.in_body import ClientState

PROVIDER = Provider(
    title="Microsoft Graph",
    event_type=None,
    delivery_id=None,
    event_types=(Json("value.0.lifecycleEvent"), Json("value.0.changeType")),
    delivery_ids=(Each("value", ("id",)),),
    scheme=ClientState(),
    handshake=challenge.microsoft_graph,
    success=Success(202, (), b""),
    patience_seconds=3,
    setup="POST /subscriptions: notificationUrl, and the secret as clientState.",
    credential="the subscription's clientState, of 128 characters at most",
    duplicates="the key is derived from the id of every notification in the body; without ids there is none",
    facts=(
        *told(
            "https://learn.microsoft.com/graph/change-notifications-delivery-webhooks",
            READ,
            signature="none: every notification must bear the clientState, which travels in clear",
            handshake="a POST with validationToken in the query; it comes back decoded, as text/plain",
            success="202 where it is stored, 5xx where it is not",
            patience="3 s (slower than 2.9 s counts as slow; 10 % slow ones of 100 are throttled)",
            retries="for 4 h",
        ),
        *told("https://learn.microsoft.com/graph/change-notifications-delivery-webhooks", MEMORY, handshake="10 s"),
        *told(
            "https://learn.microsoft.com/graph/api/resources/changenotification",
            READ,
            names="value[].changeType, value[].id",
        ),
    ),
    sample=Sample(
        {
            "value": [
                {
                    "id": "{delivery}",
                    "subscriptionId": "76222963-cc7b-42d2-882d-8aaa69cb2ba3",
                    "changeType": "created",
                    "resource": "users/sample/messages/1",
                    "tenantId": "84bd8158-6d4d-4958-8b9f-9d6445542f95",
                }
            ]
        },
    ),
)
