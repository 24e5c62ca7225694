"""Discord: webhook events and interactions."""

from protocol import challenge
from protocol.naming import Json, same_body
from protocol.providers.provider import READ, Provider, Sample, Success, told
from protocol.schemes.asymmetric import Signed

PROVIDER = Provider(
    title="Discord",
    event_type=None,
    delivery_id=None,
    event_types=(Json("event.type"), Json("type")),
    delivery_ids=(Json("id"), same_body),
    scheme=Signed("ed25519", "X-Signature-Ed25519", "X-Signature-Timestamp"),
    handshake=challenge.discord,
    success=Success(204, (), b""),
    patience_seconds=3,
    setup="Developer portal → your app → Webhooks (or Interactions Endpoint URL): the URL, after the key is here.",
    credential="the application's public key, hex",
    duplicates="an interaction has an id; of an event, the same body is the same delivery",
    facts=(
        *told(
            "https://github.com/discord/discord-api-docs (c98d64b), events/webhook-events",
            READ,
            signature="Ed25519 over the time and the body, hex; a bad one must be answered with 401, and "
            "Discord tries: "
            "whatever is not verified is answered so at once",
            handshake="of webhook events type 0: 204; of interactions type 1: 200 and the same type",
            names="event.type in the body; an event's body has its timestamp and no id",
            success="204",
            patience="3 s",
            retries="ever more slowly for 10 min; too many failures switch it off",
        ),
    ),
    sample=Sample(
        {
            "version": 1,
            "application_id": "1234560123453231555",
            "type": 1,
            "event": {
                "type": "APPLICATION_AUTHORIZED",
                "timestamp": "{iso}",
                "data": {"scopes": ["applications.commands"], "user": {"id": "{delivery}", "username": "keeper"}},
            },
        },
        key="ed25519",
    ),
)
