"""What is one provider's own in how its deliveries are judged."""

import hashlib
import hmac
import json
from dataclasses import replace

import pytest

from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.samples import sample_delivery
from protocol.schemes import sns
from protocol.signature import judge, with_headers
from protocol.verdict import Refused, Verified
from tests.judged import AT, Tried


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


def test_forgejo_is_known_by_its_own_names_too() -> None:
    """Without Gitea's."""
    signature = hmac.new(b"s", b"{}", "sha256").hexdigest()
    request = Request("POST", "/", [("X-Forgejo-Signature", signature), ("X-Forgejo-Delivery", "d")], b"{}")
    assert judge(PROVIDERS["gitea"], request, ["s"], AT) == Verified(0)
    assert PROVIDERS["gitea"].delivery_id_of(request) == "d"


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
