"""Handshakes over the wire: a real receiver answers what a sender asks before it sends, and stores nothing of it."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from chassis.database import Connection
from protocol import challenge
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.samples import credentials, sample_delivery
from protocol.signature import with_headers
from tests.receiving import Local, a_listener, hookd_ingest, receiving
from tests.registering import SECRET_KEY, register, wire
from tests.sending import Answer, Sender, head
from tests.storing import stored
from tests.waiting import PATIENCE_SECONDS, in_time

pytestmark = pytest.mark.any_server

GREETING = [name for name, provider in PROVIDERS.items() if provider.handshake is not None]
MODES = ("deferred", "edge", "monitor", "off")
HOST = [("Host", "hooks.example.com")]


@pytest.fixture(scope="module")
async def receiver(url: str, table: Connection) -> AsyncIterator[Local]:
    """A receiver for every provider with a handshake, in every mode: `slack-edge` and so on."""
    for name in GREETING:
        for mode in MODES:
            sample = PROVIDERS[name].sample
            assert sample is not None
            secret = credentials(PROVIDERS[name], time.time()).secret
            await register(table, f"{name}-{mode}", name, secret, mode=mode, options=sample.options)
    async with receiving(url) as receiver:
        yield receiver


def asked(name: str, source: str, at: float) -> Request:
    """The provider's handshake, signed where it signs it."""
    topic = quote(options_of(name).get("topic", ""), safe="")
    token = quote(options_of(name).get("verify_token", ""), safe="")
    queries = {
        "meta": f"hub.mode=subscribe&hub.verify_token={token}&hub.challenge=1158201444",
        "dropbox": "challenge=abc123",
        "x": "crc_token=MTIzNDU2Nzg5MA%3D%3D&nonce=1",
        "websub": f"hub.mode=subscribe&hub.topic={topic}&hub.challenge=c-1&hub.lease_seconds=864000",
    }
    bodies: Mapping[str, object] = {
        "slack": {"type": "url_verification", "challenge": "3eZbrw1a"},
        "zoom": {"event": "endpoint.url_validation", "payload": {"plainToken": "qgg8vlvZRS6UYooatFL8Aw"}},
        "watson-work": {"type": "verification", "challenge": "qwer1234"},
        "discord": {"version": 1, "application_id": "1", "type": 0},
    }
    if name in queries:
        return Request("GET", f"/{source}?{queries[name]}", HOST, b"")
    if name == "microsoft-graph":
        return Request("POST", f"/{source}?validationToken=Validation%3A%20%3Cb%3E%C3%A9%26%2B", HOST, b"")
    draft = Request("POST", f"/{source}", HOST, json.dumps(bodies[name]).encode())
    return PROVIDERS[name].scheme.sign(draft, credentials(PROVIDERS[name], at).key, at, {})


def options_of(name: str) -> Mapping[str, str]:
    sample = PROVIDERS[name].sample
    assert sample is not None
    return sample.options


async def greeted(receiver: Local, table: Connection, request: Request) -> Answer:
    """The answer to what must leave nothing behind."""
    before = await stored(table)
    answer = await receiver.ask(wire(request))
    assert await stored(table) == before
    return answer


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GREETING)
async def test_a_handshake_is_answered_in_the_request(receiver: Local, table: Connection, name: str, mode: str) -> None:
    """In every mode, to the byte as the provider wants it, and nothing of it is stored."""
    at = time.time()
    request = asked(name, f"{name}-{mode}", at)
    secret = credentials(PROVIDERS[name], at).secret
    expected = challenge.answer(PROVIDERS[name], request, [secret], at, options=options_of(name))
    assert expected is not None
    assert expected.status in (200, 204)
    answer = await greeted(receiver, table, request)
    assert (answer.status, answer.body) == (expected.status, expected.body)
    assert {key.lower(): value for key, value in expected.headers}.items() <= answer.headers.items()


@pytest.mark.parametrize("name", GREETING)
async def test_a_delivery_is_stored_beside_handshakes(receiver: Local, table: Connection, name: str) -> None:
    """And answered as the provider wants its deliveries answered."""
    at, source = time.time(), f"{name}-deferred"
    request = sample_delivery(
        PROVIDERS[name], credentials(PROVIDERS[name], at).key, at, target=f"/{source}", options=options_of(name)
    )
    before = await stored(table)
    assert (await receiver.ask(wire(request))).status == PROVIDERS[name].success.status
    assert await stored(table) == before + 1
    row = await table.fetchrow("SELECT * FROM hookd.events WHERE source = $1", source)
    assert row is not None
    assert (row["payload"], row["status"], row["verdict"]) == (request.body, "new", None)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("name", GREETING)
async def test_what_is_neither_handshake_nor_event_is_405(
    receiver: Local, table: Connection, name: str, method: str
) -> None:
    """Whatever a browser, a scanner or a monitor asks; Allow names the methods of events."""
    before = await stored(table)
    answer = await receiver.ask(head(f"/{name}-edge", method=method), to_head=method == "HEAD")
    assert (answer.status, answer.headers["allow"], answer.closes) == (405, "POST", False)
    assert await stored(table) == before


@pytest.mark.parametrize(
    ("name", "status"),
    [("slack", 401), ("zoom", 401), ("watson-work", 401), ("discord", 401), ("meta", 403), ("websub", 404)],
)
async def test_a_forged_handshake_is_refused(receiver: Local, table: Connection, name: str, status: int) -> None:
    """With another signature, verify token or topic; in the mode that judges nothing, too."""
    request = asked(name, f"{name}-off", time.time())
    if name in ("meta", "websub"):
        request = replace(request, target=request.target.replace("hub.verify_token=a", "hub.verify_token=b"))
        request = replace(request, target=request.target.replace("example.com%2Ffeed", "example.com%2Fother"))
    else:
        request = with_headers(request, [(each, "0" * 128) for each in PROVIDERS[name].scheme.headers()[:1]])
    assert (await greeted(receiver, table, request)).status == status


@pytest.mark.parametrize("mode", MODES)
async def test_discord_s_bad_signature_is_401_in_every_mode(receiver: Local, table: Connection, mode: str) -> None:
    """It sends some on purpose, and drops whoever accepts them."""
    at = time.time()
    key = credentials(PROVIDERS["discord"], at).key
    forged = sample_delivery(PROVIDERS["discord"], key, at, fault="bad-signature", target=f"/discord-{mode}")
    assert (await greeted(receiver, table, forged)).status == 401


async def test_a_handshake_comes_in_pieces_too(receiver: Local, table: Connection) -> None:
    """However the network cuts it, and on a connection that is used again."""
    whole = wire(asked("slack", "slack-deferred", time.time()))
    before = await stored(table)
    sender = await receiver.sender()
    for _ in range(2):
        await sender.send(whole[:40], whole[40:-5], whole[-5:])
        assert (await sender.answer()).body == b"3eZbrw1a"
    assert await stored(table) == before


async def test_a_secret_that_was_rotated_greets_as_long_as_it_is_good(
    database_url: str, connection: Connection
) -> None:
    """Watson Work's answer is signed with the secret that signed its question."""
    await register(connection, "watson", "watson-work", "older", "newer")
    async with receiving(database_url) as receiver:
        for secret in ("older", "newer"):
            body = json.dumps({"type": "verification", "challenge": "c"}).encode()
            request = PROVIDERS["watson-work"].scheme.sign(Request("POST", "/watson", HOST, body), secret, 0.0, {})
            answer = await receiver.ask(wire(request))
            signed = hmac.digest(secret.encode(), answer.body, "sha256").hex()
            assert (answer.status, answer.headers["x-outbound-token"]) == (200, signed)


async def test_handshakes_are_counted_and_logged_at_debug(database_url: str, connection: Connection) -> None:
    """One line each, with nothing in it that the sender wrote; the figures tell them from events."""
    await register(connection, "files", "dropbox", "secret")
    with a_listener() as free:
        port = free.getsockname()[1]
    async with hookd_ingest(database_url, metrics_port=port - 1, log_level="debug", secret_key=SECRET_KEY) as receiver:
        assert (await receiver.get("/files?challenge=%0aevil")).body == b"\nevil"
        line = await receiver.hookd.logged("handshake.answered")
        assert {key: line[key] for key in ("source", "status", "level")} == {
            "source": "files",
            "status": 200,
            "level": "debug",
        }
        assert "evil" not in str(line)

        async def scrape() -> str:
            shown = await Sender.to(port)
            receiver.senders.append(shown)
            await shown.send(head("/metrics", [(b"Connection", b"close")], method="GET"))
            return (await shown.rest()).decode()

        wanted = 'hookd_handshakes_total{source="files",status="200"} 1.0'
        await in_time(scrape, lambda shown: wanted in shown, PATIENCE_SECONDS)


async def test_a_large_body_is_looked_into_beside_the_others(database_url: str, connection: Connection) -> None:
    """Of 2 MiB and more, too: what it says decides, not how long it is."""
    await register(connection, "slack", "slack", "secret", mode="edge")
    at = time.time()
    body = json.dumps({"type": "url_verification", "challenge": "c", "filler": "a" * 2**21}).encode()
    request = PROVIDERS["slack"].scheme.sign(Request("POST", "/slack", HOST, body), "secret", at, {})
    async with receiving(database_url) as receiver:
        large, small = await asyncio.gather(receiver.ask(wire(request)), receiver.post("/demo"))
    assert (large.status, large.body, small.status) == (200, b"c", 200)
    assert await stored(connection) == 1


async def test_nothing_of_a_handshake_reaches_the_log_by_default(receiver: Local, table: Connection) -> None:
    """It is no news."""
    with capture_logs() as lines:
        await greeted(receiver, table, asked("dropbox", "dropbox-off", time.time()))
    assert [line for line in lines if line["log_level"] != "debug"] == []
