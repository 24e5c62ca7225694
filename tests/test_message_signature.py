"""Message signatures as RFC 9421 has them: the components that a sender chose, and the digest of the body."""

import base64
import hashlib
import hmac
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import keys
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.schemes.messages import MessageSignature
from protocol.signature import judge, with_headers
from protocol.verdict import Refused, Verified

AT = 1_750_000_000.0
HEADER_TEXT = st.text(st.characters(max_codepoint=255))


def signed_message(components: str, parameters: str, request: Request) -> Request:
    """The request signed with `s` over these components."""
    raw = f"({components}){parameters}"
    lines = []
    for name in components.split(" "):
        value = {'"@method"': request.method, '"@path"': request.target.partition("?")[0]}.get(
            name, request.header(name.strip('"')) or ""
        )
        lines.append(f"{name}: {value}")
    text = "\n".join([*lines, f'"@signature-params": {raw}'])
    value = base64.b64encode(hmac.digest(b"s", text.encode(), "sha256")).decode()
    return with_headers(request, [("Signature-Input", f"a={raw}"), ("Signature", f"a=:{value}:")])


def digested(body: bytes) -> Request:
    digest = base64.b64encode(hashlib.sha512(body).digest()).decode()
    return Request("POST", "/in?x=1", [("Host", "h.example"), ("Content-Digest", f"sha-512=:{digest}:")], body)


@pytest.mark.parametrize(
    ("components", "parameters", "check"),
    [
        ('"content-digest"', f";created={int(AT)}", None),
        ('"@method" "@path" "content-digest"', f';created={int(AT)};keyid="k";nonce="n"', None),
        ('"content-digest"', f';created={int(AT)};alg="hmac-sha256"', None),
        ('"content-digest"', f";created={int(AT)};expires={int(AT) + 1}", None),
        ('"content-digest"', f';created={int(AT)};alg="ed25519"', "signature"),
        ('"content-digest"', f";created={int(AT)};expires={int(AT) - 1}", "timestamp"),
        ('"content-digest"', f";created={int(AT) - 301}", "timestamp"),
        ('"content-digest"', "", "timestamp"),
        ('"@method"', f";created={int(AT)}", "header"),
        ('"content-digest" "content-digest"', f";created={int(AT)}", "format"),
        ('"content-digest" "@nonsense"', f";created={int(AT)}", "format"),
        ('"content-digest" "x-missing"', f";created={int(AT)}", "header"),
        ('"content-digest";bs', f";created={int(AT)}", "header"),
        ('"content-digest', f";created={int(AT)}", "format"),
    ],
)
def test_a_message_signature_covers_the_body_and_its_time(components: str, parameters: str, check: str | None) -> None:
    """What it must cover, when it was made and until when it is good: all of it is judged."""
    request = signed_message(components, parameters, digested(b"{}"))
    verdict = judge(PROVIDERS["rfc9421"], request, ["s"], AT)
    assert (verdict.check if isinstance(verdict, Refused) else None) == check, verdict


def test_a_signed_digest_must_fit_the_body() -> None:
    """The signature covers the digest, and the digest the body."""
    request = signed_message('"content-digest"', f";created={int(AT)}", digested(b"{}"))
    assert judge(PROVIDERS["rfc9421"], replace(request, body=b"[]"), ["s"], AT) == Refused(
        "digest", "the body does not fit its Content-Digest"
    )


@pytest.mark.parametrize("key", ["68" * 32, "p256"])
def test_a_message_s_key_decides_the_algorithm(key: str) -> None:
    """A public key never serves as a shared one, whatever the message says."""
    public = keys.public_text(key) if key != "p256" else keys.public_text(keys.sample_p256())
    pem = f"-----BEGIN PUBLIC KEY-----\n{spki(public)}\n-----END PUBLIC KEY-----\n"
    request = digested(b"{}")
    raw = f'("content-digest");created={int(AT)};alg="hmac-sha256"'
    text = f'"content-digest": {request.header("Content-Digest")}\n"@signature-params": {raw}'
    value = base64.b64encode(hmac.digest(pem.encode(), text.encode(), "sha256")).decode()
    forged = with_headers(request, [("Signature-Input", f"a={raw}"), ("Signature", f"a=:{value}:")])
    assert isinstance(judge(PROVIDERS["rfc9421"], forged, [pem], AT), Refused)


def private_key(kind: str) -> Any:
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, 2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1() if kind == "ecdsa-p256-sha256" else ec.SECP384R1())


def signature_by(kind: str, key: Any, message: bytes) -> bytes:
    """As RFC 9421, section 3.3, has it: of ECDSA both numbers side by side, not DER."""
    if kind == "ed25519":
        return bytes(key.sign(message))
    if kind == "rsa-pss-sha512":
        return bytes(key.sign(message, padding.PSS(padding.MGF1(hashes.SHA512()), 64), hashes.SHA512()))
    if kind == "rsa-v1_5-sha256":
        return bytes(key.sign(message, padding.PKCS1v15(), hashes.SHA256()))
    size, digest = (32, hashes.SHA256()) if kind == "ecdsa-p256-sha256" else (48, hashes.SHA384())
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
    return r.to_bytes(size) + s.to_bytes(size)


@pytest.mark.parametrize(
    "kind", ["ed25519", "ecdsa-p256-sha256", "ecdsa-p384-sha384", "rsa-pss-sha512", "rsa-v1_5-sha256"]
)
def test_a_message_may_be_signed_by_a_private_key(kind: str) -> None:
    """Of any kind that the standard names; another key of the kind, a changed byte or a cut one is refused."""
    key, request = private_key(kind), digested(b"{}")
    raw = f'("content-digest");created={int(AT)};alg="{kind}"'
    text = f'"content-digest": {request.header("Content-Digest")}\n"@signature-params": {raw}'.encode()
    signature = signature_by(kind, key, text)

    def pem(private: Any) -> bytes:
        return bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def sent(value: bytes) -> Request:
        encoded = base64.b64encode(value).decode()
        return with_headers(request, [("Signature-Input", f"a={raw}"), ("Signature", f"a=:{encoded}:")])

    assert judge(PROVIDERS["rfc9421"], sent(signature), [pem(private_key(kind)), pem(key)], AT) == Verified(1)
    changed = bytes([signature[0] ^ 1]) + signature[1:]
    for value, secret in ((changed, pem(key)), (signature[:-1], pem(key)), (signature, pem(private_key(kind)))):
        assert isinstance(judge(PROVIDERS["rfc9421"], sent(value), [secret], AT), Refused)


COMPONENTS = (
    ('"@query-param";name="a"', "b%20c"),
    ('"@query"', "?a=b%20c&d=e&d=f"),
    ('"@request-target"', "/in?a=b%20c&d=e&d=f"),
    ('"@target-uri"', "https://H.example:443/in?a=b%20c&d=e&d=f"),
    ('"@authority"', "h.example"),
    ('"@scheme"', "https"),
    ('"x-two"', "1, 2"),
)


def test_a_message_s_components_are_the_request_s() -> None:
    """Its URL and its headers, repeated ones joined, in the form that the standard gives them."""
    draft = digested(b"{}")
    headers = [("Host", "H.example:443"), *draft.headers[1:], ("X-Two", " 1 "), ("x-two", "2")]
    request = replace(draft, target="/in?a=b%20c&d=e&d=f", headers=headers)
    names = " ".join(name for name, _ in COMPONENTS)
    raw = f'({names} "content-digest");created={int(AT)}'
    lines = [f"{name}: {value}" for name, value in COMPONENTS]
    text = "\n".join([*lines, f'"content-digest": {draft.header("Content-Digest")}', f'"@signature-params": {raw}'])
    value = base64.b64encode(hmac.digest(b"s", text.encode(), "sha256")).decode()
    signed = with_headers(request, [("Signature-Input", f"other=();created=1, a={raw}"), ("Signature", f"a=:{value}:")])
    assert judge(PROVIDERS["rfc9421"], signed, ["s"], AT) == Verified(0)


@pytest.mark.parametrize(
    "component", ['"@query-param";name="d"', '"@query-param"', '"@query-param";name="z"', '"host";sf']
)
def test_a_component_that_is_not_exactly_one_is_refused(component: str) -> None:
    """A field of the query that stands there twice or never, a form of a header that is not known."""
    request = replace(digested(b"{}"), target="/in?a=b&d=e&d=f")
    signed = signed_message(f'{component} "content-digest"', f";created={int(AT)}", request)
    verdict = judge(PROVIDERS["rfc9421"], signed, ["s"], AT)
    assert isinstance(verdict, Refused)
    assert verdict.check == "format"


def test_one_of_several_message_signatures_will_do() -> None:
    """A proxy may sign too."""
    request = signed_message('"content-digest"', f";created={int(AT)}", digested(b"{}"))
    given, value = request.header("Signature-Input"), request.header("Signature")
    both = with_headers(
        request,
        [("Signature-Input", f'p=("@method");created=1, {given}'), ("Signature", f"p=:AAAA:, {value}")],
    )
    assert judge(PROVIDERS["rfc9421"], both, ["s"], AT) == Verified(0)


def test_only_known_digests_count() -> None:
    """A digest of another kind says nothing of the body."""
    draft = with_headers(digested(b"{}"), [("Content-Digest", "md5=:AAAA:")])
    request = signed_message('"content-digest"', f";created={int(AT)}", draft)
    assert judge(PROVIDERS["rfc9421"], request, ["s"], AT) == Refused(
        "format", "Content-Digest has neither sha-256 nor sha-512"
    )


def spki(public: str) -> str:
    """The key in the form that PEM wants: an Ed25519 key is 32 bytes behind a constant."""
    if len(public) != 64:
        return public
    return base64.b64encode(bytes.fromhex("302a300506032b6570032100" + public)).decode()


@settings(max_examples=60, deadline=None)
@given(given=HEADER_TEXT, signature=HEADER_TEXT, digest=HEADER_TEXT)
def test_any_message_signature_gets_a_verdict(given: str, signature: str, digest: str) -> None:
    """Structured fields are read strictly: what is not one is refused."""
    for value in (given, f'a=("x";{given});created={given}', f'a=("@query-param";name="{given}")'):
        headers = [("Signature-Input", value), ("Signature", f"a=:{signature}:"), ("Content-Digest", digest)]
        verdict = judge(PROVIDERS["rfc9421"], Request("POST", f"/?{given}", headers, b"x"), ["s"], AT)
        assert isinstance(verdict, Refused)
    assert MessageSignature().headers() == ("Signature", "Signature-Input")


def test_no_signature_input_takes_long_to_read() -> None:
    """Each of its characters is looked at a few times at most, however it is made."""
    made = [  # each of another shape
        "(" + '"x";a=b"y"' * 3000,
        "(" + '"x";a' * 3000,
        "(" + " " * 60_000,
        '("' + "\\\\" * 20_000,
        "(" + '"a" ' * 9000,
    ]
    for value in made:
        headers = [("Signature-Input", f"a={value}"), ("Signature", "a=:AAAA:")]
        assert judge(PROVIDERS["rfc9421"], Request("POST", "/", headers, b"x"), ["s"], AT) == Refused(
            "format", "Signature-Input cannot be read"
        )


def test_a_missing_component_is_not_quoted() -> None:
    """Its name is the sender's."""
    request = signed_message('"x-quoted-by-nobody" "content-digest"', f";created={int(AT)}", digested(b"{}"))
    assert judge(PROVIDERS["rfc9421"], request, ["s"], AT) == Refused(
        "header", "a header that Signature-Input names is not there"
    )
