"""What is declared of each sender: complete, well-formed, and no surer than it is."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.settings import IngestSettings
from protocol.naming import Derived, Each, Form, Json, Words, key_of
from protocol.providers import PROVIDERS, UNNAMED
from protocol.providers.document import render
from protocol.providers.provider import Provider, Sure
from protocol.request import Request
from protocol.samples import credentials, sample_delivery
from protocol.schemes.in_body import Mailgun
from protocol.schemes.shown import Nothing
from rig import providers as page

AT = 1_750_000_000.0
NAMES = [
    "github", "gitlab", "gitea", "bitbucket", "jira", "stripe", "slack", "shopify", "twilio", "sendgrid", "webex",
    "watson-work", "meta", "discord", "zoom", "microsoft-graph", "dropbox", "x", "paddle", "mailgun", "linear",
    "square", "hubspot", "line", "aws-sns", "websub", "sentry", "pagerduty", "typeform", "calendly",
    "standard-webhooks", "rfc9421", "hmac", "ed25519", "token", "basic", "none",
]  # fmt: skip
GENERIC = {"rfc9421", "hmac", "ed25519", "token", "basic", "none"}
# Nothing in what they send tells one delivery from another.
WITHOUT_ID = GENERIC | {"dropbox", "websub"}
WITHOUT_TYPE = GENERIC | {"dropbox", "websub"}


def posted(body: object, headers: Mapping[str, str] | None = None) -> Request:
    return Request("POST", "/", list((headers or {}).items()), json.dumps(body).encode())


def form(text: str) -> Request:
    return Request("POST", "/", [("Content-Type", "application/x-www-form-urlencoded")], text.encode())


def test_these_are_the_providers() -> None:
    """By the names that `--provider` takes."""
    assert list(PROVIDERS) == NAMES


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_declaration_is_complete(name: str) -> None:
    """Title, secret, duplicates, sample; of a sender also what to enter there, its patience and its retries."""
    provider = PROVIDERS[name]
    assert provider.title
    assert provider.credential or name == "none"
    assert provider.duplicates
    assert provider.sample is not None
    topics = {fact.topic for fact in provider.facts}
    assert "signature" in topics
    assert (provider.handshake is None) or "handshake" in topics
    if name not in GENERIC:
        assert provider.setup
        assert {"names", "success", "patience", "retries"} <= topics
    assert isinstance(provider.scheme, Nothing) == (name == "none")


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_fact_says_where_it_comes_from_and_how_sure_it_is(name: str) -> None:
    """A page or a repository; only what we chose ourselves has none."""
    for fact in PROVIDERS[name].facts:
        assert fact.says
        assert isinstance(fact.sure, Sure)
        assert fact.source == "hookd itself" if fact.sure is Sure.OURS else fact.source.startswith("https://")


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_patience_is_longer_than_our_own_time(name: str) -> None:
    """Who waits a second is named here: a receiver must be told to answer it sooner."""
    patience = PROVIDERS[name].patience_seconds
    if patience is not None and patience <= IngestSettings.model_fields["commit_timeout_seconds"].default:
        assert name in {"sentry", "line"}


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_sample_s_event_and_delivery_are_named(name: str) -> None:
    """Another delivery has another id, the same one the same; the names fit their columns."""
    provider = PROVIDERS[name]
    assert provider.sample is not None
    key = credentials(provider, AT).key
    first, again, other = (
        sample_delivery(provider, key, AT, delivery=delivery, options=provider.sample.options)
        for delivery in ("1", "1", "2")
    )
    assert (provider.event_type_of(first) is None) == (name in WITHOUT_TYPE)
    delivery_id = provider.delivery_id_of(first)
    assert (delivery_id is None) == (name in WITHOUT_ID)
    assert delivery_id == provider.delivery_id_of(again)
    if delivery_id is not None:
        assert delivery_id != provider.delivery_id_of(other)
        assert len(delivery_id) <= 200


@pytest.mark.parametrize("name", [name for name in PROVIDERS if name not in WITHOUT_ID])
def test_a_retry_bears_the_same_id(name: str) -> None:
    """Signed anew at another time, it is the same delivery still."""
    provider = PROVIDERS[name]
    assert provider.sample is not None
    sample = provider.sample
    key = credentials(provider, AT).key
    first = sample_delivery(provider, key, AT, options=sample.options)
    later = provider.scheme.sign(first, key, AT + 5, sample.options)
    assert provider.delivery_id_of(first) == provider.delivery_id_of(later)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    body=st.binary(),
    document=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["event", "data", "id"]), inner),
    ),
)
def test_any_body_is_named_or_not(name: str, body: bytes, document: object) -> None:
    """Whatever stands in it, a name is text, or there is none."""
    provider = PROVIDERS[name]
    for sent in (body, json.dumps(document).encode()):
        for headers in ([], [("Content-Type", "application/x-www-form-urlencoded")]):
            request = Request("POST", "/", headers, sent)
            for found in (provider.event_type_of(request), provider.delivery_id_of(request)):
                assert found is None or (isinstance(found, str) and found)


def test_what_names_nothing_stays_unnamed() -> None:
    """An unlisted source."""
    assert UNNAMED.event_type_of(posted({"type": "x"})) is None
    assert UNNAMED.delivery_id_of(posted({"id": "x"})) is None


@pytest.mark.parametrize(
    ("name", "request_", "event_type"),
    [
        ("slack", posted({"type": "event_callback", "event": {"type": "message"}}), "message"),
        ("slack", posted({"type": "app_rate_limited"}), "app_rate_limited"),
        ("slack", form("command=%2Flamp&text=on"), "/lamp"),
        ("slack", form("payload=%7B%22type%22%3A%22block_actions%22%7D"), "block_actions"),
        ("slack", form("payload=no+json"), None),
        ("twilio", form("CallSid=CA1&CallStatus=ringing"), "ringing"),
        ("mailgun", form("event=opened&token=t"), "opened"),
        ("x", posted({"for_user_id": "1", "favorite_events": []}), "favorite_events"),
        ("x", posted([]), None),
        ("meta", posted({"object": "page", "entry": [{"messaging": []}]}), "page"),
        ("discord", posted({"type": 2, "id": "5"}), "2"),
        ("gitea", posted({}, {"X-Forgejo-Event": "push"}), "push"),
        ("standard-webhooks", posted({"type": "a.b"}, {"svix-id": "m"}), "a.b"),
        ("github", posted({"type": "in the body"}), None),
    ],
)
def test_event_types_stand_in_many_places(name: str, request_: Request, event_type: str | None) -> None:
    """In a header, in JSON, in a form, in JSON within a form."""
    assert PROVIDERS[name].event_type_of(request_) == event_type


def webex(**changes: Any) -> Request:
    """The envelope of 2016; today's has more fields, none of which is looked at."""
    body: dict[str, Any] = {
        "id": "hook", "name": "n", "resource": "messages", "event": "created",
        "data": {"id": "m1", "roomId": "r", "created": "2016-04-14T16:40:05Z"},
    }  # fmt: skip
    return posted(body | changes)


def test_webex_deliveries_are_told_apart_by_what_happened() -> None:
    """The id in the body is the webhook's; the key is made of the thing, the event and the time of the change."""
    key = PROVIDERS["webex"].delivery_id_of
    first = key(webex())
    today = {"orgId": "o", "createdBy": "p", "appId": "a", "ownedBy": "creator", "status": "active", "actorId": "p"}
    assert first is not None
    assert first == key(webex(**today))
    others = [
        webex(id="another hook"),
        webex(event="deleted"),
        webex(resource="rooms"),
        webex(data={"id": "m2", "created": "2016-04-14T16:40:05Z"}),
        webex(event="updated", data={"id": "m1", "updated": "2016-04-14T16:41:05Z"}),
        webex(event="updated", data={"id": "m1", "updated": "2016-04-14T16:42:05Z"}),
    ]
    assert len({first, *map(key, others)}) == 1 + len(others)


@pytest.mark.parametrize(
    "request_",
    [
        webex(event="updated", data={"id": "m1", "created": "2016-04-14T16:40:05Z"}),
        webex(event="joined"),
        webex(data={}),
        webex(data=None),
        posted([]),
    ],
)
def test_a_webex_delivery_that_may_come_again_has_no_key(request_: Request) -> None:
    """Rather handled twice than never."""
    assert PROVIDERS["webex"].delivery_id_of(request_) is None


def test_watson_s_index_counts_by_space() -> None:
    """The same index in two spaces is two deliveries."""
    key = PROVIDERS["watson-work"].delivery_id_of
    one, two = (key(posted({"spaceId": space}, {"X-OUTBOUND-INDEX": "1"})) for space in ("S1", "S2"))
    assert one
    assert two
    assert one != two
    assert key(posted({}, {"X-OUTBOUND-INDEX": "1"})) is None


def test_two_changes_of_one_dropbox_account_are_two_deliveries() -> None:
    """Their bodies are alike to the byte."""
    assert PROVIDERS["dropbox"].delivery_id_of(posted({"list_folder": {"accounts": ["dbid:1"]}})) is None


def test_a_topic_that_comes_back_to_what_it_was_is_another_delivery() -> None:
    """Lit, out, lit: the third is no retry of the first, and its handler would believe the lamp to be out."""
    assert (
        PROVIDERS["websub"].delivery_id_of(Request("POST", "/", [("Link", "<https://hub>; rel=hub")], b"lit")) is None
    )


def test_a_batch_is_known_by_all_that_it_brings() -> None:
    """And has no key where one of them has none."""
    key = PROVIDERS["sendgrid"].delivery_id_of
    both = posted([{"sg_event_id": "a"}, {"sg_event_id": "b"}])
    assert key(both) != key(posted([{"sg_event_id": "a"}]))
    assert key(posted([{"sg_event_id": "a"}, {}])) is None
    assert key(posted([])) is None


def test_a_mailgun_token_that_was_seen_brings_no_second_event() -> None:
    """The signature does not cover the body: the same token with another body is the same delivery."""
    provider = PROVIDERS["mailgun"]
    assert isinstance(provider.scheme, Mailgun)
    first = posted({"signature": {"token": "t"}, "event-data": {"id": "1"}})
    forged = posted({"signature": {"token": "t"}, "event-data": {"id": "2"}})
    assert provider.delivery_id_of(first) == provider.delivery_id_of(forged) == "t"


@pytest.mark.parametrize(
    ("name", "body", "headers"),
    [
        ("aws-sns", {"MessageId": "signed"}, {"x-amz-sns-message-id": "another"}),
        ("gitlab", {}, {"Idempotency-Key": "another", "webhook-id": "signed"}),
    ],
)
def test_an_id_that_is_signed_goes_before_one_that_is_not(name: str, body: object, headers: dict[str, str]) -> None:
    """What was sent before does not come again as another delivery, under a header that nobody signed."""
    assert PROVIDERS[name].delivery_id_of(posted(body, headers)) == "signed"


@given(st.lists(st.text()), st.lists(st.text()))
def test_derived_keys_do_not_collide(one: list[str], other: list[str]) -> None:
    """However the words are cut."""
    assert (key_of(one) == key_of(other)) == (one == other)


@pytest.mark.parametrize(
    ("place", "request_", "name"),
    [
        (Json("a.b"), posted({"a": {"b": 5}}), "5"),
        (Json("a.b"), posted({"a": {"b": True}}), None),
        (Json("a.b"), posted({"a": {"b": ""}}), None),
        (Json("a.b"), posted({"a": 5}), None),
        (Json("0.b"), posted([{"b": "c"}]), "c"),
        (Json("1.b"), posted([{"b": "c"}]), None),
        (Json("-1.b"), posted([{"b": "c"}]), None),
        (Form("a"), form("a=1&b=2"), "1"),
        (Form("a"), posted({"a": 1}), None),
        (Form("a"), form("a"), None),
        (Words((Json("a"), Json("b"))), posted({"a": "x", "b": "y"}), "x.y"),
        (Words((Json("a"), Json("b"))), posted({"a": "x"}), None),
        (Derived((Json("a"),)), posted({}), None),
        (Each("a", ("b",)), posted({"a": {}}), None),
    ],
)
def test_a_name_is_text_or_a_whole_number(place: Any, request_: Request, name: str | None) -> None:
    """Whatever else stands there names nothing."""
    assert place(request_) == name


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_sample_s_options_are_in_order(name: str) -> None:
    """And what is needed and missing, unknown or no number is told."""
    provider = PROVIDERS[name]
    assert provider.sample is not None
    options = dict(provider.sample.options)
    assert provider.faults_of(options) == []
    assert provider.faults_of({**options, "tolerance_seconds": "600"}) == []
    assert len(provider.faults_of({**options, "nonsense": "1"})) == 1
    for wrong in ("soon", "-1", "1.5", "", "٣", "9" * 20):
        assert len(provider.faults_of({**options, "tolerance_seconds": wrong})) == 1
    needed = [option for option in provider.options if option.needed]
    assert len(provider.faults_of({})) == len(needed)


@pytest.mark.parametrize(
    "url", ["hooks.example.com/square", "https://", "https://[::1/square", "https://a:65536/square"]
)
def test_a_url_is_one(url: str) -> None:
    """What a proxy's host is taken from: nothing could ever be verified by another."""
    assert PROVIDERS["square"].faults_of({"url": url}) == ["url: https:// or http://, a host, and a path"]
    assert PROVIDERS["square"].faults_of({"url": "https://hooks.example.com:65535/square"}) == []


def test_a_key_s_encoding_is_one_that_is_known() -> None:
    """What is misspelt would be taken for none."""
    assert PROVIDERS["rfc9421"].faults_of({"secret_encoding": "hex"}) == [
        "secret_encoding is base64, or not said at all"
    ]
    assert PROVIDERS["rfc9421"].faults_of({"secret_encoding": "base64"}) == []


def test_docs_providers_md_is_what_the_declarations_say() -> None:
    """Write it anew with `python -m rig.providers`."""
    assert page.FILE.read_text() == render(PROVIDERS)


def test_the_page_names_every_provider_and_its_sources() -> None:
    """A section each, and every source of every fact."""
    text = render(PROVIDERS)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == NAMES
    assert all(fact.source in text for provider in PROVIDERS.values() for fact in provider.facts)


def test_the_page_can_be_written_anywhere(tmp_path: Path) -> None:
    """To look at what a change would make of it."""
    page.write(tmp_path / "providers.md")
    assert (tmp_path / "providers.md").read_text() == page.FILE.read_text()


def test_a_sample_is_of_the_host_and_path_it_is_sent_to() -> None:
    """What signs its URL signs that one."""
    for name in ("square", "hubspot", "twilio", "rfc9421"):
        provider: Provider = PROVIDERS[name]
        request = sample_delivery(provider, "s", AT, target="/mine/x?y=1", host="there.example:8443")
        assert request.target.startswith("/mine/x?y=1")
        assert request.header("Host") == "there.example:8443"
    with pytest.raises(ValueError, match="no sample"):
        sample_delivery(replace(provider, sample=None), "s", AT)
