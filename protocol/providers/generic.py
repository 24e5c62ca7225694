"""Whoever is not in the list: the schemes themselves, described by the source's options."""

import re

from protocol.providers.provider import OURS, READ, URL, Option, Provider, Sample, Shape, told
from protocol.schemes.asymmetric import ed25519_by
from protocol.schemes.choice import ByOptions
from protocol.schemes.keyed import hmac_by
from protocol.schemes.shown import Basic, token_by

HMAC = Provider(
    title="Any HMAC",
    event_type=None,
    delivery_id=None,
    scheme=ByOptions(hmac_by),
    check_options=hmac_by,
    options=(
        Option("header", "where the signature stands; X-Signature by default"),
        Option("algorithm", "sha1, sha256 (default), sha384 or sha512"),
        Option("encoding", "hex (default), hex-upper, base64 or base64url"),
        Option("prefix", "what stands before the signature, as in sha256="),
        Option("signed", "what is signed: {body} by default; also {timestamp}, {id}, {url}, {method}"),
        Option("separator", "what divides the header, where it has several parts"),
        Option("timestamp_mark", "how the part with the time begins, as in t="),
        Option("timestamp_header", "the header with the time"),
        Option("timestamp_in_body", "the path of the time in a JSON body, as in meta.sent_at"),
        Option("milliseconds", "true, where the time is in milliseconds"),
        Option("id_header", "the header with the id"),
        URL,
    ),
    credential="the shared secret",
    duplicates="no delivery id",
    facts=told("hookd itself", OURS, signature="as the options say; 300 s where a time is signed"),
    sample=Sample({"event": "lamp.lit", "id": "{delivery}"}),
)

ED25519 = Provider(
    title="Any Ed25519",
    event_type=None,
    delivery_id=None,
    scheme=ByOptions(ed25519_by),
    check_options=ed25519_by,
    options=(
        Option("header", "where the signature stands; X-Signature-Ed25519 by default"),
        Option("encoding", "hex (default) or base64"),
        Option("signed", "what is signed: {body}, with {timestamp} before it where a header has one"),
        Option("timestamp_header", "the header with the time"),
    ),
    credential="the public key: hex, base64 or PEM",
    duplicates="no delivery id",
    facts=told("https://www.rfc-editor.org/rfc/rfc8032", READ, signature="as the options say"),
    sample=Sample({"event": "lamp.lit", "id": "{delivery}"}, key="ed25519"),
)

TOKEN = Provider(
    title="A token",
    event_type=None,
    delivery_id=None,
    scheme=ByOptions(token_by),
    check_options=token_by,
    options=(
        Option("header", "where the token stands; Authorization by default"),
        Option("prefix", "what stands before it, as in 'Bearer '"),
        Option("query", "the query's field, where it stands there; it then shows in every log on the way"),
    ),
    credential="the token",
    duplicates="no delivery id",
    facts=told("hookd itself", OURS, signature="the secret itself; nothing protects the body"),
    sample=Sample({"event": "lamp.lit", "id": "{delivery}"}),
)

BASIC = Provider(
    title="HTTP Basic",
    event_type=None,
    delivery_id=None,
    scheme=Basic(),
    credential="user:password",
    shape=Shape(re.compile("[^:]*:.*", re.DOTALL), "user:password"),
    duplicates="no delivery id",
    facts=told(
        "https://www.rfc-editor.org/rfc/rfc7617", READ, signature="the secret itself; nothing protects the body"
    ),
    sample=Sample({"event": "lamp.lit", "id": "{delivery}"}, credential="keeper:a-secret-of-the-sample"),
)

NONE = Provider(
    title="Nothing",
    event_type=None,
    delivery_id=None,
    duplicates="no delivery id",
    facts=told("hookd itself", OURS, signature="none: whoever knows the URL is taken for the sender"),
    sample=Sample({"event": "lamp.lit", "id": "{delivery}"}),
)
