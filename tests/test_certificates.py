"""Amazon SNS: by which certificate a message is judged, where that comes from, how a subscription is confirmed."""

import asyncio
import base64
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from chassis.database import Connection, Database
from processor.running import runner
from processor.sifting.certificates import ANEW_SECONDS, COMING_MAX, FAILED_MAX, FETCHES_MAX, Amazon, Coming, Unfetched
from protocol import keys
from protocol.providers import PROVIDERS
from protocol.samples import credentials, sample_delivery
from protocol.schemes.sns import canonical
from tests.factories import an_event, row_of
from tests.processing import Handled, Watch, processing
from tests.registering import a_source

pytestmark = pytest.mark.any_server

HOST = "sns.eu-central-1.amazonaws.com"
CERTIFICATE = f"https://{HOST}/SimpleNotificationService-sample.pem"
CONFIRM = f"https://{HOST}/?Action=ConfirmSubscription&Token=abc"
TOPIC = "arn:aws:sns:eu-central-1:123456789012:lighthouse"
CONFIRMED = "confirmed the subscription"
COUNT = "(SELECT count(*) FROM hookd.events WHERE id = ANY($1)"
COPIES = """
INSERT INTO hookd.events (id, source, received_at, due_at, method, target, headers, remote, payload)
SELECT (left(id::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, source, received_at, due_at, method, target, headers,
       remote, payload
  FROM hookd.events, generate_series(1, $2::int) AS n
 WHERE id = $1
"""


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


class LeadsHere(AbstractResolver):
    """Whatever the name is, it is this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [ResolveResult(hostname=host, host="127.0.0.1", port=self._port, family=family, proto=0, flags=0)]

    async def close(self) -> None: ...


@dataclass
class Clock:
    """The system's, and so many seconds more."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass
class Aws:
    """A server that has Amazon's name, by an authority of the test's; and those who fetch from it."""

    amazon: Amazon
    resolver: LeadsHere
    clock: Clock
    answers: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))  # released for each one asked for

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        target = head.split(b" ")[1].decode()
        self.asked.append(target)
        self.begun.release()
        await self.gate.wait()
        writer.write(self.answers.get(target, answer(404)))
        writer.close()


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers))
    return head.encode() + b"\r\n" + body


def pem_of(at: float) -> bytes:
    return credentials(PROVIDERS["aws-sns"], at).certificate or b""


@asynccontextmanager
async def an_aws(*names: str, trusted: bool = True) -> AsyncIterator[Aws]:
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*(names or (HOST,))).configure_cert(theirs)
    trust = ssl.create_default_context()
    if trusted:
        authority.configure_trust(trust)
    async with AsyncExitStack() as leaving:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await served.serve(reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=theirs)
        leaving.callback(server.close)
        resolver = LeadsHere(server.sockets[0].getsockname()[1])
        clock = Clock()
        served = Aws(Amazon(resolver=resolver, trust=trust, clock=clock), resolver, clock)
        served.gate.set()
        served.answers["/SimpleNotificationService-sample.pem"] = answer(200, pem_of(time.time()))
        yield served
        await served.amazon.close()


async def fetched(amazon: Amazon, url: str) -> bytes:
    """The certificate, when it is there."""
    while True:
        try:
            return amazon.certificate(url)
        except Coming as coming:
            await asyncio.wait([coming.end])


@pytest.fixture
async def aws() -> AsyncIterator[Aws]:
    async with an_aws() as aws:
        yield aws


async def a_message(connection: Connection, delivery: str = "0001", **fields: Any) -> UUID:
    """A message that SNS sent, signed with its key; `fields`: other than the sample's."""
    provider, at = PROVIDERS["aws-sns"], time.time()
    key = credentials(provider, at).key
    request = sample_delivery(provider, key, at, delivery=delivery)
    document = json.loads(request.body) | fields
    document["Signature"] = base64.b64encode(keys.signed(key, canonical(document), "sha256")).decode()
    return await an_event(
        connection,
        source="aws-sns",
        received=datetime.now(UTC),
        headers=[list(header) for header in request.headers],
        payload=json.dumps(document).encode(),
    )


async def a_confirmation(connection: Connection, **fields: Any) -> UUID:
    return await a_message(
        connection, **{"Type": "SubscriptionConfirmation", "SubscribeURL": CONFIRM, "Token": "abc", **fields}
    )


# Messages


async def test_messages(aws: Aws, database: Database, connection: Connection, watch: Watch, handled: Handled) -> None:
    """Messages are judged by the certificate they name, which is fetched once; copies among them are duplicates."""
    await a_source(connection, "aws-sns")
    ids = [await a_message(connection, f"000{n}") for n in range(5)]
    forged = await a_message(connection, "0009")
    await connection.execute(
        "UPDATE hookd.events SET payload = replace(payload::text, $2, $3)::bytea WHERE id = $1",
        forged, b"The lamp is lit".hex(), b"The lamp is out".hex(),
    )  # fmt: skip
    async with processing(database, handled.note, amazon=aws.amazon):
        settled = await watch.settled()
        copy = await a_message(connection, "0001")
        assert (await watch.settled())[copy] == ("processed", f"duplicate of {ids[1]}")
    assert {settled[each] for each in ids} == {("processed", None)}
    assert settled[forged] == ("failed", "unverified: signature: Signature does not fit the secret")
    assert sorted(handled.ids) == sorted(ids)
    assert aws.asked == ["/SimpleNotificationService-sample.pem"]


async def test_a_message_that_nobody_can_read(
    aws: Aws, database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """A row whose headers are none fails alone."""
    await a_source(connection, "aws-sns")
    bad = await an_event(connection, source="aws-sns", headers={"a": 1}, payload=b"{}")
    worse = await an_event(connection, source="aws-sns", headers=[1], payload=b'{"Type": "x"}')
    good = await a_message(connection)
    async with processing(database, handled.note, amazon=aws.amazon, attempts_max=1):
        settled = await watch.settled()
    assert (settled[bad][0], settled[worse][0], settled[good]) == ("failed", "failed", ("processed", None))


async def test_it_comes_later(
    aws: Aws, database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """A certificate that cannot be fetched now fails no event: it is tried again."""
    good = aws.answers.pop("/SimpleNotificationService-sample.pem")
    await a_source(connection, "aws-sns")
    event_id = await a_message(connection)
    async with processing(database, handled.note, amazon=aws.amazon):
        await watch.until("attempts = 1 AND held_by IS NULL")
        row = await row_of(connection, event_id)
        assert (row["status"], row["reason"], row["verdict"]) == ("new", "Amazon's host: answered with 404", None)
        aws.answers["/SimpleNotificationService-sample.pem"] = good
        aws.clock.ahead = ANEW_SECONDS + 1
        await connection.execute("UPDATE hookd.events SET due_at = now()")
        assert await watch.settled() == {event_id: ("processed", None)}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"SigningCertURL": "https://evil.example/a.pem"}, "certificate: SigningCertURL is not one of Amazon's"),
        ({"SigningCertURL": f"http://{HOST}/a.pem"}, "certificate: SigningCertURL is not one of Amazon's"),
        ({"SigningCertURL": f"https://{HOST}.evil/a.pem"}, "certificate: SigningCertURL is not one of Amazon's"),
        ({"TopicArn": "arn:aws:sns:eu-central-1:1:evil"}, "topic: the message is of another topic than the source's"),
    ],
)
async def test_nothing_is_fetched_for_others(
    fields: dict[str, str],
    reason: str,
    aws: Aws,
    database: Database,
    connection: Connection,
    watch: Watch,
    handled: Handled,
) -> None:
    """What names another host than Amazon's, or is of another topic, has nothing fetched, nor looked up."""
    await a_source(connection, "aws-sns")
    event_id = await a_message(connection, **fields)
    async with processing(database, handled.note, amazon=aws.amazon):
        assert await watch.settled() == {event_id: ("failed", f"unverified: {reason}")}
    assert (aws.resolver.asked, handled.ids) == ([], [])


async def test_off(aws: Aws, database: Database, connection: Connection, watch: Watch, handled: Handled) -> None:
    """A source that is not judged has nothing fetched, and confirms nothing: its handler sees the message."""
    await a_source(connection, "aws-sns", mode="off")
    event_id = await a_confirmation(connection)
    async with processing(database, handled.note, amazon=aws.amazon):
        assert await watch.settled() == {event_id: ("processed", None)}
    assert (aws.asked, handled.ids) == ([], [event_id])


async def test_nobody_waits_for_a_certificate(
    aws: Aws, database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """While Amazon's host keeps many waiting for what does not exist, one worker still does all else."""
    await a_source(connection, "aws-sns")
    genuine = await a_message(connection, "0001")
    async with processing(database, handled.note, amazon=aws.amazon, concurrency=1):
        await watch.settled()
        aws.gate.clear()
        forged = [
            await a_message(connection, f"1{n:03}", SigningCertURL=f"https://{HOST}/{n % 10}.pem") for n in range(30)
        ]
        others = [await an_event(connection), await a_message(connection, "0002")]
        await watch.until(f"{COUNT} AND status = 'processed') = 2", others)
        assert sorted(handled.ids) == sorted([genuine, *others])
        aws.gate.set()
        await watch.until(f"{COUNT} AND reason LIKE 'Amazon''s host: %') = 30", forged)
    assert sorted(aws.asked[1:]) == sorted(f"/{n}.pem" for n in range(10))


async def test_more_than_may_wait(
    aws: Aws, database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """Of a backlog 1,000 wait for their certificate; the others are handed back, and handled none the less."""
    await a_source(connection, "aws-sns")
    await connection.execute(COPIES, await a_message(connection), runner.PARKED_MAX)
    aws.gate.clear()
    async with processing(database, handled.note, amazon=aws.amazon):
        await watch.until("held_by IS NULL AND claims > 0")
        aws.gate.set()
        settled = await watch.settled()
    assert [status for status, _ in settled.values()] == ["processed"] * (runner.PARKED_MAX + 1)
    assert len(aws.asked) == 1


# Subscriptions


async def test_a_subscription_is_confirmed(
    aws: Aws, database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """A verified SubscriptionConfirmation is confirmed by fetching its URL, and no handler sees it."""
    aws.answers[CONFIRM.removeprefix(f"https://{HOST}")] = answer(200, b"<ConfirmSubscriptionResponse/>")
    await a_source(connection, "aws-sns")
    event_id = await a_confirmation(connection)
    async with processing(database, handled.note, amazon=aws.amazon):
        assert await watch.settled() == {event_id: ("processed", CONFIRMED)}
    assert aws.asked == ["/SimpleNotificationService-sample.pem", "/?Action=ConfirmSubscription&Token=abc"]
    assert (await row_of(connection, event_id))["verdict"] == "verified"
    assert handled.ids == []


async def test_a_subscription_is_confirmed_later(
    aws: Aws, database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """A confirmation that does not succeed is tried again."""
    await a_source(connection, "aws-sns")
    event_id = await a_confirmation(connection)
    async with processing(database, handled.note, amazon=aws.amazon):
        await watch.until("attempts = 1 AND held_by IS NULL AND verdict = 'verified'")
        assert (await row_of(connection, event_id))["reason"] == "Amazon's host: answered with 404"
        aws.answers[CONFIRM.removeprefix(f"https://{HOST}")] = answer(200)
        aws.clock.ahead = ANEW_SECONDS + 1
        await connection.execute("UPDATE hookd.events SET due_at = now()")
        assert await watch.settled() == {event_id: ("processed", CONFIRMED)}


async def test_a_forged_subscription(
    aws: Aws, database: Database, connection: Connection, watch: Watch, handled: Handled
) -> None:
    """What is not verified confirms nothing; nor does a verified one whose URL is another's."""
    await a_source(connection, "aws-sns")
    forged = await a_confirmation(connection, Token="abd")
    await connection.execute(
        "UPDATE hookd.events SET payload = replace(payload::text, $2, $3)::bytea WHERE id = $1",
        forged, b'"abd"'.hex(), b'"abc"'.hex(),
    )  # fmt: skip
    elsewhere = await a_confirmation(connection, SubscribeURL="https://evil.example/confirm")
    async with processing(database, handled.note, amazon=aws.amazon):
        settled = await watch.settled()
    assert settled[forged][0] == "failed"
    assert settled[elsewhere] == ("processed", None)
    assert aws.asked == ["/SimpleNotificationService-sample.pem"]


# What is fetched, and what is not


async def test_together(aws: Aws) -> None:
    """However many want a certificate at once, it is fetched once; and one who leaves takes it from nobody."""
    aws.gate.clear()
    wanted = [asyncio.create_task(fetched(aws.amazon, CERTIFICATE)) for _ in range(20)]
    await aws.begun.acquire()
    wanted[0].cancel()
    aws.gate.set()
    assert set(await asyncio.gather(*wanted[1:])) == {pem_of(time.time())}
    assert len(aws.asked) == 1


async def test_a_few_at_once(aws: Aws) -> None:
    """Of many certificates 4 are fetched at once, and 64 wait at most: who asks for more is refused, and asks again."""
    aws.gate.clear()
    wanted = [asyncio.create_task(fetched(aws.amazon, f"https://{HOST}/{n}.pem")) for n in range(COMING_MAX)]
    for _ in range(FETCHES_MAX):
        await aws.begun.acquire()
    with pytest.raises(Unfetched, match="64 other files are asked for"):
        aws.amazon.certificate(CERTIFICATE)
    assert len(aws.asked) == FETCHES_MAX
    aws.gate.set()
    assert {str(each) for each in await asyncio.gather(*wanted, return_exceptions=True)} == {"answered with 404"}
    assert await fetched(aws.amazon, CERTIFICATE) == pem_of(time.time())


async def test_what_failed_is_not_asked_for_again(aws: Aws) -> None:
    """For a minute, that is; and so it is for the latest 256 that failed."""
    for _ in range(3):
        with pytest.raises(Unfetched, match="answered with 404"):
            await fetched(aws.amazon, f"https://{HOST}/none.pem")
    assert aws.asked == ["/none.pem"]
    aws.clock.ahead = ANEW_SECONDS + 1
    with pytest.raises(Unfetched, match="answered with 404") as refused:
        await fetched(aws.amazon, f"https://{HOST}/none.pem")
    assert 0 < refused.value.after <= ANEW_SECONDS
    assert aws.asked == ["/none.pem"] * 2
    for n in range(FAILED_MAX):
        with pytest.raises(Unfetched):
            await fetched(aws.amazon, f"https://{HOST}/{n}.pem")
    with pytest.raises(Unfetched):
        await fetched(aws.amazon, f"https://{HOST}/none.pem")
    assert aws.asked.count("/none.pem") == 3


async def test_kept_as_long_as_it_is_valid(aws: Aws) -> None:
    """A certificate that has run out is fetched again, a minute later; at most 32 are kept, the latest."""
    long_ago = keys.self_signed(keys.sample_rsa(), 19000)
    aws.answers["/SimpleNotificationService-sample.pem"] = answer(200, long_ago)
    for ahead, asked in ((0, 1), (0, 1), (ANEW_SECONDS + 1, 2)):
        aws.clock.ahead = ahead
        assert await fetched(aws.amazon, CERTIFICATE) == long_ago
        assert len(aws.asked) == asked
    for n in range(33):
        aws.answers[f"/{n}.pem"] = answer(200, pem_of(time.time()))
        await fetched(aws.amazon, f"https://{HOST}/{n}.pem")
    before = len(aws.asked)
    await fetched(aws.amazon, f"https://{HOST}/1.pem")
    await fetched(aws.amazon, f"https://{HOST}/32.pem")
    assert len(aws.asked) == before
    await fetched(aws.amazon, f"https://{HOST}/0.pem")
    assert len(aws.asked) == before + 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer(302, b"", "Location: https://sns.eu-central-1.amazonaws.com/other.pem"), "answered with 302"),
        (answer(200, b"x" * (keys.CERTIFICATE_BYTES_MAX + 1)), "more than 65536 bytes"),
        (answer(200, b"x" * keys.CERTIFICATE_BYTES_MAX), "what is there is no certificate"),
        (b"garbage\r\n\r\n", "ServerDisconnectedError|BadHttpMessage|ClientResponseError"),
    ],
)
async def test_what_is_no_certificate(given: bytes, why: str, aws: Aws) -> None:
    """Redirects are not followed, nothing large is read, nothing but a certificate is kept."""
    aws.answers |= {"/SimpleNotificationService-sample.pem": given, "/other.pem": answer(200, pem_of(time.time()))}
    with pytest.raises(Unfetched, match=why):
        await fetched(aws.amazon, CERTIFICATE)
    assert len(aws.asked) == 1


@pytest.mark.parametrize(("names", "trusted"), [(("sns.other.amazonaws.com",), True), ((HOST,), False)])
async def test_whose_certificate_the_server_has(names: tuple[str, ...], trusted: bool) -> None:
    """A server that cannot show to be Amazon's is asked for nothing."""
    async with an_aws(*names, trusted=trusted) as aws:
        with pytest.raises(Unfetched, match="ClientConnectorCertificateError"):
            await fetched(aws.amazon, CERTIFICATE)
        assert aws.asked == []


async def test_whatever_goes_wrong_is_not_tried_at_once_again(aws: Aws) -> None:
    """Not even a mistake of ours keeps a row asking for its certificate without an end."""

    class Broken(LeadsHere):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            self.asked.append(host)
            raise RuntimeError

    resolver = Broken(0)
    amazon = Amazon(resolver=resolver)
    for _ in range(3):
        with pytest.raises(Unfetched, match="RuntimeError"):
            await fetched(amazon, CERTIFICATE)
    assert resolver.asked == [HOST]
