"""Dropbox."""

from protocol import challenge
from protocol.providers.provider import MEMORY, READ, Provider, Sample, told
from protocol.schemes.keyed import Hmac

PROVIDER = Provider(
    title="Dropbox",
    event_type=None,
    delivery_id=None,
    scheme=Hmac("X-Dropbox-Signature"),
    handshake=challenge.dropbox,
    patience_seconds=10,
    setup="App console → your app → Webhooks: the URL.",
    credential="the app secret",
    duplicates="no delivery id, and none can be derived: two changes of one account send the same body",
    facts=(
        *told(
            "https://www.dropbox.com/developers/reference/webhooks",
            READ,
            signature="HMAC-SHA256 of the body, hex",
            handshake="GET with a challenge, once, within 10 s; it comes back as text/plain with nosniff",
            names="none: a notification lists the accounts that changed",
            success="200",
            retries="ever more slowly for about 10 min",
        ),
        *told("https://www.dropbox.com/developers/reference/webhooks", MEMORY, patience="10 s"),
    ),
    sample=Sample({"list_folder": {"accounts": ["dbid:sample-{delivery}"]}, "delta": {"users": [12345678]}}),
)
