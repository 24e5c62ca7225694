"""Senders' own libraries: what they sign is verified here, and what is signed here they verify."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nacl.exceptions
import nacl.signing
import pytest
import slack_sdk.signature
import standardwebhooks
import stripe
from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    MappingKeyResolver,
)
from http_message_signatures.algorithms import HMAC_SHA256

from chassis.database import Connection, Database
from chassis.vault import Vault
from hookd.client import Client, Place
from hookd.doctor.store import Registered, Store
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.samples import ED25519_SEED, credentials, sample_delivery, sample_of
from protocol.signature import judge, with_headers
from protocol.source import Draft
from protocol.verdict import Refused, Verified
from tests.needs import needs
from tests.processing import Watch
from tests.trying import KEY, inbox

OCTOKIT = Path(sys.prefix) / "octokit"
NODE = shutil.which("node")
METHODS = """
import { sign, verify } from "@octokit/webhooks-methods";
const { secret, body, signature } = JSON.parse(await new Response(process.stdin).text());
console.log(JSON.stringify(signature ? await verify(secret, body, signature) : await sign(secret, body)));
"""


@dataclass(frozen=True)
class Library:
    """`sign`: the headers that it gives a delivery with that key. `accept`: whether it takes one; it may raise."""

    provider: str
    sign: Callable[[Request, str], Mapping[str, str]]
    accept: Callable[[Request, str], bool]


def octokit(**asked: str) -> Any:
    assert NODE, "node is missing"
    command = [NODE, "--input-type=module", "--eval", METHODS]
    done = subprocess.run(command, cwd=OCTOKIT, input=json.dumps(asked), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def octokit_accepts(sent: Request, secret: str) -> bool:
    signature = sent.header("X-Hub-Signature-256")
    return bool(octokit(secret=secret, body=sent.body.decode(), signature=signature or "none"))


def stripe_accepts(sent: Request, secret: str) -> bool:
    try:
        event = stripe.Webhook.construct_event(sent.body, sent.header("Stripe-Signature"), secret)
    except stripe.SignatureVerificationError:
        return False
    return bool(event.type == "invoice.paid")


def slack_signs(sent: Request, secret: str) -> Mapping[str, str]:
    stamp = str(int(time.time()))
    signature = slack_sdk.signature.SignatureVerifier(secret).generate_signature(timestamp=stamp, body=sent.body)
    return {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": signature or ""}


def slack_accepts(sent: Request, secret: str) -> bool:
    return slack_sdk.signature.SignatureVerifier(secret).is_valid_request(sent.body, dict(sent.headers))


def standard_signs(sent: Request, secret: str) -> Mapping[str, str]:
    now = datetime.now(UTC)
    signature = standardwebhooks.Webhook(secret).sign("msg_1", now, sent.body.decode())
    return {"webhook-id": "msg_1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}


def standard_accepts(sent: Request, secret: str) -> bool:
    try:
        return bool(standardwebhooks.Webhook(secret).verify(sent.body, dict(sent.headers)))
    except standardwebhooks.WebhookVerificationError:
        return False


def nacl_signs(sent: Request, _: str) -> Mapping[str, str]:
    """As Discord's documentation verifies: PyNaCl over the time and the body."""
    stamp = str(int(time.time()))
    signature = nacl.signing.SigningKey(bytes.fromhex(ED25519_SEED)).sign(stamp.encode() + sent.body).signature
    return {"X-Signature-Timestamp": stamp, "X-Signature-Ed25519": signature.hex()}


def nacl_accepts(sent: Request, public: str) -> bool:
    stamp, signature = sent.header("X-Signature-Timestamp") or "", sent.header("X-Signature-Ed25519") or ""
    try:
        nacl.signing.VerifyKey(bytes.fromhex(public)).verify(stamp.encode() + sent.body, bytes.fromhex(signature))
    except nacl.exceptions.BadSignatureError:
        return False
    return True


def message_of(sent: Request) -> SimpleNamespace:
    url = f"https://{sent.header('Host')}{sent.target}"
    return SimpleNamespace(method=sent.method, url=url, headers=dict(sent.headers))


def keys_of(secret: str) -> MappingKeyResolver:
    shared = {"sample": secret.encode()}
    return MappingKeyResolver(public_keys=shared, private_keys=shared)


def rfc9421_signs(sent: Request, secret: str) -> Mapping[str, str]:
    message, key = message_of(sent), keys_of(secret)
    signer = HTTPMessageSigner(signature_algorithm=HMAC_SHA256, key_resolver=key)
    signer.sign(message, key_id="sample", covered_component_ids=("@method", "@target-uri"), body=sent.body)
    headers: Mapping[str, str] = message.headers
    return {name: headers[name] for name in ("Content-Digest", "Signature-Input", "Signature")}


def rfc9421_accepts(sent: Request, secret: str) -> bool:
    key = keys_of(secret)
    verifier = HTTPMessageVerifier(signature_algorithm=HMAC_SHA256, key_resolver=key)
    try:
        return bool(verifier.verify(message_of(sent), body=sent.body))
    except HTTPMessageSignaturesException:
        return False


LIBRARIES = [
    pytest.param(
        Library(
            "github",
            lambda sent, secret: {"X-Hub-Signature-256": octokit(secret=secret, body=sent.body.decode())},
            octokit_accepts,
        ),
        marks=needs(bool(NODE) and (OCTOKIT / "node_modules").is_dir(), "node and npm are missing"),
        id="octokit",
    ),
    pytest.param(
        Library(
            "stripe",
            lambda sent, secret: {
                "Stripe-Signature": stripe.WebhookSignature.generate_signature_header(sent.body.decode(), secret)
            },
            stripe_accepts,
        ),
        id="stripe",
    ),
    pytest.param(Library("slack", slack_signs, slack_accepts), id="slack-sdk"),
    pytest.param(Library("standard-webhooks", standard_signs, standard_accepts), id="standardwebhooks"),
    pytest.param(Library("discord", nacl_signs, nacl_accepts), id="pynacl"),
    pytest.param(Library("rfc9421", rfc9421_signs, rfc9421_accepts), id="http-message-signatures"),
]


def sample(library: Library, **changes: Any) -> Request:
    """The provider's sample, as hookd signs it."""
    provider, now = PROVIDERS[library.provider], time.time()
    options = sample_of(provider).options
    return sample_delivery(provider, credentials(provider, now).key, now, options=options, **changes)


def signed_by(library: Library, target: str = "/sample", host: str = "hooks.example.com") -> Request:
    """The provider's sample, as its own library signs it: every header of ours that signs is gone."""
    provider = PROVIDERS[library.provider]
    ours = sample(library, target=target, host=host)
    names = {name.lower() for name in (*provider.scheme.headers(), "Content-Digest")}
    bare = replace(ours, headers=[pair for pair in ours.headers if pair[0].lower() not in names])
    headers = library.sign(bare, credentials(provider, time.time()).key)
    return with_headers(bare, list(headers.items()))


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_a_sender_s_library_signs_is_verified(library: Library) -> None:
    """And no longer when a byte of its body was changed."""
    provider, secret = PROVIDERS[library.provider], credentials(PROVIDERS[library.provider], time.time()).secret
    sent = signed_by(library)
    assert isinstance(judge(provider, sent, [secret], time.time()), Verified)
    assert isinstance(judge(provider, replace(sent, body=sent.body + b" "), [secret], time.time()), Refused)


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_signed_here_a_sender_s_library_verifies(library: Library) -> None:
    """Our samples are what the sender would send; a forged one its library refuses as we do."""
    secret = credentials(PROVIDERS[library.provider], time.time()).secret
    assert library.accept(sample(library), secret)
    assert library.accept(sample(library, body_bytes=5000), secret)
    assert not library.accept(sample(library, fault="bad-signature"), secret)


@pytest.mark.any_server
@needs(bool(NODE) and (OCTOKIT / "node_modules").is_dir(), "node and npm are missing")
async def test_what_their_libraries_sign_goes_all_the_way(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """Sent to a real receiver, judged by a real processor: each is verified."""
    libraries: list[Library] = [each.values[0] for each in LIBRARIES]  # type: ignore[misc]
    vault, store = Vault(KEY, tmp_path / "none"), Store(Database(database_url))
    drafts = {each.provider: Draft(f"from-{each.provider}", each.provider) for each in libraries}
    secrets = {name: credentials(PROVIDERS[name], time.time()).secret for name in drafts}
    sealed = [Registered(draft, [("secret", vault.seal(secrets[name].encode()))]) for name, draft in drafts.items()]
    await store.register(sealed)
    await store.close()
    watch = await Watch.over(connection)
    async with inbox(database_url, tmp_path) as running:
        place = Place(f"http://127.0.0.1:{running.receiver.port}", "")
        async with Client(place) as client:
            for library in libraries:
                target = place.target(drafts[library.provider].name)
                sent = await asyncio.to_thread(signed_by, library, target, place.host)
                assert (await client.send(sent)).is_success
        await watch.settled()
    verdicts = await connection.fetch("SELECT source, verdict FROM hookd.events")
    assert dict(map(tuple, verdicts)) == {draft.name: "verified" for draft in drafts.values()}
