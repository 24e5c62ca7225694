"""Behind nginx, as deploy/nginx has it, hookd stores what was sent, as it was sent, and answers as without it."""

import asyncio
import io
import json
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Sequence

import aiohttp
import pytest
from yarl import URL

from chassis.database import Connection
from ingest.settings import IngestSettings
from tests.deployed import ALL_STORED, receiver
from tests.fronting import Proxy, a_free_port, needs_nginx, raw
from tests.needs import needs

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]

needs_many_loopbacks = needs(sys.platform == "linux", "only Linux answers on all of 127.0.0.0/8")


@needs_nginx
async def test_nginx_takes_bodies_as_large_as_hookd_does(
    database_url: str, connection: Connection, proxy: Proxy, tls: ssl.SSLContext
) -> None:
    """25 MiB pass through nginx, byte for byte; one byte more is refused with 413, chunked or not."""
    largest = os.urandom(IngestSettings().body_bytes_max)

    async def in_chunks() -> AsyncIterator[bytes]:
        yield largest
        yield b"x"

    async with receiver(database_url) as (_, port), proxy(port) as url, aiohttp.ClientSession() as session:
        async with session.post(url / "demo", data=io.BytesIO(largest), ssl=tls) as answer:
            assert answer.status == 200
        for body in (io.BytesIO(largest + b"x"), in_chunks()):
            async with session.post(url / "demo", data=body, ssl=tls) as answer:
                assert answer.status == 413
                assert await answer.json() == {"error": "the body is larger than 25 MiB"}
    assert [row["payload"] for row in await connection.fetch(ALL_STORED)] == [largest]


@needs_nginx
async def test_nginx_changes_nothing(
    database_url: str, connection: Connection, proxy: Proxy, tls: ssl.SSLContext
) -> None:
    """Behind nginx the target is stored as it was sent: no slash merged, no escape decoded, no dots resolved.

    Every header arrives: _ or . in its name, sent twice, bytes that are no UTF-8; the Host too. A sender that speaks
    HTTP/1.0 and names no host is served as well.
    """
    target = "/demo//a%2Fb/./c/..//%2e%2E/%41?q=%20+%2F&q"
    sent = [("X_Under_Score", "1"), ("X.Dotted", "2"), ("X-Twice", "a"), ("X-Twice", "b"), ("X-Raw", "\xff\xfe")]
    head = "".join(f"{name}: {value}\r\n" for name, value in sent).encode("iso-8859-1")
    requests = (
        b"POST %b HTTP/1.1\r\nHost: a.example:81\r\nConnection: close\r\n%b\r\n" % (target.encode(), head),
        b"POST /demo HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
    )
    async with receiver(database_url) as (_, port), proxy(port) as url:
        for request in requests:
            assert (await raw(url, tls, request)).startswith(b"HTTP/1.1 200")
    row, old = await connection.fetch(ALL_STORED)
    stored = [(name, value) for name, value in json.loads(row["headers"]) if name != "X-Forwarded-For"]
    assert row["target"] == target
    assert [each for each in stored if each[0].startswith("X")] == sent
    assert ("Host", "a.example:81") in stored
    assert (old["target"], old["payload"]) == ("/demo", b"{}")


@needs_nginx
@needs_many_loopbacks
async def test_only_a_trusted_proxy_is_believed(
    database_url: str, connection: Connection, proxy: Proxy, tls: ssl.SSLContext
) -> None:
    """Stored is the sender that nginx saw, whatever it says of itself; without nginx it is not believed either."""
    liar = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with (
        receiver(database_url, trusted_proxies="127.0.0.1") as (_, port),
        proxy(port) as url,
        aiohttp.ClientSession(connector=liar, headers={"X-Forwarded-For": "203.0.113.9"}) as session,
    ):
        for each in (url, URL(f"http://127.0.0.1:{port}")):
            async with session.post(each / "demo", ssl=tls) as answer:
                assert answer.status == 200
    assert [row["remote"] for row in await connection.fetch(ALL_STORED)] == ["127.0.0.2", "127.0.0.2"]


OWN_PAGES = (
    "/-/ready",
    "/-/live",
    "//-/ready",
    "/%2d/ready",
    "/%2D%2Fready",
    "/a/../-/ready",
    "/-//ready",
    "/-/ready?x",
)


@needs_nginx
async def test_own_pages_are_not_for_the_world(database_url: str, proxy: Proxy, tls: ssl.SSLContext) -> None:
    """/-/ready and /-/live answer on hookd's own port and not through nginx, however they are written."""
    async with receiver(database_url) as (_, port), proxy(port) as url, aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/-/ready") as answer:
            assert answer.status == 200
        for path in OWN_PAGES:
            async with session.get(URL(f"{url}{path}", encoded=True), ssl=tls) as answer:
                assert (path, answer.status, await answer.json()) == (path, 404, {"error": "no such page"})
        absolute = b"GET https://x/-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await raw(url, tls, absolute)).startswith(b"HTTP/1.1 404")


@needs_nginx
async def test_nginx_without_a_receiver(proxy: Proxy, tls: ssl.SSLContext) -> None:
    """When no receiver runs, nginx answers as hookd would: 503 with Retry-After, in JSON."""
    async with (
        proxy(a_free_port()) as url,
        aiohttp.ClientSession() as session,
        session.post(url / "demo", data=b"{}", ssl=tls) as answer,
    ):
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert await answer.json() == {"error": "not known to be stored: the receiver is away"}


NOTHING = b""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@needs_nginx
@pytest.mark.parametrize(
    ("answers", "status"),
    [((NOTHING, OK), 200), ((NOTHING, NOTHING), 503), ((AWAY,), 503)],
    ids=["broken", "broken twice", "503"],
)
async def test_what_was_not_answered_is_sent_again(
    proxy: Proxy, tls: ssl.SSLContext, answers: Sequence[bytes], status: int
) -> None:
    """nginx sends a POST once more, unchanged, when its connection broke before any answer; not when that was 503."""
    body = bytes(300_000) + b"the end"  # more than nginx keeps in memory
    requests: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"the end"))
        writer.write(answers[len(requests) - 1])
        writer.close()
        await writer.wait_closed()

    async with (
        await asyncio.start_server(take, "127.0.0.1", 0, limit=2 * len(body)) as fake,
        proxy(fake.sockets[0].getsockname()[1]) as url,
        aiohttp.ClientSession() as session,
        session.post(URL(f"{url}/demo//%2F?%20", encoded=True), data=body, ssl=tls) as answer,
    ):
        assert (answer.status, len(requests)) == (status, len(answers))
    assert all(
        request.startswith(b"POST /demo//%2F?%20 HTTP/1.1\r\n") and request.endswith(body) for request in requests
    )
    assert len(set(requests)) == 1


@needs_nginx
async def test_a_sender_may_leave(proxy: Proxy, tls: ssl.SSLContext) -> None:
    """What a sender sent whole is passed on whole, also when it left before hookd came to it."""
    body = bytes(8 * 1024 * 1024) + b"the end"  # more than sockets hold
    request = b"POST /demo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as held:
        held.setblocking(False)
        async with proxy(held.getsockname()[1]) as url, aiohttp.ClientSession() as session:
            sender = loop.create_task(raw(url, tls, request))
            opened, _ = await loop.sock_accept(held)  # nginx has all of it, then
            sender.cancel()
            async with session.get(url / "-/live", ssl=tls) as answer:
                assert answer.status == 404  # nginx has heard of the departure, then
            received = bytearray()
            with opened:
                while not received.endswith(b"the end"):
                    chunk = await loop.sock_recv(opened, 1024 * 1024)
                    assert chunk
                    received += chunk
                assert received.endswith(body)
                await loop.sock_sendall(opened, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
