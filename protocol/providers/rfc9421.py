"""HTTP message signatures (RFC 9421), whoever sends them."""

from collections.abc import Mapping

from protocol.providers.provider import READ, URL, Option, Provider, Sample, told
from protocol.schemes.messages import MessageSignature


def check_options(options: Mapping[str, str]) -> None:
    """Raises ValueError."""
    if options.get("secret_encoding", "base64") != "base64":
        raise ValueError("secret_encoding is base64, or not said at all")


PROVIDER = Provider(
    title="RFC 9421",
    event_type=None,
    delivery_id=None,
    scheme=MessageSignature(),
    check_options=check_options,
    options=(
        URL,
        Option("covered", "components that must be signed, spaces between; content-digest by default"),
        Option("secret_encoding", "base64, where the secret is the base64 of a shared key"),
    ),
    setup="As the sender has it: give it the key, or take its public key.",
    credential="a shared key (HMAC-SHA256), or a public key as PEM: Ed25519, ECDSA P-256 or P-384, RSA",
    duplicates="no delivery id",
    facts=(
        *told(
            "https://www.rfc-editor.org/rfc/rfc9421",
            READ,
            signature="Signature-Input and Signature; the key decides the algorithm; created within 300 s, expires; "
            "Content-Digest (RFC 9530) must be signed and fit; vectors B.2.5 and B.2.6",
        ),
    ),
    sample=Sample({"type": "lamp.lit", "id": "{delivery}"}),
)
