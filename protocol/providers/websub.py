"""WebSub: a hub that sends what changed."""

from protocol import challenge
from protocol.providers.provider import READ, Option, Provider, Sample, told
from protocol.schemes.websub import WebSub

PROVIDER = Provider(
    title="WebSub",
    event_type=None,
    delivery_id=None,
    scheme=WebSub(),
    handshake=challenge.websub,
    options=(Option("topic", "the topics subscribed to, as URLs with spaces between", needed=True),),
    setup="Ask the hub for a subscription: hub.callback is the URL, hub.secret the secret.",
    credential="hub.secret",
    duplicates="no delivery id, and none can be derived: a topic may come back to what it was before",
    facts=(
        *told(
            "https://www.w3.org/TR/websub/",
            READ,
            signature="X-Hub-Signature: the hub names SHA-1, -256, -384 or -512; HMAC of the body, hex",
            handshake="GET with hub.topic and hub.challenge: the challenge for a topic of the source's, 404 for "
            "any other",
            names="none; the body is the topic's content",
            success="2xx, also where a signature is ignored",
            patience="not stated",
            retries="the hub's choice",
        ),
    ),
    sample=Sample(
        b'<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><title>Lamp {delivery}</title></feed>',
        {"Link": '<https://hub.example.com/>; rel="hub", <https://example.com/feed>; rel="self"'},
        options={"topic": "https://example.com/feed"},
        content_type="application/atom+xml",
    ),
)
