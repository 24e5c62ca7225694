"""Did the sender that a source names send this? Whatever was sent, the answer is a verdict."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import keys
from protocol.providers import PROVIDERS
from protocol.providers.provider import Provider
from protocol.request import Request
from protocol.samples import Credentials, credentials, sample_delivery
from protocol.schemes import sns
from protocol.schemes.keyed import Hmac, hmac_by
from protocol.schemes.standard import StandardWebhooks
from protocol.signature import judge, with_headers
from protocol.verdict import Refused, Verdict, Verified

AT = 1_750_000_000.0
VECTORS = json.loads((Path(__file__).parent / "data/vectors.json").read_text())
PROVING = [name for name in PROVIDERS if name != "none"]
HEADER_TEXT = st.text(st.characters(max_codepoint=255))


def request_of(vector: Mapping[str, Any]) -> Request:
    url = urlsplit(vector["url"] or "https://hooks.example.com/vector")
    target = url.path + (f"?{url.query}" if url.query else "")
    headers = [("Host", url.netloc), *vector["headers"].items()]
    return Request("POST", target, headers, vector["body"].encode())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_published_vectors_are_judged_as_published(vector: Mapping[str, Any]) -> None:
    """What a provider, its library or a standard says of an example is said here too."""
    options = dict(vector.get("options", {})) | ({"url": vector["url"]} if vector["url"] else {})
    verdict = judge(
        PROVIDERS[vector["provider"]], request_of(vector), [vector["secret"]], vector["received_at"], options=options
    )
    assert isinstance(verdict, Verified) == vector["expect"], verdict


@pytest.mark.parametrize("vector", [each for each in VECTORS if each["expect"]], ids=lambda vector: vector["id"])
def test_published_vectors_with_a_changed_byte_are_refused(vector: Mapping[str, Any]) -> None:
    """A body that is not the signed one is refused; Mailgun's, which is not signed, where its token is another."""
    body = vector["body"].replace("5egbgr", "6egbgr") if vector["provider"] == "mailgun" else vector["body"] + " "
    options = dict(vector.get("options", {})) | ({"url": vector["url"]} if vector["url"] else {})
    if vector["provider"] == "rfc9421":
        options["covered"] = "content-digest"  # these two examples leave the body out
    changed = request_of({**vector, "body": body})
    verdict = judge(PROVIDERS[vector["provider"]], changed, [vector["secret"]], vector["received_at"], options=options)
    assert isinstance(verdict, Refused)


class Tried:
    """A provider with its sample, and everything that it takes to judge it."""

    def __init__(self, name: str) -> None:
        self.provider: Provider = PROVIDERS[name]
        assert self.provider.sample is not None
        self.options = self.provider.sample.options
        self.credentials: Credentials = credentials(self.provider, AT)
        self.request = sample_delivery(self.provider, self.credentials.key, AT, options=self.options)

    def judge(self, request: Request | None = None, *secrets: str | bytes, at: float = AT) -> Verdict:
        return judge(
            self.provider,
            self.request if request is None else request,
            secrets or [self.credentials.secret],
            at,
            options=self.options,
            certificate=self.credentials.certificate,
        )

    @property
    def has_time(self) -> bool:
        old = sample_delivery(self.provider, self.credentials.key, AT, fault="old", options=self.options)
        return isinstance(self.judge(old), Refused)


@pytest.fixture(params=PROVIDERS, ids=str)
def any_provider(request: pytest.FixtureRequest) -> Tried:
    return Tried(request.param)


@pytest.fixture(params=PROVING, ids=str)
def tried(request: pytest.FixtureRequest) -> Tried:
    return Tried(request.param)


def test_a_good_delivery_is_verified(any_provider: Tried) -> None:
    """And the verdict says by which secret; by none, where nothing is signed."""
    expected = None if any_provider.provider is PROVIDERS["none"] else 0
    assert any_provider.judge() == Verified(expected)


def test_a_delivery_signed_with_another_secret_is_refused(tried: Tried) -> None:
    """With the reason that it does not fit."""
    forged = sample_delivery(tried.provider, tried.credentials.key, AT, fault="bad-signature", options=tried.options)
    verdict = tried.judge(forged)
    assert isinstance(verdict, Refused)
    assert verdict.check == "signature"
    assert verdict.reason.endswith("does not fit the secret")


def test_any_of_several_secrets_will_do(tried: Tried) -> None:
    """While a secret is rotated, old and new both are good, and the verdict tells which it was."""
    forged = sample_delivery(tried.provider, tried.credentials.key, AT, fault="bad-signature", options=tried.options)
    other = tried.credentials.secret if tried.credentials.certificate else another_secret(tried)
    if tried.credentials.certificate is None:
        assert tried.judge(None, other, tried.credentials.secret) == Verified(1)
        refused = tried.judge(forged, tried.credentials.secret, tried.credentials.secret)
        assert isinstance(refused, Refused)
        assert refused.reason.endswith("does not fit any of 2 secrets")
    else:
        assert tried.judge(None, "arn:aws:sns:eu-central-1:123456789012:other", other) == Verified(1)


def another_secret(tried: Tried) -> str:
    sample = tried.provider.sample
    assert sample is not None
    if sample.key == "p256":
        return keys.public_text(keys.sample_p256(7))
    if sample.key == "ed25519":
        return keys.public_text("07" * 32)
    return "whsec_b3RoZXI=" if sample.credential.startswith("whsec_") else "other:secret"


def test_without_a_secret_nothing_is_verified(tried: Tried) -> None:
    """An empty secret is none: a hash keyed with nothing is no proof."""
    for secrets in ([], [""], [b""], ["", ""]):
        verdict = judge(
            tried.provider, tried.request, secrets, AT, options=tried.options,
            certificate=tried.credentials.certificate,
        )  # fmt: skip
        assert isinstance(verdict, Refused), secrets
        assert verdict.check == "secret"


# What of the body is not signed, and cannot be: the token alone proves the sender.
UNPROTECTED = {"mailgun", "microsoft-graph", "token", "basic"}


@pytest.mark.parametrize("name", [name for name in PROVING if name not in UNPROTECTED])
def test_a_changed_byte_is_refused(name: str) -> None:
    """Any byte of the body, wherever it stands."""
    tried = Tried(name)
    body = tried.request.body
    for place in (0, len(body) // 2, len(body) - 1):
        changed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        verdict = tried.judge(replace(tried.request, body=changed))
        # A body without its braces is refused already for what it is; and the last of SNS's is a brace.
        assert isinstance(verdict, Refused), place


def test_a_missing_header_is_refused(tried: Tried) -> None:
    """With its name."""
    for name in tried.provider.scheme.headers():
        lacking = [(each, value) for each, value in tried.request.headers if each.lower() != name.lower()]
        verdict = tried.judge(replace(tried.request, headers=lacking))
        assert verdict == Refused("header", f"no {name} header") or is_other_scheme(verdict), name


def is_other_scheme(verdict: Verdict) -> bool:
    """Without the header of the first scheme the next one was tried, or the first one's name is told."""
    return isinstance(verdict, Refused) and verdict.check == "header"


MALFORMED = ("", " ", "=", "foo", "v1=", "v1,", "sha256=", "t=,v1=", "t,v1", "\xff\xfe", "Basic !", "a" * 10_000, "\0")


def test_a_malformed_header_is_refused(tried: Tried) -> None:
    """Whatever stands in it."""
    for name in tried.provider.scheme.headers():
        for value in MALFORMED:
            verdict = tried.judge(with_headers(tried.request, [(name, value)]))
            assert isinstance(verdict, Refused), (name, value)


TIMED = {name for name in PROVING if Tried(name).has_time}


@pytest.mark.parametrize("name", sorted(TIMED))
def test_an_old_delivery_is_refused_where_a_time_is_signed(name: str) -> None:
    """By the time it was received, whenever it is judged; and tolerance_seconds of the source rules."""
    tried = Tried(name)
    old = sample_delivery(tried.provider, tried.credentials.key, AT, fault="old", options=tried.options)
    verdict = tried.judge(old)
    assert isinstance(verdict, Refused)
    assert verdict.check == "timestamp"
    assert verdict.reason.startswith("signed 86400 s before it was received")
    assert isinstance(tried.judge(old, at=AT - 86400), Verified)
    assert isinstance(tried.judge(at=AT - 86400), Refused)
    tried.options = {**tried.options, "tolerance_seconds": "0"}
    assert isinstance(tried.judge(old), Verified)


def test_these_providers_sign_a_time_that_is_judged() -> None:
    """As each declares; named here too, so that none of them forgets to."""
    assert {name for name in PROVING if PROVIDERS[name].scheme.tolerance_seconds} == TIMED
    assert {
        "gitlab", "stripe", "slack", "zoom", "paddle", "mailgun", "linear", "hubspot", "calendly", "standard-webhooks",
        "rfc9421",
    } == TIMED  # fmt: skip


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("slack", 300), ("stripe", 300), ("paddle", 5), ("linear", 60), ("hubspot", 300), ("mailgun", 43_200)],
)
def test_the_tolerance_holds_to_the_second(name: str, seconds: int) -> None:
    """Both ways, and at the very second it is still good."""
    tried = Tried(name)
    for good in (-seconds, seconds):
        assert isinstance(tried.judge(at=AT + good), Verified)
    for bad in (-seconds - 1, seconds + 1):
        assert isinstance(tried.judge(at=AT + bad), Refused)


def test_no_reason_quotes_the_secret_or_the_sender(tried: Tried) -> None:
    """It goes to a log and into a row."""
    mark = "quoted-by-nobody"
    for name in (*tried.provider.scheme.headers(), "Host"):
        verdict = tried.judge(with_headers(tried.request, [(name, mark)]), mark + "\n")
        if isinstance(verdict, Refused):
            assert mark not in verdict.reason
            assert len(verdict.reason) < 200
            assert "\n" not in verdict.reason


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(PROVIDERS)), method=HEADER_TEXT, target=st.text(), value=HEADER_TEXT, body=st.binary(),
    secret=st.text(), at=st.floats(allow_nan=False), extra=st.lists(st.tuples(HEADER_TEXT, HEADER_TEXT)),
    certificate=st.none() | st.binary(),
)  # fmt: skip
def test_any_bytes_get_a_verdict(
    name: str, method: str, target: str, value: str, body: bytes, secret: str, at: float,
    extra: list[tuple[str, str]], certificate: bytes | None,
) -> None:  # fmt: skip
    """Whatever Hypothesis finds, in whatever place: nothing is raised."""
    headers = [*((each, value) for each in ALL_HEADERS), *extra]
    for headers_sent in (headers, extra):
        verdict = judge(
            PROVIDERS[name], Request(method, target, headers_sent, body), [secret], at, certificate=certificate
        )
        assert isinstance(verdict, Verified | Refused)


ALL_HEADERS = sorted(
    {name for provider in PROVIDERS.values() for name in provider.scheme.headers()}
    | {"Host", "X-Gitlab-Token", "X-HubSpot-Signature", "svix-signature", "svix-id", "svix-timestamp", "Content-Digest"}
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
NAMES = [*sns.SIGNED, "SignatureVersion", "Signature", "SigningCertURL", "signature", "value", "webhookTimestamp"]


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(PROVIDERS)),
    fields=st.dictionaries(st.sampled_from(NAMES), JSON | st.lists(st.dictionaries(st.just("clientState"), JSON))),
)
def test_any_json_gets_a_verdict(name: str, fields: dict[str, Any]) -> None:
    """Those whose proof stands in the body too: nothing of any shape is raised."""
    tried = Tried(name)
    body = json.loads(tried.request.body) if tried.request.body.startswith(b"{") else {}
    sent = replace(tried.request, body=json.dumps({**body, **fields}).encode())
    assert isinstance(tried.judge(sent), Verified | Refused)


@settings(max_examples=60, deadline=None)
@given(options=st.dictionaries(st.sampled_from([*Hmac.__dataclass_fields__, "covered", "query", "url"]), st.text()))
def test_any_options_get_a_verdict(options: dict[str, str]) -> None:
    """A source that is wrongly described refuses: it fails closed."""
    for name in ("hmac", "token", "ed25519", "rfc9421", "square", "twilio", "slack"):
        tried = Tried(name)
        verdict = judge(tried.provider, tried.request, [tried.credentials.secret], AT, options=options)
        assert isinstance(verdict, Verified | Refused)


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


def test_a_secret_that_is_no_key_stands_in_no_other_s_way() -> None:
    """While GitLab's webhook goes from a secret token to a signing token, whatever is the current one of the two."""
    tried = Tried("gitlab")
    token, key = "a token!", tried.credentials.secret
    for secrets in ([token, key], [key, token]):
        assert tried.judge(None, *secrets) == Verified(secrets.index(key))
        only_token = Request("POST", "/", [("X-Gitlab-Token", token)], b"{}")
        assert tried.judge(only_token, *secrets) == Verified(secrets.index(token))
    verdict = tried.judge(None, token)
    assert isinstance(verdict, Refused)
    assert verdict.check == "secret"


def test_a_public_key_does_not_serve_as_a_shared_one() -> None:
    """Who knows only what everybody may know signs nothing."""
    public = "whpk_" + base64.b64encode(bytes.fromhex(keys.public_text("68" * 32))).decode()
    message = f"id.{int(AT)}.".encode() + b"{}"
    for key in (public.encode(), base64.b64decode(public[5:])):
        forged = base64.b64encode(hmac.digest(key, message, "sha256")).decode()
        headers = [("webhook-id", "id"), ("webhook-timestamp", str(int(AT))), ("webhook-signature", f"v1,{forged}")]
        verdict = judge(PROVIDERS["standard-webhooks"], Request("POST", "/", headers, b"{}"), [public], AT)
        assert isinstance(verdict, Refused)


def test_gitlab_proves_itself_by_its_token_too() -> None:
    """The secret token in clear, where it has no signing token; and a bad signature is not mended by it."""
    tried = Tried("gitlab")
    only_token = Request("POST", "/", [("X-Gitlab-Token", "t")], b"{}")
    assert tried.judge(only_token, "t") == Verified(0)
    assert isinstance(tried.judge(only_token, "u"), Refused)
    both = with_headers(tried.request, [("X-Gitlab-Token", tried.credentials.secret), ("webhook-signature", "v1,AAAA")])
    assert isinstance(tried.judge(both), Refused)


def test_twilio_signs_another_body_by_its_hash_in_the_url() -> None:
    """And one that has none is not protected, so it is refused."""
    provider = PROVIDERS["twilio"]
    request = Request("POST", "/sms?a=b", [("Host", "x.example"), ("Content-Type", "application/json")], b'{"a":1}')
    signed = provider.scheme.sign(request, "s", AT, {})
    assert hashlib.sha256(request.body).hexdigest() in signed.target
    assert judge(provider, signed, ["s"], AT) == Verified(0)
    assert judge(provider, replace(signed, body=b"{}"), ["s"], AT) == Refused(
        "digest", "the body does not fit the URL's bodySHA256"
    )
    bare = replace(signed, target="/sms?a=b")
    assert judge(provider, bare, ["s"], AT) == Refused(
        "digest", "the body is no form and the URL has no bodySHA256: nothing protects it"
    )


@pytest.mark.parametrize("name", ["square", "hubspot", "twilio"])
def test_the_url_is_the_one_entered_at_the_provider(name: str) -> None:
    """A source says it where a proxy changes the host or the path; its host counts for every path below."""
    provider, entered = PROVIDERS[name], "https://public.example/in/source"
    inside = sample_delivery(provider, "s", AT, target="/source", host="10.0.0.1:8080", options={"url": entered})
    assert judge(provider, inside, ["s"], AT, options={"url": entered}) == Verified(0)
    assert isinstance(judge(provider, inside, ["s"], AT), Refused)
    plain = sample_delivery(provider, "s", AT, target="/source/x?y=1", host="public.example")
    assert judge(provider, replace(plain, headers=hosted(plain, "10.0.0.1")), ["s"], AT, options={"url": entered}) == (
        Verified(0)
    )


def hosted(request: Request, host: str) -> list[tuple[str, str]]:
    return [(name, host if name == "Host" else value) for name, value in request.headers]


def test_hubspot_s_newest_signature_alone_decides() -> None:
    """A good one of an older version does not mend it, and some characters of the URL it signs decoded."""
    provider = PROVIDERS["hubspot"]
    tried = Tried("hubspot")
    older = hashlib.sha256(tried.credentials.secret.encode() + tried.request.body).hexdigest()
    only_older = Request("POST", "/", [("X-HubSpot-Signature", older)], tried.request.body)
    assert tried.judge(only_older) == Verified(0)
    both = with_headers(tried.request, [("X-HubSpot-Signature", older), ("X-HubSpot-Signature-v3", "AAAA")])
    assert isinstance(tried.judge(both), Refused)
    signed = provider.scheme.sign(replace(tried.request, target="/a?b=:/@"), "s", AT, {})
    assert judge(provider, replace(signed, target="/a?b=%3A%2f%40"), ["s"], AT) == Verified(0)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512"])
def test_a_websub_hub_chooses_its_algorithm(algorithm: str) -> None:
    """Of those that the standard names."""
    value = f"{algorithm}=" + hmac.new(b"s", b"body", algorithm).hexdigest()
    request = Request("POST", "/", [("X-Hub-Signature", value)], b"body")
    assert judge(PROVIDERS["websub"], request, ["s"], AT) == Verified(0)
    assert isinstance(judge(PROVIDERS["websub"], replace(request, body=b"bodY"), ["s"], AT), Refused)


def test_every_notification_of_graph_s_must_bear_the_state() -> None:
    """One forged among good ones spoils them all."""
    tried = Tried("microsoft-graph")
    document = json.loads(tried.request.body)
    good = document["value"][0]
    for items, fits in (
        ([good, good], True),
        ([good, {**good, "clientState": "other"}], False),
        ([good, {"id": "1"}], False),
        ([good, 5], False),
        ([], False),
    ):
        sent = replace(tried.request, body=json.dumps({"value": items}).encode())
        assert isinstance(tried.judge(sent), Verified) == fits


# Mailgun


def test_a_mailgun_subaccount_is_verified_by_the_primary_account() -> None:
    """Its events bear that account's signature too; either is good, and one that is wrong harms neither."""
    tried = Tried("mailgun")
    document = json.loads(tried.request.body)
    theirs = document["signature"]["signature"]
    for signatures, is_good in (
        ({"signature": "0" * 64, "parent-signature": theirs}, True),
        ({"signature": theirs, "parent-signature": "0" * 64}, True),
        ({"signature": "0" * 64, "parent-signature": "0" * 64}, False),
    ):
        document["signature"] |= signatures
        verdict = tried.judge(replace(tried.request, body=json.dumps(document).encode()))
        assert isinstance(verdict, Verified) == is_good


# Amazon SNS


def test_sns_is_verified_by_the_topic_as_well_as_by_the_signature() -> None:
    """Anybody may have a topic, whose messages bear Amazon's good signature."""
    assert Tried("aws-sns").judge(None, "arn:aws:sns:eu-central-1:123456789012:other") == Refused(
        "topic", "the message is of another topic than the source's"
    )


def test_sns_wants_a_certificate_that_was_good_at_the_time() -> None:
    """None, one that is none, or one that had ended: nothing is verified."""
    tried = Tried("aws-sns")
    for certificate in (None, b"", b"-----BEGIN CERTIFICATE-----", b"\xff" * 100_000):
        tried.credentials = tried.credentials._replace(certificate=certificate)
        verdict = tried.judge()
        assert isinstance(verdict, Refused)
        assert verdict.check == "certificate"
    tried = Tried("aws-sns")
    assert tried.judge(at=AT + 10 * 86400) == Refused(
        "certificate", "the certificate was not valid when this was received"
    )


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("kind", ["Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"])
def test_sns_signs_each_kind_of_message_in_its_own_way(version: str, kind: str) -> None:
    """SHA-1 or SHA-256, with a subject or the confirmation's URL and token; what is covered is what is compared."""
    tried = Tried("aws-sns")
    document = json.loads(tried.request.body) | {"Type": kind, "SignatureVersion": version}
    if kind != "Notification":
        document |= {"SubscribeURL": "https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription", "Token": "t"}
    draft = replace(tried.request, body=json.dumps(document).encode())
    signed = tried.provider.scheme.sign(draft, tried.credentials.key, AT, {})
    assert tried.judge(signed) == Verified(0)
    covered = {"Message", "MessageId", "TopicArn", "Timestamp"}
    covered |= {"Subject"} if kind == "Notification" else {"SubscribeURL", "Token"}
    for name in covered:
        changed = json.loads(signed.body) | {name: "changed"}
        assert isinstance(tried.judge(replace(signed, body=json.dumps(changed).encode())), Refused), name


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-0a.pem", True),
        ("https://sns.cn-north-1.amazonaws.com.cn/x.pem", True),
        ("http://sns.eu-central-1.amazonaws.com/x.pem", False),
        ("https://sns.eu-central-1.amazonaws.com/x.pem.exe", False),
        ("https://sns.eu-central-1.amazonaws.com/x.pem?y", False),
        ("https://sns.eu-central-1.amazonaws.com/x.pem#y", False),
        ("https://sns.eu-central-1.amazonaws.com/./x.pem", False),
        ("https://sns.EU-central-1.amazonaws.com/x.pem", False),
        ("HTTPS://sns.eu-central-1.amazonaws.com/x.pem", False),
        ("https://sns.eu-central-1.amazonaws.com//x.pem", False),
        ("https://sns.eu-central-1.amazonaws.com/%78.pem", False),
        ("https://sns.eu-central-1.amazonaws.com:444/x.pem", False),
        ("https://sns.eu-central-1.amazonaws.com@evil.example/x.pem", False),
        ("https://evil.example@sns.eu-central-1.amazonaws.com/x.pem", False),
        ("https://sns.eu-central-1.amazonaws.com.evil.example/x.pem", False),
        ("https://evil.example/sns.eu-central-1.amazonaws.com/x.pem", False),
        ("https://evil.example\\@sns.eu-central-1.amazonaws.com/x.pem", False),
        ("https://evilsns.eu-central-1.amazonaws.com/x.pem", False),
        ("https://sns.eu.evil-1.amazonaws.com/x.pem", False),
        ("https://s3.amazonaws.com/x.pem", False),
        ("https://sns.eu-central-1.amazonaws.com\n/x.pem", False),
        ("https://sns.eu-central-1.amazonaws.com/x.pem\n", False),
        ("https://sns.ëu-central-1.amazonaws.com/x.pem", False),
        ("https://sns.eu-central-1.amazonaws.com/" + "a" * 3000 + ".pem", False),
        ("https://[sns.eu-central-1.amazonaws.com/x.pem", False),
        ("", False),
        (5, False),
        (None, False),
    ],
)
def test_a_certificate_comes_from_amazon_alone(url: object, may: bool) -> None:
    """Over https, from SNS's own hosts, a .pem file: from nowhere else."""
    tried = Tried("aws-sns")
    sent = replace(tried.request, body=json.dumps(json.loads(tried.request.body) | {"SigningCertURL": url}).encode())
    assert sns.certificate_url(sent) == (url if may else None)
    assert may or tried.judge(sent) == Refused("certificate", "SigningCertURL is not one of Amazon's")


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


def test_forgejo_is_known_by_its_own_names_too() -> None:
    """Without Gitea's."""
    signature = hmac.new(b"s", b"{}", "sha256").hexdigest()
    request = Request("POST", "/", [("X-Forgejo-Signature", signature), ("X-Forgejo-Delivery", "d")], b"{}")
    assert judge(PROVIDERS["gitea"], request, ["s"], AT) == Verified(0)
    assert PROVIDERS["gitea"].delivery_id_of(request) == "d"


@pytest.mark.parametrize("stamp", ["", " ", "-1", "1e9", "1_750_000_000", "١٧٥٠٠٠٠٠٠٠", "9" * 17])
def test_a_time_is_digits(stamp: str) -> None:
    """An empty one is none, even where it is rightly signed; and Python's other ways to write a number are not ours."""
    options = {"signed": "{timestamp}.{body}", "timestamp_header": "X-Time"}
    value = hmac.new(b"s", stamp.encode("latin-1", "replace") + b".{}", "sha256").hexdigest()
    request = Request("POST", "/", [("X-Time", stamp), ("X-Signature", value)], b"{}")
    assert judge(PROVIDERS["hmac"], request, ["s"], AT, options=options) == Refused(
        "format", "the timestamp is not a number"
    )
