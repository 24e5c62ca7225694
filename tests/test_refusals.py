"""Who is turned away, and why: each refusal has its status and its reason, and nothing of it is stored."""

import pytest

from chassis.database import Connection
from ingest.settings import IngestSettings
from tests.receiving import Local, receiving
from tests.sending import chunked, head, one_by_one, post
from tests.storing import refused, row_of, stored

any_server = pytest.mark.any_server


NOT_HTTP = {
    "a control character in a value": head("/demo", [(b"X-Any", b"a\x01b")]),
    "NUL in a value": head("/demo", [(b"X-Any", b"a\0b")]),
    "DEL in a value": head("/demo", [(b"X-Any", b"a\x7fb")]),
    "a bare CR": head("/demo", [(b"X-Any", b"a\rb")]),
    "a bare LF": b"POST /demo HTTP/1.1\nHost: hookd\n\n",
    "obsolete folding": head("/demo", [(b"X-Any", b"a\r\n b")]),
    "white space before the colon": head("/demo", [(b"X-Any ", b"a")]),
    "no name": head("/demo", [(b"", b"a")]),
    "no host": b"POST /demo HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two hosts": head("/demo", [(b"Host", b"hookd")]),
    "two content types": head("/demo", [(b"Content-Type", b"a/b")] * 2),
    "two user agents": head("/demo", [(b"User-Agent", b"a")] * 2),
    "two lengths": head("/demo", [(b"Content-Length", b"1"), (b"Content-Length", b"2")]) + b"aa",
    "the same length twice": head("/demo", [(b"Content-Length", b"1")] * 2) + b"a",
    "a list of lengths": head("/demo", [(b"Content-Length", b"1, 1")]) + b"a",
    "a signed length": head("/demo", [(b"Content-Length", b"+1")]) + b"a",
    "a negative length": head("/demo", [(b"Content-Length", b"-1")]),
    "a length and chunks": head("/demo", [(b"Content-Length", b"1"), (b"Transfer-Encoding", b"chunked")])
    + b"0\r\n\r\n",
    "chunks and a length": head("/demo", [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"1")])
    + b"0\r\n\r\n",
    "gzip as a transfer coding": head("/demo", [(b"Transfer-Encoding", b"gzip")]),
    "gzip before chunked": head("/demo", [(b"Transfer-Encoding", b"gzip, chunked")]) + b"0\r\n\r\n",
    "identity as a transfer coding": head("/demo", [(b"Transfer-Encoding", b"identity")]),
    "a chunk's size that is no number": head("/demo", [(b"Transfer-Encoding", b"chunked")]) + b"zz\r\n",
    "a chunk that is longer than it says": chunked("/demo", [b"abc"]).replace(b"3\r\n", b"2\r\n"),
    "a later chunk that breaks": chunked("/demo", [b"abc", b"def"]).replace(b"\r\n3\r\ndef", b"\r\nx\r\ndef"),
    "bytes beyond ASCII in the path": b"POST /d\xe9mo HTTP/1.1\r\nHost: hookd\r\n\r\n",
    "a space in the path": b"POST /de mo HTTP/1.1\r\nHost: hookd\r\n\r\n",
    "a tab in the path": b"POST /de\tmo HTTP/1.1\r\nHost: hookd\r\n\r\n",
    "a method in lower case": head("/demo", method="post"),
    "a method nobody knows": head("/demo", method="FOO"),
    "HTTP/0.9": b"POST /demo\r\n\r\n",
    "HTTP/1.2": head("/demo", version="1.2"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100750100007103030000"),
    "a fragment": head("/demo/x?y#fragment"),
}
NOT_A_SOURCE = ["/", "//demo", "/Demo", "/.demo", "/d%65mo", "/demo%2Fx", f"/{'a' * 65}", "http://elsewhere", "/-x"]


@any_server
@pytest.mark.parametrize("broken", NOT_HTTP.values(), ids=list(NOT_HTTP))
async def test_what_is_not_http_is_400(receiver: Local, table: Connection, broken: bytes) -> None:
    """The reason in JSON, nothing stored: whole and one byte at a time."""
    for parts in ([broken], one_by_one(broken)):
        assert (await refused(receiver, table, *parts)).status == 400


@pytest.mark.any_server
async def test_what_follows_on_a_broken_connection_is_not_read(receiver: Local, table: Connection) -> None:
    """Nobody knows where the next request begins: one answer, the connection closed, nothing stored."""
    before = await stored(table)
    for broken in (NOT_HTTP["a bare LF"], NOT_HTTP["two lengths"], NOT_HTTP["a later chunk that breaks"]):
        sender = await receiver.sender()
        await sender.send(broken, post())
        assert (await sender.answer()).closes
        assert await sender.rest() == b""
    assert await stored(table) == before


@any_server
@pytest.mark.parametrize("target", NOT_A_SOURCE)
async def test_what_names_no_source_is_400(receiver: Local, table: Connection, target: str) -> None:
    """The answer says what a source's name is."""
    answer = await refused(receiver, table, post(target))
    assert answer.status == 400
    assert "[a-z0-9]" in answer.error


@any_server
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"])
async def test_a_method_other_than_post_is_405(receiver: Local, table: Connection, method: str) -> None:
    """Allow tells which one is taken; the connection can be used again."""
    answer = await refused(receiver, table, head("/demo", method=method), to_head=method == "HEAD")
    assert (answer.status, answer.headers["allow"], answer.closes) == (405, "POST", False)


@pytest.mark.any_server
async def test_another_expectation_than_100_continue_is_417(receiver: Local, table: Connection) -> None:
    """Nobody here could meet it."""
    headers = [(b"Content-Length", b"3"), (b"Expect", b"200-ok")]
    assert (await refused(receiver, table, head("/demo", headers))).status == 417


@pytest.mark.any_server
async def test_a_refused_request_whose_body_is_complete_leaves_the_connection_open(
    receiver: Local, table: Connection
) -> None:
    """The next request on it is a request like any other."""
    sender = await receiver.sender()
    await sender.send(post("/Nobody", b"abc"))
    assert (await sender.answer()).status == 400
    await sender.send(post())
    await row_of(table, await sender.answer())


@pytest.mark.any_server
async def test_with_a_prefix_only_what_is_below_it_is_a_source(database_url: str, connection: Connection) -> None:
    """`POST {prefix}/<source>`; hookd's own pages stay where they are."""
    async with receiving(database_url, prefix="/hooks") as receiver:
        assert (await row_of(connection, await receiver.post("/hooks/demo/x")))["source"] == "demo"
        assert (await refused(receiver, connection, post("/demo"))).status == 400
        assert "/hooks/<source>" in (await receiver.post("/hooksdemo/x")).error
        assert (await receiver.get("/-/live")).status == 200


def test_nobody_but_this_machine_is_listened_to_unless_told_otherwise(settings_free: None) -> None:
    """127.0.0.1:8080."""
    assert (IngestSettings().host, IngestSettings().port) == ("127.0.0.1", 8080)
