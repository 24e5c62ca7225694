"""Mode edge: judged before the answer. What is refused is kept as a failed event, so that it can be judged again."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from chassis.database import Connection, Unavailable
from ingest import keeping
from ingest.batch import Refused, Row
from ingest.keeping import Keeping
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.samples import credentials, sample_delivery
from protocol.source import FETCHING
from tests.breaking import away, locked
from tests.commands import Hookd
from tests.factories import counts
from tests.receiving import Local, a_listener, hookd_ingest, receiving
from tests.registering import SECRET_KEY, register, wire
from tests.sending import MIB, Headers, Sender, head, post
from tests.storing import row_of, stored
from tests.waiting import PATIENCE_SECONDS, in_time

any_server = pytest.mark.any_server
# Of Discord what is not verified is refused as its handshakes are.
JUDGED = [name for name, each in PROVIDERS.items() if each.credential and name not in (*FETCHING, "discord")]
SECRET = b"a-secret-of-the-sample"


def sample_of(name: str, *, forged: bool = False) -> Request:
    provider, at = PROVIDERS[name], time.time()
    assert provider.sample is not None
    return sample_delivery(
        provider,
        credentials(provider, at).key,
        at,
        fault="bad-signature" if forged else None,
        target=f"/{name}",
        options=provider.sample.options,
    )


@pytest.fixture(scope="module")
async def receiver(url: str, table: Connection) -> AsyncIterator[Local]:
    """A receiver that judges every provider's deliveries before it answers."""
    for name in (*JUDGED, "discord"):
        sample = PROVIDERS[name].sample
        assert sample is not None
        secret = credentials(PROVIDERS[name], time.time()).secret
        await register(table, name, name, secret, mode="edge", options=sample.options)
    async with receiving(url) as receiver:
        yield receiver


async def failed(connection: Connection, source: str, count: int = 1) -> list[Any]:
    """The source's failed rows, once there are so many."""
    find = "SELECT * FROM hookd.events WHERE source = $1 AND status = 'failed' ORDER BY id"
    return await in_time(lambda: connection.fetch(find, source), lambda rows: len(rows) >= count, PATIENCE_SECONDS)


@any_server
@pytest.mark.parametrize("name", [*JUDGED, "discord"])
async def test_what_the_sender_signed_is_stored_as_verified(receiver: Local, table: Connection, name: str) -> None:
    """Its row waits like any other, and says that it was judged."""
    request = sample_of(name)
    answer = await receiver.ask(wire(request))
    assert answer.status == PROVIDERS[name].success.status
    row = await table.fetchrow("SELECT * FROM hookd.events WHERE source = $1 AND status = 'new'", name)
    assert row is not None
    assert (row["verdict"], row["payload"], row["target"]) == ("verified", request.body, request.target)


@any_server
@pytest.mark.parametrize("name", JUDGED)
async def test_what_somebody_else_signed_is_refused_and_kept(receiver: Local, table: Connection, name: str) -> None:
    """401 says which check failed and quotes no secret; the row is failed, byte for byte what was sent."""
    request = sample_of(name, forged=True)
    answer = await receiver.ask(wire(request))
    assert answer.status == 401
    assert SECRET not in answer.body
    (row,) = await failed(table, name)
    assert answer.error == f"not verified: {row['verdict']}"
    assert row["reason"] == f"refused at the edge: {row['verdict']}"
    assert row["finished_at"] is not None
    assert (row["method"], row["target"], row["payload"]) == (request.method, request.target, request.body)
    sent = [[name, value] for name, value in request.headers]
    assert json.loads(row["headers"]) == [*sent, ["Content-Length", str(len(request.body))]]
    assert str(row["remote"]) == "127.0.0.1"


AUTHORIZED: Headers = [(b"Authorization", b"secret")]


@any_server
async def test_what_was_refused_can_be_judged_again(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """`hookd replay` finds it, and it is new with the very bytes that were sent."""
    await register(connection, "shop", "token", "other", mode="edge")
    body, headers = bytes(range(256)), [(b"X-Any", bytes(range(128, 256))), *AUTHORIZED]
    async with receiving(database_url) as receiver:
        assert (await receiver.post("/shop/x?y=%00", body, headers)).status == 401
        (kept,) = await failed(connection, "shop")
        ran = Hookd(tmp_path, {"HOOKD_DATABASE_URL": database_url})("replay", str(kept["id"]))
        assert ran.code == 0, ran.err
        await connection.execute("UPDATE hookd.sources SET mode = 'off'")
        accepted = await receiver.post_until(200, "/shop")
        assert accepted.status == 200
        row = await row_of(connection, await receiver.post("/shop/x?y=%00", body, headers))
    replayed = await connection.fetchrow("SELECT * FROM hookd.events WHERE id = $1", kept["id"])
    assert replayed is not None
    for name in ("status", "source", "method", "target", "headers", "payload", "remote", "event_type", "delivery_id"):
        assert replayed[name] == row[name], name


@any_server
@pytest.mark.parametrize("rows_max", [0, 1, 3])
async def test_no_more_is_kept_than_allowed(database_url: str, connection: Connection, rows_max: int) -> None:
    """To the row, for each source; the answer is the same, and counters and figures tell what was kept."""
    with a_listener() as free:
        port = free.getsockname()[1]
    for name in ("shop", "other"):
        await register(connection, name, "token", "secret", mode="edge")
    settings = {"refused_rows_max": rows_max, "secret_key": SECRET_KEY, "metrics_port": port - 1}
    async with hookd_ingest(database_url, **settings) as receiver:

        async def told(outcome: str, count: int) -> None:
            async def scrape() -> str:
                shown = await Sender.to(port)
                receiver.senders.append(shown)
                await shown.send(head("/metrics", [(b"Connection", b"close")], method="GET"))
                return (await shown.rest()).decode()

            wanted = f'hookd_refused_kept_total{{outcome="{outcome}"}} {count}.0'
            await in_time(scrape, lambda shown: wanted in shown, PATIENCE_SECONDS)

        for _ in range(rows_max):
            assert (await receiver.post("/shop")).status == 401
        assert len(await failed(connection, "shop", rows_max)) == rows_max
        for _ in range(2):
            assert (await receiver.post("/shop")).status == 401
        await told("full", 2)
        assert (await receiver.post("/other")).status == 401
        if rows_max:
            await told("kept", rows_max + 1)
    kept = {("shop", "failed"): rows_max, ("other", "failed"): 1} if rows_max else {}
    assert await counts(connection) == kept
    assert await connection.fetchval("SELECT count(*) FROM hookd.refused") == sum(kept.values())


async def test_no_answer_waits_for_what_is_kept(database_url: str, connection: Connection) -> None:
    """While nothing can be written a forged request is answered all the same, and kept later."""
    await register(connection, "shop", "token", "secret", mode="edge")
    async with receiving(database_url) as receiver:
        async with locked(connection):
            for _ in range(5):
                assert (await receiver.post("/shop")).status == 401
        assert len(await failed(connection, "shop", 5)) == 5


async def test_what_is_refused_while_the_database_is_away_is_kept_when_it_is_back(
    server_url: str, database_url: str, connection: Connection
) -> None:
    """The last knowledge judges."""
    await register(connection, "shop", "token", "secret", mode="edge")
    async with receiving(database_url) as receiver:
        assert (await receiver.post("/shop", b"1")).status == 401
        await failed(connection, "shop")
        async with away(server_url, connection):
            assert (await receiver.post("/shop", b"2")).status == 401
        assert [row["payload"] for row in await failed(connection, "shop", 2)] == [b"1", b"2"]


async def test_a_receiver_that_stops_keeps_what_waits(database_url: str, connection: Connection) -> None:
    """It was answered a moment before."""
    await register(connection, "shop", "token", "secret", mode="edge")
    async with receiving(database_url) as receiver:
        for _ in range(20):
            assert (await receiver.post("/shop")).status == 401
    assert await stored(connection) == 20


async def test_a_day_that_is_missing_is_made_for_what_is_refused(database_url: str, connection: Connection) -> None:
    """As for what is stored."""
    await register(connection, "shop", "token", "secret", mode="edge")
    for row in await connection.fetch("SELECT hookd.day_name('events', day) AS name FROM hookd.days()"):
        await connection.execute(f"DROP TABLE hookd.{row['name']}, hookd.{row['name'].replace('events', 'attempts')}")
    async with receiving(database_url) as receiver:
        assert (await receiver.post("/shop")).status == 401
        await failed(connection, "shop")


@pytest.mark.any_server
@pytest.mark.parametrize("provider", ["github", "slack"])
@pytest.mark.parametrize("mode", ["deferred", "monitor", "off"])
async def test_in_no_other_mode_does_the_receiver_judge(
    database_url: str, connection: Connection, mode: str, provider: str
) -> None:
    """What nobody signed is stored, without a verdict; also where it was looked at for a handshake."""
    await register(connection, "shop", provider, "secret", mode=mode)
    async with receiving(database_url) as receiver:
        row = await row_of(connection, await receiver.post("/shop"))
    assert (row["status"], row["verdict"]) == ("new", None)


@pytest.mark.any_server
async def test_a_source_without_secrets_is_closed(database_url: str, connection: Connection) -> None:
    """Nothing can be verified, so nothing is let in."""
    await register(connection, "shop", "github", mode="edge")
    async with receiving(database_url) as receiver:
        answer = await receiver.post("/shop")
        assert (answer.status, answer.error) == (401, "not verified: header: no X-Hub-Signature-256 header")


@pytest.mark.any_server
async def test_a_refused_connection_can_be_used_again(database_url: str, connection: Connection) -> None:
    """Its body was read."""
    await register(connection, "shop", "token", "secret", mode="edge")
    async with receiving(database_url) as receiver:
        sender = await receiver.sender()
        await sender.send(post("/shop"), post("/shop", b"{}", AUTHORIZED))
        assert (await sender.answer()).status == 401
        await row_of(connection, await sender.answer())


@pytest.mark.any_server
async def test_any_secret_of_a_rotation_will_do(database_url: str, connection: Connection) -> None:
    """The old one as long as it is good."""
    await register(connection, "shop", "token", "older", "secret", mode="edge")
    async with receiving(database_url) as receiver:
        for secret, status in ((b"older", 200), (b"secret", 200), (b"third", 401)):
            assert (await receiver.post("/shop", b"", [(b"Authorization", secret)])).status == status


async def test_a_body_of_25_mib_is_judged_and_kept(database_url: str, connection: Connection) -> None:
    """It is hashed beside the loop, and waits for its keeping within the queue's bytes."""
    await register(connection, "shop", "github", "secret", mode="edge")
    body = b"a" * (25 * MIB)
    signed = PROVIDERS["github"].scheme.sign(Request("POST", "/shop", [("Host", "h")], body), "secret", 0.0, {})
    async with receiving(database_url) as receiver:
        assert (await receiver.ask(wire(signed))).status == 200
        assert (await receiver.post("/shop", body, [(b"X-Hub-Signature-256", b"sha256=00")])).status == 401
        (row,) = await failed(connection, "shop")
        assert row["payload"] == body


class Held:
    """A database that keeps nothing until it is open."""

    def __init__(self, *, refusing: bool = False) -> None:
        self.open = asyncio.Event()
        self.asked = asyncio.Event()
        self.kept: list[Row] = []
        self.failures = 0
        self.refusing = refusing

    async def keep(self, row: Row, rows_max: int, timeout: float) -> bool:
        self.asked.set()
        await self.open.wait()
        if self.refusing:
            raise Refused("no such day")
        if self.failures:
            self.failures -= 1
            raise Unavailable("away")
        self.kept.append(row)
        return len(self.kept) <= rows_max


async def kept_of(held: Held, sizes: list[int], rows_max: int = 10_000) -> Keeping:
    """The queue after these were put behind one that is being kept, and all that waited was done."""
    queue = Keeping(held.keep, rows_max)
    running = asyncio.create_task(queue.run())
    queue.put("shop", (-1,), 0)
    await held.asked.wait()
    for number, size in enumerate(sizes):
        queue.put("shop", (number,), size)
    held.open.set()
    await queue.finish()
    running.cancel()
    return queue


@pytest.mark.parametrize(
    ("sizes", "dropped"),
    [
        ([1] * keeping.ROWS_MAX, 0),
        ([1] * (keeping.ROWS_MAX + 1), 1),
        ([keeping.BYTES_MAX], 0),
        ([keeping.BYTES_MAX, 1], 1),
        ([keeping.BYTES_MAX + 1, 1], 1),
    ],
    ids=["rows", "a row more", "bytes", "a byte more", "too large alone"],
)
async def test_what_waits_is_bounded_in_rows_and_bytes(sizes: list[int], dropped: int) -> None:
    """What comes beyond is dropped and counted, and what waits is kept in its order."""
    held = Held()
    queue = await kept_of(held, sizes)
    assert (queue.outcomes["kept"], queue.outcomes["dropped"]) == (1 + len(sizes) - dropped, dropped)
    assert held.kept == sorted(held.kept)


async def test_a_failure_is_tried_again() -> None:
    """In its turn, until the database answers."""
    held = Held()
    held.failures = 1
    queue = await kept_of(held, [1])
    assert queue.outcomes == {"kept": 2}
    assert held.kept == [(-1,), (0,)]


async def test_a_row_that_is_refused_holds_up_no_other() -> None:
    """It is dropped, and counted."""
    assert (await kept_of(Held(refusing=True), [1, 1])).outcomes == {"dropped": 3}


async def test_a_source_that_has_its_rows_is_not_asked_about_each_time() -> None:
    """Forged requests come by the thousand: they cost the database nothing then."""
    held = Held()
    queue = await kept_of(held, [1, 1], rows_max=1)
    assert queue.outcomes == {"kept": 1, "full": 2}
    for _ in range(5):
        queue.put("shop", (UUID(int=0),), 1)
    assert queue.outcomes["full"] == 7
    assert len(held.kept) == 3
