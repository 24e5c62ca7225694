"""Did the sender that a source names send this? Of every provider, whatever was sent, the answer is a verdict."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import keys
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.samples import sample_delivery
from protocol.schemes import sns
from protocol.schemes.keyed import Hmac
from protocol.signature import judge, with_headers
from protocol.verdict import Refused, Verdict, Verified
from tests.judged import AT, Tried

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
