"""What a scheme takes for a signature, a token, a key and a time, whoever the provider is."""

import base64
import hmac
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol import keys
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.samples import sample_delivery
from protocol.schemes.keyed import hmac_by
from protocol.schemes.standard import StandardWebhooks
from protocol.signature import judge, with_headers
from protocol.verdict import Refused, Verified
from tests.judged import AT, Tried


def test_of_several_signatures_in_one_header_one_must_fit() -> None:
    """Stripe's while a secret is rolled, PagerDuty's and Standard Webhooks' alike; sixteen are looked at."""
    tried = Tried("pagerduty")
    good = tried.request.header("X-PagerDuty-Signature")
    wrong = "v1=" + "0" * 64
    for value, fits in (
        (f"{wrong},{good}", True),
        (f"{good}, {wrong}", True),
        (f"{wrong},{wrong}", False),
        (",".join([wrong] * 16 + [str(good)]), False),
    ):
        verdict = tried.judge(with_headers(tried.request, [("X-PagerDuty-Signature", value)]))
        assert isinstance(verdict, Verified) == fits, value


def test_only_the_version_that_is_named_counts() -> None:
    """A good signature under another mark is none: v0 of Stripe's."""
    tried = Tried("stripe")
    value = str(tried.request.header("Stripe-Signature")).replace("v1=", "v0=")
    verdict = tried.judge(with_headers(tried.request, [("Stripe-Signature", value)]))
    assert verdict == Refused("format", "Stripe-Signature has no signature that begins with 'v1='")


@pytest.mark.parametrize("change", [str.upper, lambda value: value + "0", lambda value: value[:-1], lambda _: "z" * 64])
def test_a_signature_is_exactly_its_characters(change: Any) -> None:
    """Upper-case hex, one more or one less: its form is wrong, and the reason says which form is right."""
    tried = Tried("watson-work")
    value = change(tried.request.header("X-OUTBOUND-TOKEN"))
    verdict = tried.judge(with_headers(tried.request, [("X-OUTBOUND-TOKEN", value)]))
    assert verdict == Refused("format", "X-OUTBOUND-TOKEN is not 64 characters of hex")


def test_secrets_and_tokens_may_be_of_any_characters() -> None:
    """UTF-8, as they are typed, are compared byte by byte."""
    for secret in ("pässwörd:ü", "\U0001f600", "\ud800", "with space \n"):
        for name in ("token", "basic", "gitea"):
            provider = PROVIDERS[name]
            if "\ud800" in secret:
                assert isinstance(judge(provider, Tried(name).request, [secret], AT), Refused)
                continue
            request = sample_delivery(provider, secret, AT)
            assert judge(provider, request, [secret], AT) == Verified(0)
            assert isinstance(judge(provider, request, [secret + "x"], AT), Refused)


def test_a_token_may_stand_in_the_query() -> None:
    """Escaped there; and a source's options say where."""
    provider, options = PROVIDERS["token"], {"query": "key"}
    request = sample_delivery(provider, "a b&c=ü", AT, options=options, target="/source?x=1")
    assert request.target == "/source?x=1&key=a%20b%26c%3D%C3%BC"
    assert judge(provider, request, ["a b&c=ü"], AT, options=options) == Verified(0)
    assert judge(provider, replace(request, target="/source"), ["a"], AT, options=options) == Refused(
        "header", "no key in the query"
    )


def test_a_token_has_the_prefix_that_its_source_says() -> None:
    """`Bearer`, for instance."""
    options = {"prefix": "Bearer "}
    provider = PROVIDERS["token"]
    for value, fits in (("Bearer s", True), ("bearer s", False), ("s", False), ("Bearer  s", False)):
        verdict = judge(provider, Request("POST", "/", [("Authorization", value)], b""), ["s"], AT, options=options)
        assert isinstance(verdict, Verified) == fits, value


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "md5"},
        {"encoding": "base32"},
        {"signed": "{timestamp}"},
        {"signed": "{timestamp}.{body}"},
        {"signed": "{id}.{body}"},
        {"timestamp_mark": "t="},
        {"milliseconds": "yes"},
        {"tolerance_seconds": "soon"},
    ],
)
def test_a_wrong_description_of_a_scheme_is_refused(options: dict[str, str]) -> None:
    """Nothing is verified by it, and whoever wrote it is told."""
    with pytest.raises(ValueError, match=r"."):
        hmac_by(options)
    assert PROVIDERS["hmac"].faults_of(options)
    assert isinstance(judge(PROVIDERS["hmac"], Tried("hmac").request, ["s"], AT, options=options), Refused)


def test_any_hmac_can_be_described() -> None:
    """Here as Stripe signs: verified by description, what was verified by name."""
    tried = Tried("stripe")
    options = {
        "header": "Stripe-Signature",
        "prefix": "v1=",
        "separator": ",",
        "timestamp_mark": "t=",
        "signed": "{timestamp}.{body}",
    }
    verdict = judge(PROVIDERS["hmac"], tried.request, [tried.credentials.secret], AT, options=options)
    assert verdict == Verified(0)
    assert isinstance(
        judge(PROVIDERS["hmac"], tried.request, [tried.credentials.secret], AT + 301, options=options), Refused
    )


@pytest.mark.parametrize("name", ["webhook", "svix"])
@pytest.mark.parametrize("padding", [True, False])
def test_standard_webhooks_come_under_two_names(name: str, padding: bool) -> None:
    """`webhook-*` and `svix-*`, with a secret that ends in padding or does not."""
    secret = "whsec_" + base64.b64encode(b"sixteen bytes ok").decode()
    scheme = StandardWebhooks((name,))
    request = scheme.sign(Request("POST", "/", [], b"{}"), secret, AT, {})
    given = secret if padding else secret.rstrip("=")
    assert judge(PROVIDERS["standard-webhooks"], request, [given], AT) == Verified(0)


def test_the_id_that_names_a_standard_webhook_is_the_one_that_is_signed() -> None:
    """What was signed under Svix's names is refused under an id of the other name, which nobody signed."""
    provider = PROVIDERS["standard-webhooks"]
    secret = "whsec_" + base64.b64encode(b"sixteen bytes ok").decode()
    request = StandardWebhooks(("svix",)).sign(Request("POST", "/", [("svix-id", "msg_1")], b"{}"), secret, AT, {})
    assert judge(provider, request, [secret], AT) == Verified(0)
    assert provider.delivery_id_of(request) == "msg_1"
    renamed = with_headers(request, [("webhook-id", "msg_2")])
    assert judge(provider, renamed, [secret], AT) == Refused("header", "no webhook-signature header")


def test_a_public_key_does_not_serve_as_a_shared_one() -> None:
    """Who knows only what everybody may know signs nothing."""
    public = "whpk_" + base64.b64encode(bytes.fromhex(keys.public_text("68" * 32))).decode()
    message = f"id.{int(AT)}.".encode() + b"{}"
    for key in (public.encode(), base64.b64decode(public[5:])):
        forged = base64.b64encode(hmac.digest(key, message, "sha256")).decode()
        headers = [("webhook-id", "id"), ("webhook-timestamp", str(int(AT))), ("webhook-signature", f"v1,{forged}")]
        verdict = judge(PROVIDERS["standard-webhooks"], Request("POST", "/", headers, b"{}"), [public], AT)
        assert isinstance(verdict, Refused)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512"])
def test_a_websub_hub_chooses_its_algorithm(algorithm: str) -> None:
    """Of those that the standard names."""
    value = f"{algorithm}=" + hmac.new(b"s", b"body", algorithm).hexdigest()
    request = Request("POST", "/", [("X-Hub-Signature", value)], b"body")
    assert judge(PROVIDERS["websub"], request, ["s"], AT) == Verified(0)
    assert isinstance(judge(PROVIDERS["websub"], replace(request, body=b"bodY"), ["s"], AT), Refused)


# Keys, names and times
def test_a_key_that_is_not_supported_verifies_nothing() -> None:
    """And the source's owner is told."""
    pem = private_key_of_another_kind()
    verdict = judge(PROVIDERS["rfc9421"], Tried("rfc9421").request, [pem], AT)
    assert verdict == Refused("secret", "a secret of the source is no key that is supported")
    broken = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    assert isinstance(judge(PROVIDERS["rfc9421"], Tried("rfc9421").request, [broken], AT), Refused)
    for name, secret in (
        ("discord", "no key"),
        ("discord", keys.public_text(keys.sample_p256())),
        ("sendgrid", "00" * 32),
    ):
        assert isinstance(judge(PROVIDERS[name], Tried(name).request, [secret], AT), Refused)


def private_key_of_another_kind() -> bytes:
    key = ec.generate_private_key(ec.SECP256K1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_standard_webhooks_private_keys_sign_samples() -> None:
    """v1a, verified with the public half."""
    provider = PROVIDERS["standard-webhooks"]
    seed = base64.b64encode(bytes(32)).decode()
    public = "whpk_" + base64.b64encode(bytes.fromhex(keys.public_text("00" * 32))).decode()
    request = sample_delivery(provider, f"whsk_{seed}", AT)
    assert str(request.header("webhook-signature")).startswith("v1a,")
    assert judge(provider, request, ["whsec_b3RoZXI=", public], AT) == Verified(1)
    for value in ("v1a,AAAA", "v1a,!", "v1a,"):
        assert isinstance(judge(provider, with_headers(request, [("webhook-signature", value)]), [public], AT), Refused)


@pytest.mark.parametrize("stamp", ["", " ", "-1", "1e9", "1_750_000_000", "١٧٥٠٠٠٠٠٠٠", "9" * 17])
def test_a_time_is_digits(stamp: str) -> None:
    """An empty one is none, even where it is rightly signed; and Python's other ways to write a number are not ours."""
    options = {"signed": "{timestamp}.{body}", "timestamp_header": "X-Time"}
    value = hmac.new(b"s", stamp.encode("latin-1", "replace") + b".{}", "sha256").hexdigest()
    request = Request("POST", "/", [("X-Time", stamp), ("X-Signature", value)], b"{}")
    assert judge(PROVIDERS["hmac"], request, ["s"], AT, options=options) == Refused(
        "format", "the timestamp is not a number"
    )
