"""Why a delivery may not be verified: the usual mistakes are found by trying them."""

import hmac
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.hints import UNEXPLAINED, hints
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.samples import credentials, sample_delivery
from protocol.schemes.keyed import ENCODE

AT = 1_750_000_000.0
BODY = b'{"a":1,"b":"\xc3\xa4"}'


def github(body: bytes, signed: bytes = BODY, secret: bytes = b"s", algorithm: str = "sha256") -> Request:
    value = "sha256=" + hmac.new(secret, signed, algorithm).hexdigest()
    return Request("POST", "/", [("X-Hub-Signature-256", value)], body)


@pytest.mark.parametrize(
    ("request_", "secret", "hint"),
    [
        (github(BODY), "s\n", "white space"),
        (github(BODY), "'s'", "quotes"),
        (github(BODY, secret=b"s\n"), "s", "line feed"),
        (github(BODY + b"\n"), "s", "without a line's end"),
        (github(BODY, BODY + b"\n"), "s", "with a line feed"),
        (github(BODY, BODY + b"\r\n"), "s", "with CR LF"),
        (github(b"a\r\nb", b"a\nb"), "s", "with LF for CR LF"),
        (github(json.dumps(json.loads(BODY)).encode()), "s", "written again"),
        (github(BODY, algorithm="sha1"), "s", "signed with sha1"),
        (Request("POST", "/", [("X-Hub-Signature", "sha1=00")], BODY), "s", "SHA-1"),
        (Request("POST", "/", [], BODY), "s", "signs nothing"),
    ],
)
def test_the_usual_mistakes_are_found(request_: Request, secret: str, hint: str) -> None:
    """One line, that says what is wrong and nothing of the secret."""
    found = hints(PROVIDERS["github"], request_, [secret], AT)
    assert len(found) == 1
    assert hint in found[0]


@pytest.mark.parametrize("encoding", ["hex-upper", "base64"])
def test_another_encoding_is_found(encoding: str) -> None:
    """The signature is right and written differently."""
    value = ENCODE[encoding](hmac.digest(b"s", BODY, "sha256")).decode()
    request = Request("POST", "/", [("X-Gitea-Signature", value)], BODY)
    assert hints(PROVIDERS["dropbox"], replace(request, headers=[("X-Dropbox-Signature", value)]), ["s"], AT) == [
        f"the signature is written in {encoding}, not in hex"
    ]


@pytest.mark.parametrize(
    ("name", "header", "options"),
    [("gitea", "X-Gitea-Signature", {}), ("gitea", "X-Forgejo-Signature", {}), ("hmac", "X-Sig", {"header": "X-Sig"})],
)
def test_another_algorithm_is_found_in_whatever_describes_the_scheme(
    name: str, header: str, options: dict[str, str]
) -> None:
    """Of a sender that signs by one of two names, and of a source that describes its sender's signature itself."""
    request = Request("POST", "/", [(header, hmac.new(b"s", BODY, "sha1").hexdigest())], BODY)
    assert hints(PROVIDERS[name], request, ["s"], AT, options=options) == ["it is signed with sha1, not with sha256"]


def test_options_that_describe_no_scheme_get_no_hint() -> None:
    """What is wrong with them is the verdict's to say."""
    assert hints(PROVIDERS["hmac"], github(BODY), ["s"], AT, options={"algorithm": "md5"}) == []


def test_a_clock_is_found() -> None:
    """The signature fits, and its time does not."""
    provider = PROVIDERS["slack"]
    old = sample_delivery(provider, "s", AT, fault="old")
    assert hints(provider, old, ["s"], AT) == [
        "its time is not near the receipt, else it fits: signed 86400 s before it was received; 300 s are allowed"
    ]


@pytest.mark.parametrize("name", PROVIDERS)
def test_what_is_verified_needs_no_hint(name: str) -> None:
    """And of what is forged none fits: it is told to be signed with another secret."""
    provider = PROVIDERS[name]
    assert provider.sample is not None
    known, options = credentials(provider, AT), provider.sample.options
    make: Callable[..., Request] = sample_delivery
    good = make(provider, known.key, AT, options=options)
    assert hints(provider, good, [known.secret], AT, options=options, certificate=known.certificate) == []
    forged = make(provider, known.key, AT, options=options, fault="bad-signature")
    found = hints(provider, forged, [known.secret], AT, options=options, certificate=known.certificate)
    assert found == ([] if name == "none" else [UNEXPLAINED])


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(PROVIDERS)), st.binary(), st.text(st.characters(max_codepoint=255)), st.text())
def test_any_bytes_get_hints_or_none(name: str, body: bytes, value: str, secret: str) -> None:
    """Whatever was sent, nothing is raised."""
    headers = [(each, value) for each in PROVIDERS[name].scheme.headers()]
    assert isinstance(hints(PROVIDERS[name], Request("POST", "/", headers, body), [secret], AT), list)
