"""Handshakes: what a sender asks before it sends is answered in the request, and nobody is helped to forge by it."""

import base64
import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.challenge import Answer, answer, sns_confirmation
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.samples import ED25519_SEED, credentials, sample_delivery
from protocol.signature import NO_OPTIONS, judge, with_headers
from protocol.verdict import Refused

AT = 1_750_000_000.0
SECRET = "s3cret"
PLAIN = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))
GREETING = [name for name, provider in PROVIDERS.items() if provider.handshake is not None]
VECTORS = json.loads((Path(__file__).parent / "data/vectors.json").read_text())


def get(query: str) -> Request:
    return Request("GET", f"/source?{query}", [("Host", "h.example")], b"")


def posted(name: str, body: object, key: str = SECRET, at: float = AT) -> Request:
    """A POST with this body, signed as the provider signs."""
    draft = Request("POST", "/source", [("Host", "h.example")], json.dumps(body).encode())
    return PROVIDERS[name].scheme.sign(draft, key, at, {})


def asked(
    name: str, request: Request, *secrets: str, at: float = AT, options: Mapping[str, str] = NO_OPTIONS
) -> Answer | None:
    return answer(PROVIDERS[name], request, secrets or [SECRET], at, options=options)


@pytest.mark.parametrize("name", PROVIDERS)
def test_an_event_is_no_handshake(name: str) -> None:
    """A provider's sample is stored like any other delivery."""
    provider = PROVIDERS[name]
    assert provider.sample is not None
    known = credentials(provider, AT)
    request = sample_delivery(provider, known.key, AT, options=provider.sample.options)
    assert answer(provider, request, [known.secret], AT, options=provider.sample.options) is None
    assert answer(provider, Request("GET", "/source", [], b""), [known.secret], AT) is None


def test_these_providers_have_a_handshake() -> None:
    """SNS's is not answered in the request: its URL is fetched by the processor."""
    assert set(GREETING) == {
        "slack", "watson-work", "meta", "discord", "zoom", "microsoft-graph", "dropbox", "x", "websub",
    }  # fmt: skip


def test_slack_gets_its_challenge_back() -> None:
    """As text; with a wrong signature it gets 401, and an old one too."""
    body = {
        "type": "url_verification",
        "token": "old",
        "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P",
    }
    assert asked("slack", posted("slack", body)) == Answer(200, PLAIN, body["challenge"].encode())
    assert refused(asked("slack", posted("slack", body, "other")))
    assert refused(asked("slack", posted("slack", body), at=AT + 301))
    assert asked("slack", posted("slack", body, "any"), "") == Answer(200, PLAIN, body["challenge"].encode())
    for challenge in (None, 5, "", "x" * 5000):
        assert asked("slack", posted("slack", body | {"challenge": challenge})) is None


def refused(given: Answer | None) -> bool:
    return given is not None and given.status in (401, 403, 404) and SECRET.encode() not in given.body


def test_meta_gets_its_challenge_back_for_its_token() -> None:
    """The verify token is the source's; without one nobody is let in."""
    query = "hub.mode=subscribe&hub.verify_token=t%C3%B6ken&hub.challenge=1158201444"
    assert asked("meta", get(query), options={"verify_token": "töken"}) == Answer(200, PLAIN, b"1158201444")
    for request, options in (
        (get(query), {}),
        (get(query), {"verify_token": ""}),
        (get(query), {"verify_token": "token"}),
        (get("hub.mode=subscribe&hub.challenge=1"), {"verify_token": "t"}),
        (get("hub.mode=subscribe&hub.verify_token=t"), {"verify_token": "t"}),
    ):
        given = asked("meta", request, options=options)
        assert given is not None
        assert given.status == 403
    assert asked("meta", get("hub.mode=other"), options={"verify_token": "t"}) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"version": 1, "application_id": "1", "type": 0}, Answer(204)),
        ({"id": "1", "type": 1}, Answer(200, (("Content-Type", "application/json"),), b'{"type":1}')),
        ({"type": 1, "event": {"type": "X"}}, None),
        ({"type": 2}, None),
        ({"type": True}, None),
        ({"type": []}, None),
        ([], None),
    ],
)
def test_discord_s_pings_are_answered(body: Any, expected: Answer | None) -> None:
    """Of webhook events 204 and nothing, of interactions their type; all else is an event."""
    public = "".join(credentials(PROVIDERS["discord"], AT).secret)
    assert asked("discord", posted("discord", body, ED25519_SEED), public) == expected


def test_discord_s_bad_signatures_get_401() -> None:
    """It sends some on purpose and drops whoever accepts them; whatever they are on."""
    public = credentials(PROVIDERS["discord"], AT).secret
    for body in ({"type": 0}, {"type": 1}, {"type": 1, "event": {}}, "no object"):
        assert refused(asked("discord", posted("discord", body, "69" * 32), public))
    malformed = with_headers(posted("discord", {"type": 1}, ED25519_SEED), [("X-Signature-Ed25519", "zz")])
    assert refused(asked("discord", malformed, public))
    assert refused(asked("discord", posted("discord", {"type": 1}, ED25519_SEED), ""))


def test_zoom_gets_its_token_signed() -> None:
    """With the secret that its own signature fits."""
    body = {"event": "endpoint.url_validation", "payload": {"plainToken": "qgg8vlvZRS6UYooatFL8Aw"}}
    given = asked("zoom", posted("zoom", body, "older"), SECRET, "older")
    assert given is not None
    assert given.status == 200
    assert json.loads(given.body) == {
        "plainToken": "qgg8vlvZRS6UYooatFL8Aw",
        "encryptedToken": hmac.new(b"older", b"qgg8vlvZRS6UYooatFL8Aw", "sha256").hexdigest(),
    }


def test_zoom_s_token_is_signed_for_zoom_alone() -> None:
    """And only where it cannot be a body: else anybody could have one signed."""
    body: dict[str, Any] = {"event": "endpoint.url_validation", "payload": {"plainToken": "token"}}
    assert refused(asked("zoom", posted("zoom", body, "other")))
    assert refused(asked("zoom", posted("zoom", body), at=AT + 301))
    for token in (f'v0:{int(AT)}:{{"event":"x"}}', "", None, 5, "a b"):
        assert refused(asked("zoom", posted("zoom", body | {"payload": {"plainToken": token}})))
    assert refused(asked("zoom", posted("zoom", body | {"payload": []})))


def test_graph_gets_its_token_back() -> None:
    """Decoded, as plain text, whatever stands in it; no page is made of it."""
    token = "Validation: Testing client application reachability for subscription <b>é&+</b>"
    request = Request("POST", f"/source?validationToken={quote(token, safe='')}", [], b"")
    assert asked("microsoft-graph", request) == Answer(200, PLAIN, token.encode())
    empty = asked("microsoft-graph", Request("POST", "/source?validationToken=", [], b""))
    assert empty is not None
    assert empty.status == 400


def test_dropbox_gets_its_challenge_back() -> None:
    """As plain text that no browser sniffs at."""
    assert asked("dropbox", get("challenge=abc123")) == Answer(200, PLAIN, b"abc123")
    assert asked("dropbox", get("challenge=")) is None


def test_x_gets_its_token_signed() -> None:
    """By the newest secret, in base64."""
    given = asked("x", get("crc_token=MTIzNDU2Nzg5MA%3D%3D&nonce=1"), SECRET, "older")
    assert given is not None
    expected = base64.b64encode(hmac.digest(SECRET.encode(), b"MTIzNDU2Nzg5MA==", "sha256")).decode()
    assert json.loads(given.body) == {"response_token": f"sha256={expected}"}


@settings(deadline=None)
@given(st.text(min_size=1))
def test_x_signs_no_body_for_anybody(token: str) -> None:
    """Its events are signed as its tokens are: a token that could be an event is not signed."""
    given_answer = asked("x", get(f"crc_token={quote(token, safe='', errors='replace')}"))
    if given_answer is None or given_answer.status == 401:
        return
    signed = json.loads(given_answer.body)["response_token"]
    forged = Request("POST", "/source", [("x-twitter-webhooks-signature", signed)], token.encode("utf-8", "replace"))
    assert not token.lstrip().startswith(("{", "["))
    assert PROVIDERS["x"].event_type_of(forged) is None


def test_x_asks_in_vain_for_an_event_s_signature() -> None:
    """Neither JSON nor without a secret."""
    assert refused(asked("x", get("crc_token=" + quote('{"tweet_create_events":[]}'))))
    assert refused(asked("x", get("crc_token=abc"), ""))


def test_a_websub_hub_is_told_which_topics_are_wanted() -> None:
    """The challenge for those of the source, 404 for every other; a denial is heard."""
    query = "hub.mode={}&hub.topic={}&hub.challenge=c-1&hub.lease_seconds=864000"
    ours = quote("https://example.com/feed?a=b", safe="")
    topics = {"topic": "https://example.com/other https://example.com/feed?a=b"}
    assert asked("websub", get(query.format("subscribe", ours)), options=topics) == Answer(200, PLAIN, b"c-1")
    for request in (
        get(query.format("subscribe", "https%3A%2F%2Fevil.example")),
        get(query.format("unsubscribe", ours)),
        get("hub.mode=subscribe&hub.challenge=c"),
        get(f"hub.mode=subscribe&hub.topic={ours}"),
    ):
        assert refused(asked("websub", request, options=topics))
    assert refused(asked("websub", get(query.format("subscribe", ours))))
    other = "https%3A%2F%2Fexample.com%2Fno-longer-wanted"
    assert asked("websub", get(query.format("unsubscribe", other)), options=topics) == Answer(200, PLAIN, b"c-1")
    assert asked("websub", get(f"hub.mode=denied&hub.topic={ours}"), options=topics) == Answer(200, PLAIN, b"")


def test_watson_work_gets_its_challenge_back_signed() -> None:
    """To the byte as IBM's own sample answers, with the token that it publishes."""
    vector = next(each for each in VECTORS if each["id"] == "watson-verification")
    request = Request("POST", "/", list(vector["headers"].items()), vector["body"].encode())
    given = asked("watson-work", request, vector["secret"])
    assert given is not None
    assert given.status == vector["response"]["status"]
    assert given.body == vector["response"]["body"].encode()
    assert dict(given.headers)["X-OUTBOUND-TOKEN"] == vector["response"]["headers"]["X-OUTBOUND-TOKEN"]


def test_watson_work_s_challenge_is_signed_for_it_alone() -> None:
    """Not for whoever signs with another secret, or not at all."""
    body = {"type": "verification", "challenge": "c"}
    assert refused(asked("watson-work", posted("watson-work", body, "other")))
    assert refused(asked("watson-work", with_headers(posted("watson-work", body), [("X-OUTBOUND-TOKEN", "")])))
    assert refused(asked("watson-work", posted("watson-work", body | {"challenge": 5})))
    assert asked("watson-work", posted("watson-work", {"type": "message-created", "content": "verification"})) is None


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=x&Token=y", True),
        ("http://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription", False),
        ("https://evil.example/?Action=ConfirmSubscription", False),
        ("https://169.254.169.254/", False),
        (None, False),
    ],
)
def test_a_subscription_is_confirmed_at_amazon_alone(url: str | None, may: bool) -> None:
    """The URL to fetch is SNS's own, or there is none."""
    request = Request("POST", "/", [], json.dumps({"Type": "SubscriptionConfirmation", "SubscribeURL": url}).encode())
    assert sns_confirmation(request) == (url if may else None)
    ended = Request("POST", "/", [], json.dumps({"Type": "UnsubscribeConfirmation", "SubscribeURL": url}).encode())
    assert sns_confirmation(ended) is None
    assert sns_confirmation(Request("POST", "/", [], b"[]")) is None


@settings(max_examples=50, deadline=None)
@given(
    name=st.sampled_from(GREETING), method=st.sampled_from(["GET", "POST", "HEAD", "x"]), target=st.text(),
    body=st.binary(), secrets=st.lists(st.text(st.characters(codec="utf-8"))), token=st.text(),
    options=st.dictionaries(st.sampled_from(["verify_token", "topic"]), st.text()),
)  # fmt: skip
def test_any_bytes_are_a_handshake_or_none(
    name: str, method: str, target: str, body: bytes, secrets: list[str], token: str, options: dict[str, str]
) -> None:
    """Whatever is asked, the answer is one, or there is none; and no answer has the secret in it."""
    queries = [f"{each}={quote(token, errors='replace')}" for each in ("challenge", "crc_token", "validationToken")]
    queries += [target, f"hub.mode=subscribe&hub.topic={token}&hub.challenge=1&hub.verify_token={token}"]
    words = [
        b'{"type":"url_verification","challenge":' + body,
        json.dumps({"type": "verification", "challenge": token}).encode(),
    ]
    for query in queries:
        for sent in (body, *words):
            request = Request(method, f"/source?{query}", [("X-Signature-Ed25519", token)], sent)
            given_answer = answer(PROVIDERS[name], request, secrets, AT, options=options)
            assert given_answer is None or 200 <= given_answer.status < 405


def test_a_handshake_that_is_answered_was_signed_where_the_sender_signs_it() -> None:
    """What is refused as a delivery is refused as a handshake."""
    body = {"type": "url_verification", "challenge": "c"}
    forged = posted("slack", body, "other")
    assert isinstance(judge(PROVIDERS["slack"], forged, [SECRET], AT), Refused)
    assert refused(asked("slack", forged))
