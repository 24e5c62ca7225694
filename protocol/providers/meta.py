"""Meta: WhatsApp, Messenger, Instagram, Facebook."""

from protocol import challenge
from protocol.naming import Json, Words, same_body
from protocol.providers.provider import MEMORY, OURS, READ, Option, Provider, Sample, Success, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Meta, WhatsApp",
    event_type=None,
    delivery_id=None,
    event_types=(Words((Json("object"), Json("entry.0.changes.0.field"))), Json("object")),
    delivery_ids=(same_body,),
    scheme=Hmac("X-Hub-Signature-256", prefix="sha256="),
    handshake=challenge.meta,
    options=(Option("verify_token", "the verify token entered at Meta", needed=True, is_secret=True),),
    success=Success(200),
    patience_seconds=5,
    setup="The app's dashboard → Webhooks: the callback URL and the verify token.",
    credential="the app secret",
    duplicates="no delivery id: the same body is the same delivery",
    facts=(
        *told(
            "https://developers.facebook.com/docs/graph-api/webhooks/getting-started",
            READ,
            signature="HMAC-SHA256 of the body as sent, with its \\uXXXX escapes, hex, behind sha256=",
            handshake="GET with hub.mode, hub.verify_token and hub.challenge; the challenge comes back, else 403",
        ),
        *told("hookd itself", OURS, names="object and the first change's field; the key is the body's hash"),
        *told(
            "https://developers.facebook.com/docs/graph-api/webhooks/getting-started",
            MEMORY,
            success="200",
            patience="5 to 20 s, by product",
            retries="ever more seldom for 36 h; WhatsApp 7 days",
        ),
    ),
    sample=Sample(
        {
            "object": "whatsapp_business_account",
            "entry": [
                {
                    "id": "102290129340398",
                    "changes": [
                        {
                            "field": "messages",
                            "value": {
                                "messaging_product": "whatsapp",
                                "messages": [
                                    {"id": "wamid.{delivery}", "type": "text", "text": {"body": "Is the lamp lit?"}}
                                ],
                            },
                        }
                    ],
                }
            ],
        },
        options={"verify_token": "a-verify-token-of-the-sample"},
    ),
)
