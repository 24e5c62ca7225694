"""A webhook answered with 2xx is a committed row, byte for byte what was sent, with what it says of itself."""

import gzip
import hashlib
import json
import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.database import Connection
from protocol.providers import PROVIDERS
from tests.breaking import away
from tests.databases import execute
from tests.needs import needs
from tests.receiving import Local, a_listener, hookd_ingest, receiving
from tests.sending import MIB, Headers, Sender, chunked, cut, head, one_by_one, post
from tests.storing import row_of

any_server = pytest.mark.any_server

any_bytes = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOKEN = st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1, max_size=20).map(lambda name: b"X-" + name.encode())
VALUE = st.binary(max_size=60).map(lambda value: bytes(byte for byte in value if byte == 9 or 32 <= byte != 127))
PLACES = st.lists(st.integers(0, 10_000), max_size=8)


async def test_the_answer_is_the_row_s_id(receiver: Local, table: Connection) -> None:
    """200, in JSON, nothing but the id."""
    answer = await receiver.post("/demo", b"hello")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {"id": str(answer.id)}
    row = await row_of(table, answer)
    assert (row["source"], row["method"], row["target"], row["payload"]) == ("demo", "POST", "/demo", b"hello")
    assert (row["status"], row["attempts"], row["claims"], row["held_by"]) == ("new", 0, 0, None)


@any_bytes
@given(body=st.binary(max_size=2000), places=PLACES)
async def test_any_body_is_stored_byte_for_byte(
    receiver: Local, table: Connection, body: bytes, places: Sequence[int]
) -> None:
    """Whatever the bytes, and however the network cuts them."""
    answer = await receiver.ask(*cut(post("/demo", body), places))
    assert (await row_of(table, answer))["payload"] == body


@pytest.mark.any_server
@any_bytes
@given(body=st.binary(max_size=2000), chunks=PLACES, places=PLACES)
async def test_any_body_is_stored_byte_for_byte_in_any_chunks(
    receiver: Local, table: Connection, body: bytes, chunks: Sequence[int], places: Sequence[int]
) -> None:
    """The chunks' edges are no part of it, wherever they and the network's are."""
    answer = await receiver.ask(*cut(chunked("/demo", cut(body, chunks)), places))
    assert (await row_of(table, answer))["payload"] == body


@pytest.mark.any_server
@pytest.mark.parametrize(
    "request_bytes",
    [
        post("/demo", bytes(range(256)), [(b"X-Any", bytes(range(128, 256)))]),
        post("/demo", b""),
        chunked("/demo/x?y=%00", [b"\0", bytes(range(256)), b"\r\n0\r\n\r\n"], trailers=[(b"X-Last", b"1")]),
        head("/demo", [(b"Transfer-Encoding", b"chunked")]) + b"3;name=value\r\nabc\r\n0003\r\ndef\r\n0\r\n\r\n",
        b"\r\n" + post("/demo", b"after an empty line"),
        post("/demo", b"abc", [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]),
        post("http://elsewhere/demo", b"abc"),
        post("/demo", b"abc", version="1.0"),
    ],
    ids=["any bytes", "empty", "chunked", "odd chunks", "empty line", "upgrade", "absolute", "1.0"],
)
async def test_the_same_bytes_make_the_same_row_whole_and_one_at_a_time(
    receiver: Local, table: Connection, request_bytes: bytes
) -> None:
    """How a request is cut into segments changes nothing."""
    rows = []
    for parts in ([request_bytes], one_by_one(request_bytes)):
        row = await row_of(table, await receiver.ask(*parts))
        rows.append({name: value for name, value in row.items() if name not in ("id", "received_at", "due_at")})
    assert rows[0] == rows[1]


@any_bytes
@given(headers=st.lists(st.tuples(TOKEN, VALUE), max_size=20))
async def test_headers_are_stored_in_their_order_byte_for_byte(
    receiver: Local, table: Connection, headers: Headers
) -> None:
    """Names as sent, repeats kept, any byte that HTTP allows; only the white space around a value is not kept."""
    row = await row_of(table, await receiver.post("/demo", b"", headers))
    kept = [[name.decode("latin-1"), value.strip(b" \t").decode("latin-1")] for name, value in headers]
    assert json.loads(row["headers"]) == [["Host", "hookd"], *kept, ["Content-Length", "0"]]


@any_bytes
@given(rest=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=60))
async def test_the_target_is_stored_exactly_as_sent(receiver: Local, table: Connection, rest: str) -> None:
    """Path and query with nothing decoded, normalised or left out: `//`, `..`, `%2F`, `%00`, `%zz`, quotes."""
    for target in (f"/demo/{rest}", f"/demo?{rest}"):
        assert (await row_of(table, await receiver.post(target)))["target"] == target


@pytest.mark.any_server
async def test_an_absolute_target_is_stored_as_sent_and_its_path_counts(receiver: Local, table: Connection) -> None:
    """As a proxy's client would send it."""
    row = await row_of(table, await receiver.post("http://elsewhere:1/demo/x?y"))
    assert (row["source"], row["target"]) == ("demo", "http://elsewhere:1/demo/x?y")


@pytest.mark.parametrize(
    "body", [gzip.compress(b"hello" * 1000, mtime=0), b"no gzip at all", b""], ids=["gzip", "no gzip", "empty"]
)
async def test_a_compressed_body_is_stored_compressed(receiver: Local, table: Connection, body: bytes) -> None:
    """As sent, and nobody looks whether it can be unpacked."""
    encoding = [(b"Content-Encoding", b"gzip")]
    for whole in (post("/demo", body, encoding), chunked("/demo", [body], encoding)):
        assert (await row_of(table, await receiver.ask(whole)))["payload"] == body


@pytest.mark.any_server
@pytest.mark.parametrize(
    "content_type",
    [None, b"application/json", b"multipart/form-data", b"\xff", b""],
    ids=["none", "JSON", "multipart", "no text", "empty"],
)
async def test_any_content_type_will_do(receiver: Local, table: Connection, content_type: bytes | None) -> None:
    """The body is not looked into: what claims to be JSON need not be."""
    headers = [(b"Content-Type", content_type)] if content_type is not None else []
    assert (await row_of(table, await receiver.post("/demo", b"{\0", headers)))["payload"] == b"{\0"


@any_server
async def test_the_largest_body_is_stored(receiver: Local, table: Connection) -> None:
    """25 MiB, GitHub's own cap, in one piece and in chunks; not a byte more."""
    body = random.Random(1).randbytes(25 * MIB)
    for whole in (post("/demo", body), chunked("/demo", [body])):
        answer = await receiver.ask(whole)
        digest = await table.fetchval("SELECT md5(payload) FROM hookd.events WHERE id = $1", answer.id)
        assert digest == hashlib.md5(body).hexdigest()
    assert (await receiver.ask(head("/demo", [(b"Content-Length", b"%d" % (len(body) + 1))]))).status == 413


async def test_the_id_is_of_the_time_of_receipt(receiver: Local, table: Connection) -> None:
    """A UUIDv7 whose milliseconds are received_at's, by the database's clock."""
    before = await table.fetchval("SELECT clock_timestamp()")
    answer = await receiver.post()
    row = await row_of(table, answer)
    assert answer.id.version == 7
    assert answer.id.int >> 80 == int(row["received_at"].timestamp() * 1000)
    slack = timedelta(milliseconds=100)  # to half a round trip
    assert before - slack <= row["received_at"] <= await table.fetchval("SELECT clock_timestamp()") + slack


async def test_received_at_is_when_the_head_was_complete(receiver: Local, table: Connection) -> None:
    """However long the body takes after it."""
    sender = await receiver.sender()
    await sender.send(head("/demo", [(b"Content-Length", b"3"), (b"Expect", b"100-continue")]))
    await sender.until(b"\r\n\r\n")
    head_read = await table.fetchval("SELECT clock_timestamp()")
    await table.execute("SELECT pg_sleep(0.3)")
    await sender.send(b"abc")
    row = await row_of(table, await sender.answer())
    assert row["received_at"] < head_read + timedelta(seconds=0.15)


@asynccontextmanager
async def clock_ahead(server_url: str, connection: Connection, ahead: str) -> AsyncIterator[None]:
    """The database's clock differs from the receiver's by so much."""
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute("CREATE SCHEMA ahead")
    await connection.execute(
        f"CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
        f" AS $$ SELECT pg_catalog.clock_timestamp() + interval '{ahead}' $$"
    )
    await execute(server_url, f"ALTER DATABASE {name} SET search_path = ahead, pg_catalog")
    yield


@pytest.mark.parametrize("ahead", ["1 hour", "-1 hour"])
async def test_the_receiver_s_clock_is_corrected(
    server_url: str, database_url: str, connection: Connection, ahead: str
) -> None:
    """received_at and the id's time are by the database's clock, whatever its own says, from the first request on."""
    async with clock_ahead(server_url, connection, ahead), receiving(database_url) as receiver:
        row = await row_of(connection, await receiver.post())
    now = await connection.fetchval(f"SELECT clock_timestamp() + interval '{ahead}'")
    assert timedelta(0) < now - row["received_at"] < timedelta(seconds=5)
    assert row["id"].int >> 80 == int(row["received_at"].timestamp() * 1000)


async def test_the_receiver_s_clock_is_corrected_once_the_database_is_there(
    server_url: str, database_url: str, connection: Connection
) -> None:
    """Also where it was away at the start."""
    async with clock_ahead(server_url, connection, "1 hour"), AsyncExitStack() as leaving:
        async with away(server_url, connection):
            receiver = await leaving.enter_async_context(receiving(database_url))
        row = await row_of(connection, await receiver.post_until(200))
    now = await connection.fetchval("SELECT clock_timestamp() + interval '1 hour'")
    assert timedelta(0) < now - row["received_at"] < timedelta(seconds=5)


@any_server
async def test_a_clock_that_is_more_than_5_minutes_off_is_told(
    server_url: str, database_url: str, connection: Connection
) -> None:
    """Somebody should look at it."""
    async with clock_ahead(server_url, connection, "301 s"), hookd_ingest(database_url) as receiver:
        line = await receiver.hookd.logged("clock.differs")
    assert line["database_ahead_seconds"] == 301


async def test_each_provider_s_names_are_taken_from_its_headers(receiver: Local, table: Connection) -> None:
    """event_type and delivery_id, whatever the case of the headers' names."""
    for source, provider in PROVIDERS.items():
        event_type, delivery_id = provider.event_type, provider.delivery_id
        headers = [(event_type.lower().encode(), b"push")] if event_type else []
        headers += [(delivery_id.upper().encode(), b"d-1")] if delivery_id else []
        row = await row_of(table, await receiver.post(f"/{source}", b"", headers))
        assert row["event_type"] == ("push" if event_type else None), source
        assert row["delivery_id"] == ("d-1" if delivery_id else None), source


async def test_a_source_that_names_nothing_loses_nothing_by_it(receiver: Local, table: Connection) -> None:
    """Both columns are null, for an unlisted source and for a listed one without its headers."""
    headers = [(b"X-GitHub-Event", b"push"), (b"X-GitHub-Delivery", b"d-1")]
    for answer in (await receiver.post("/demo", b"", headers), await receiver.post("/github")):
        row = await row_of(table, answer)
        assert (row["event_type"], row["delivery_id"]) == (None, None)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"a" * 200, "a" * 200),
        (b"a" * 201, "a" * 200),
        (b"a" * 8000, "a" * 200),
        ("prüfung".encode(), "prüfung"),
        (b"p\xffsh", "p\ufffdsh"),
        (b"", None),
    ],
    ids=["200", "201", "8000", "UTF-8", "no UTF-8", "empty"],
)
async def test_a_sender_s_names_are_made_storable(
    receiver: Local, table: Connection, sent: bytes, kept: str | None
) -> None:
    """Cut at 200 characters, what is no text replaced; the header itself stays as it was."""
    headers = [(b"X-GitHub-Event", sent), (b"X-GitHub-Delivery", sent)]
    row = await row_of(table, await receiver.post("/github", b"", headers))
    assert (row["event_type"], row["delivery_id"]) == (kept, kept)
    assert ["X-GitHub-Event", sent.decode("latin-1")] in json.loads(row["headers"])


async def test_a_header_can_be_found_in_sql(receiver: Local, table: Connection) -> None:
    """hookd.header() finds the first of that name, whatever its case."""
    answer = await receiver.post("/demo", b"", [(b"X-Any", b"\xe4 1"), (b"x-any", b"2")])
    found = await table.fetchval("SELECT hookd.header(headers, 'x-ANY') FROM hookd.events WHERE id = $1", answer.id)
    assert found == "ä 1"


@pytest.fixture(scope="module")
async def behind_proxies(url: str) -> AsyncIterator[Local]:
    """A receiver that believes this machine and a network."""
    async with receiving(url, trusted_proxies="127.0.0.1, 10.0.0.0/8") as receiver:
        yield receiver


@any_server
@pytest.mark.parametrize(
    ("forwarded", "remote"),
    [
        ([], "127.0.0.1"),
        ([b"203.0.113.7"], "203.0.113.7"),
        ([b"198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        ([b"198.51.100.1", b"203.0.113.7"], "203.0.113.7"),
        ([b"198.51.100.1,203.0.113.7 , 10.1.2.3,10.0.0.1"], "203.0.113.7"),
        ([b"10.1.2.3, 10.0.0.1"], "10.1.2.3"),
        ([b"2001:db8::1"], "2001:db8::1"),
        ([b"::ffff:203.0.113.7"], "203.0.113.7"),
        ([b"unknown, 203.0.113.7"], "203.0.113.7"),
        ([b"unknown"], None),
        ([b"203.0.113.7:80"], None),
        ([b"203.0.113.7, unknown, 10.0.0.1"], None),
    ],
)
async def test_a_trusted_proxy_names_the_client(
    behind_proxies: Local, table: Connection, forwarded: list[bytes], remote: str | None
) -> None:
    """The last address in X-Forwarded-For that is no trusted proxy's; null where that does not parse."""
    headers = [(b"X-Forwarded-For", value) for value in forwarded]
    row = await row_of(table, await behind_proxies.post("/demo", b"", headers))
    assert row["remote"] == (remote and await table.fetchval("SELECT $1::text::inet", remote))


@pytest.mark.any_server
async def test_nobody_else_s_word_is_taken_for_the_client(receiver: Local, table: Connection) -> None:
    """Without trusted proxies the remote is the peer, whatever its headers say."""
    row = await row_of(table, await receiver.post("/demo", b"", [(b"X-Forwarded-For", b"203.0.113.7")]))
    assert str(row["remote"]) == "127.0.0.1"


@pytest.mark.any_server
@needs(socket.has_dualstack_ipv6(), "needs IPv6")
@pytest.mark.parametrize(("peer", "remote"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
async def test_an_ipv4_sender_is_one_on_a_listener_for_both(
    database_url: str, connection: Connection, peer: str, remote: str
) -> None:
    """An IPv4 address in IPv6 is stored as what it is."""
    async with receiving(database_url, a_listener("::")) as receiver:
        sender = await Sender.to(receiver.port, peer)
        receiver.senders.append(sender)
        await sender.send(post())
        assert str((await row_of(connection, await sender.answer()))["remote"]) == remote
