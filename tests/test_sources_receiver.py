"""What a receiver does for a registered source: its methods, limits, deadline and answer, known soon after a change."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from chassis.database import Connection, DatabaseError
from chassis.vault import Vault
from tests.breaking import away, locked
from tests.commands import Hookd
from tests.needs import needs
from tests.receiving import Local, hookd_ingest, receiving
from tests.registering import CHANGE_SECONDS, register
from tests.sending import MIB, Headers, Sender, chunked, head, post
from tests.storing import refused, row_of, stored
from tests.waiting import PATIENCE_SECONDS, in_time

pytestmark = pytest.mark.any_server


OTHER_KEY = "YW5vdGhlci1rZXktdGhhbi10aGUtdGVzdHMtaGF2ZSE="
WRONG = Vault(OTHER_KEY, Path("/nowhere"))
GITHUB: Headers = ((b"X-GitHub-Event", b"push"), (b"X-GitHub-Delivery", b"d-1"))


async def answers(receiver: Local, status: int, request: bytes) -> None:
    """Return once that is what is answered. Raises TimeoutError when a change is known too late."""
    await in_time(lambda: receiver.ask(request), lambda answer: answer.status == status, CHANGE_SECONDS)


async def test_every_change_is_known_within_2_s(database_url: str, connection: Connection) -> None:
    """A source that is added, changed or removed, without a restart."""
    async with receiving(database_url, unknown_sources="reject") as receiver:
        assert (await receiver.post("/shop")).status == 404
        await register(connection, "shop")
        await answers(receiver, 200, post("/shop"))
        await connection.execute("UPDATE hookd.sources SET methods = '{PUT}'")
        await answers(receiver, 405, post("/shop"))
        await connection.execute("DELETE FROM hookd.sources")
        await answers(receiver, 404, post("/shop"))


async def test_a_secret_that_is_rotated_is_known_within_2_s(database_url: str, connection: Connection) -> None:
    """Secrets count as changes, as sources do."""
    await register(connection, "shop", "token", "old", mode="edge")
    authorized = [(b"Authorization", b"new")]
    async with receiving(database_url) as receiver:
        assert (await receiver.post("/shop", b"", authorized)).status == 401
        await connection.execute("DELETE FROM hookd.sources")
        await register(connection, "shop", "token", "new", mode="edge")
        await answers(receiver, 200, post("/shop", b"", authorized))


async def test_a_source_takes_its_own_methods(database_url: str, connection: Connection) -> None:
    """Allow names them; what nobody registered takes POST alone."""
    await register(connection, "shop", methods=["PUT", "GET"])
    async with receiving(database_url) as receiver:
        for method in ("PUT", "GET"):
            answer = await receiver.ask(head("/shop?a=b", method=method))
            row = await row_of(connection, answer)
            assert (row["method"], row["target"], row["payload"]) == (method, "/shop?a=b", b"")
        for method in ("POST", "PATCH", "HEAD"):
            answer = await refused(receiver, connection, head("/shop", method=method), to_head=method == "HEAD")
            assert (answer.status, answer.headers["allow"]) == (405, "PUT, GET")
        answer = await refused(receiver, connection, head("/demo", method="PUT"))
        assert (answer.status, answer.headers["allow"]) == (405, "POST")


async def test_a_head_request_is_answered_without_body(database_url: str, connection: Connection) -> None:
    """And the connection can be used again."""
    await register(connection, "shop", methods=["HEAD", "POST"])
    async with receiving(database_url) as receiver:
        sender = await receiver.sender()
        await sender.send(head("/shop", method="HEAD"))
        assert (await sender.answer(to_head=True)).status == 200
        await sender.send(post("/shop"))
        assert (await row_of(connection, await sender.answer()))["method"] == "POST"
    assert await stored(connection) == 2


@pytest.mark.parametrize(("setting", "own", "largest"), [(MIB, 2048, 2048), (1024, 4096, 1024)])
async def test_a_source_has_its_own_body_limit(
    database_url: str, connection: Connection, setting: int, own: int, largest: int
) -> None:
    """To the byte, in one piece, in several and in chunks; but never more than the receiver's own."""
    await register(connection, "shop", body_bytes_max=own)
    async with receiving(database_url, body_bytes_max=setting) as receiver:
        for size, status in ((largest, 200), (largest + 1, 413)):
            body = b"a" * size
            whole = post("/shop", body)
            for parts in ([whole], [whole[:-1], whole[-1:]], [chunked("/shop", [body])]):
                assert (await receiver.ask(*parts)).status == status
        beyond = await receiver.post("/demo", b"a" * (largest + 1))
        assert beyond.status == (200 if largest < setting else 413)


async def blocked(connection: Connection, waiting: int = 1) -> None:
    """Return once so many wait for a lock in this database."""
    here = "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    find = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND {here}"
    await in_time(lambda: connection.fetchval(find), lambda count: count >= waiting, PATIENCE_SECONDS)


async def test_a_patient_source_waits_longer_for_its_commit(database_url: str, connection: Connection) -> None:
    """While a lock is held others are told 503 after the setting; it is told 200 once the lock is gone."""
    await register(connection, "patient", commit_timeout_seconds=PATIENCE_SECONDS)
    async with receiving(database_url, commit_timeout_seconds=0.2) as receiver:
        async with locked(connection):
            patient = await receiver.sender()
            await patient.send(post("/patient"))
            await blocked(connection)
            assert (await receiver.post("/demo")).status == 503
        assert (await row_of(connection, await patient.answer()))["source"] == "patient"


async def test_an_impatient_source_waits_less(database_url: str, connection: Connection) -> None:
    """Slack waits 3 s: it is answered after 2, whatever the setting."""
    await register(connection, "slack", "slack", "secret")
    async with receiving(database_url, commit_timeout_seconds=600.0) as receiver, locked(connection):
        began = asyncio.get_running_loop().time()
        assert (await receiver.post("/slack")).status == 503
        assert 1.9 < asyncio.get_running_loop().time() - began < PATIENCE_SECONDS


ANSWERS: list[tuple[dict[str, Any], int, bytes | None, dict[str, str]]] = [
    ({"status": 200}, 200, None, {"content-type": "application/json"}),
    ({"status": 201}, 201, None, {"content-type": "application/json"}),
    ({"status": 202, "headers": [["X-A", "b"]]}, 202, None, {"content-type": "application/json", "x-a": "b"}),
    ({"status": 200, "headers": [["X-A", "b"]]}, 200, None, {"x-a": "b", "server": "hookd"}),
    ({"status": 200, "body": ""}, 200, b"", {"content-length": "0"}),
    ({"status": 200, "body": "ü"}, 200, b"\xc3\xbc", {"content-type": "text/plain; charset=utf-8"}),
    ({"status": 200, "headers": [["content-type", "a/b"]], "body": "c"}, 200, b"c", {"content-type": "a/b"}),
    ({"status": 204}, 204, b"", {}),
    ({"status": 206}, 206, b"", {"content-length": "0"}),
    ({"status": 299, "body": "x"}, 299, b"x", {}),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "status", "body", "headers"), ANSWERS)
async def test_a_source_has_its_own_answer(
    database_url: str,
    connection: Connection,
    answer: dict[str, Any],
    status: int,
    body: bytes | None,
    headers: Mapping[str, str],
) -> None:
    """Status, headers and body; where it has no body of its own, the row's id as far as the status has room for it."""
    await register(connection, "shop", answer=answer)
    async with receiving(database_url) as receiver:
        sender = await receiver.sender()
        for number in (1, 2):  # the connection can be used again
            await sender.send(post("/shop"))
            told = await sender.answer()
            assert told.status == status
            assert headers.items() <= told.headers.items()
            assert await stored(connection) == number
        if body is None:
            assert await connection.fetchval("SELECT id FROM hookd.events ORDER BY 1 DESC LIMIT 1") == json_id(
                told.body
            )
        else:
            assert told.body == body
        if status == 204:
            assert "content-length" not in told.headers


def json_id(body: bytes) -> UUID:
    (name,), (value,) = zip(*json.loads(body).items(), strict=True)
    assert name == "id"
    return UUID(value)


async def test_a_provider_has_an_answer_of_its_own(database_url: str, connection: Connection) -> None:
    """Watson Work counts 201 as success, and Graph 202; a source may say otherwise."""
    await register(connection, "watson", "watson-work", "secret")
    await register(connection, "graph", "microsoft-graph", "secret")
    await register(connection, "other", "microsoft-graph", "secret", answer={"status": 200})
    async with receiving(database_url) as receiver:
        assert [(await receiver.post(f"/{name}")).status for name in ("watson", "graph", "other")] == [201, 202, 200]


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [("X-A", "b", 200), ("X-A", "b\r\nX-Evil: 1", 503), ("X-B\n", "c", 503), ("Content-Length", "100", 503)],
)
async def test_no_header_breaks_an_answer_in_two(
    database_url: str, connection: Connection, name: str, value: str, status: int
) -> None:
    """What cannot be a header, or frames the answer, was written by hand: nothing is taken for that source."""
    async with receiving(database_url) as receiver:
        await register(connection, "shop", answer={"headers": [[name, value]], "body": "ok"})
        await answers(receiver, status, post("/shop"))
        assert "x-evil" not in (await receiver.post("/shop")).headers


async def test_a_source_is_named_by_its_provider_s_headers(database_url: str, connection: Connection) -> None:
    """Whatever it is called; unregistered, a provider's name is enough."""
    await register(connection, "our-code", "github")
    await register(connection, "gitlab", "none")
    async with receiving(database_url) as receiver:
        for source, names in (("our-code", ("push", "d-1")), ("github", ("push", "d-1")), ("gitlab", (None, None))):
            row = await row_of(connection, await receiver.post(f"/{source}", b"", GITHUB))
            assert (row["event_type"], row["delivery_id"]) == names
            assert row["verdict"] is None


async def test_what_bears_a_provider_s_name_gets_its_naming_and_nothing_more(
    database_url: str, connection: Connection
) -> None:
    """No handshake, no other answer, no judgement."""
    async with receiving(database_url) as receiver:
        for source in ("discord", "watson-work", "microsoft-graph"):
            answer = await receiver.post(
                f"/{source}?validationToken=x", b'{"type":1}', [(b"X-Signature-Ed25519", b"x")]
            )
            await row_of(connection, answer)
        assert (await receiver.get("/dropbox?challenge=x")).status == 405


@pytest.mark.parametrize("unknown_sources", ["auto", "store", "reject"])
async def test_before_anything_is_known_all_is_503(
    server_url: str, database_url: str, connection: Connection, unknown_sources: str
) -> None:
    """Never 404, and never stored as if nobody had registered it: it may have to be judged first."""
    await register(connection, "shop", "token", "secret", mode="edge")
    async with away(server_url, connection), receiving(database_url, unknown_sources=unknown_sources) as receiver:
        for source in ("shop", "demo"):
            answer = await receiver.post(f"/{source}")
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert await stored(connection) == 0


async def test_with_the_database_away_the_last_knowledge_stands(
    server_url: str, database_url: str, connection: Connection
) -> None:
    """A source that is known is 503, one that is not 404; back again, changes are known again."""
    await register(connection, "shop", "token", "secret", mode="edge")
    authorized: Headers = [(b"Authorization", b"secret")]
    async with receiving(database_url, unknown_sources="auto", commit_timeout_seconds=0.2) as receiver:
        async with away(server_url, connection):
            assert (await receiver.post("/shop", b"", authorized)).status == 503
            assert (await receiver.post("/demo")).status == 404
            assert (await receiver.post("/shop")).status == 401
            await register(connection, "demo")
        await receiver.post_until(200, "/demo")


async def test_probes_are_known_and_reject_nobody_else(database_url: str, connection: Connection) -> None:
    """`hookd doctor` may come by before anything is registered: other sources are stored as before."""
    await register(connection, "probe", is_probe=True, answer={"status": 202})
    async with receiving(database_url, unknown_sources="auto") as receiver:
        assert (await receiver.post("/probe")).status == 202
        assert (await receiver.post("/demo")).status == 200
        await register(connection, "shop")
        await answers(receiver, 404, post("/demo"))
        assert (await receiver.post("/probe")).status == 202


@pytest.mark.parametrize(("provider", "mode"), [("token", "edge"), ("slack", "deferred")])
async def test_a_secret_that_cannot_be_read_is_refused_at_the_start(
    database_url: str, connection: Connection, tmp_path: Path, provider: str, mode: str
) -> None:
    """One line that names the source and what to do, exit 1: where a receiver would have to judge, or to greet."""
    await register(connection, "shop", provider, "the-secret", mode=mode, vault=WRONG)
    ran = Hookd(tmp_path, {"HOOKD_DATABASE_URL": database_url, "HOOKD_DATA_DIR": str(tmp_path / "data")})(
        "ingest", "--port", "0"
    )
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert "'shop'" in line
    assert "hookd sources rotate shop" in line
    assert str(tmp_path / "data") in line
    assert "the-secret" not in line


async def test_a_secret_that_the_processor_alone_needs_keeps_no_receiver_from_its_work(
    database_url: str, connection: Connection
) -> None:
    """It never sees it."""
    await register(connection, "shop", "github", "secret", mode="deferred", vault=WRONG)
    async with receiving(database_url) as receiver:
        await row_of(connection, await receiver.post("/shop"))


async def test_a_secret_that_cannot_be_read_makes_its_source_503(database_url: str, connection: Connection) -> None:
    """While it runs: of that source nothing is stored, the log says why, once; no other source suffers."""
    async with receiving(database_url) as receiver:
        with capture_logs() as lines:
            await register(connection, "shop", "token", "the-secret", mode="edge", vault=WRONG)
            await answers(receiver, 503, post("/shop"))
            answer = await refused(receiver, connection, post("/shop", b"", [(b"Authorization", b"the-secret")]))
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            await row_of(connection, await receiver.post("/demo"))
            await connection.execute("DELETE FROM hookd.sources")
            await register(connection, "shop", "token", "the-secret", mode="edge")
            await answers(receiver, 200, post("/shop", b"", [(b"Authorization", b"the-secret")]))
        (line,) = [line for line in lines if line["event"] == "source.faulty"]
        assert (line["source"], line["log_level"]) == ("shop", "error")
        assert "the-secret" not in str(lines)


WRITTEN = {
    "options": ["[1]", '"text"', '{"url": 5}'],
    "answer": [
        "5",
        '{"headers": 5}',
        '{"headers": [["X-A", 5]]}',
        '{"body": 5}',
        '{"status": "200"}',
        '{"status": 404}',
    ],
}


@pytest.mark.parametrize(("column", "written"), [(column, each) for column in WRITTEN for each in WRITTEN[column]])
async def test_a_row_that_cannot_be_read_makes_its_source_503(
    database_url: str, connection: Connection, column: str, written: str
) -> None:
    """Somebody wrote it by hand: the receiver lives, and no other source suffers."""
    async with receiving(database_url) as receiver:
        await register(connection, "shop")
        await connection.execute(f"UPDATE hookd.sources SET {column} = $1", written)
        await answers(receiver, 503, post("/shop"))
        await row_of(connection, await receiver.post("/demo"))
    with pytest.raises(DatabaseError, match=r"^source 'shop': its row in hookd\.sources cannot be read"):
        async with receiving(database_url):
            pass


async def test_a_fault_that_is_mended_in_the_key_s_file_is_found(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """Nothing in the table changes then."""
    vault = Vault(None, tmp_path / "data" / "secret.key")
    async with hookd_ingest(database_url, data_dir=tmp_path / "data") as receiver:
        await register(connection, "shop", "token", "the-secret", mode="edge", vault=WRONG)
        await receiver.hookd.logged("source.faulty")
        vault.seal(b"makes the file")
        (tmp_path / "data" / "secret.key").write_text(OTHER_KEY)
        authorized = post("/shop", b"", [(b"Authorization", b"the-secret")])
        await in_time(lambda: receiver.ask(authorized), lambda answer: answer.status == 200, PATIENCE_SECONDS)


@needs(sys.platform == "linux", "reads /proc")
async def test_cryptography_is_loaded_with_the_first_secret(database_url: str, connection: Connection) -> None:
    """A receiver without any does not pay for it."""

    def is_loaded() -> bool:
        return "cryptography" in Path(f"/proc/{receiver.hookd.process.pid}/maps").read_text()

    await register(connection, "plain")
    await register(connection, "github", "github", "secret", mode="deferred")
    async with hookd_ingest(database_url, is_bare=True, secret_key=OTHER_KEY) as receiver:
        assert (await receiver.post("/github")).status == 200
        assert not is_loaded()
        await register(connection, "shop", "token", "secret", mode="edge", vault=WRONG)
        await in_time(lambda: receiver.post("/shop"), lambda answer: answer.status == 401, PATIENCE_SECONDS)
        assert is_loaded()


@pytest.fixture
async def sender(database_url: str, connection: Connection) -> AsyncIterator[Sender]:
    """One connection to a receiver that knows a source with an answer of its own."""
    await register(connection, "shop", answer={"status": 202, "body": "ok"})
    async with receiving(database_url) as receiver:
        yield await receiver.sender()


async def test_a_chunked_request_s_connection_is_closed_after_any_answer(sender: Sender) -> None:
    """Also after a source's own."""
    await sender.send(chunked("/shop", [b"abc"]))
    answer = await sender.answer()
    assert (answer.status, answer.closes) == (202, True)
    assert await sender.rest() == b""


async def test_the_receiver_notes_changes_of_secrets_that_expire(database_url: str, connection: Connection) -> None:
    """A secret is good for what was received before it expires, and not after: no change is needed for that."""
    soon = await connection.fetchval("SELECT clock_timestamp() + interval '2 s'")
    await register(connection, "shop", "token", "secret", mode="edge", expires_at=soon)
    async with receiving(database_url) as receiver:
        authorized = post("/shop", b"", [(b"Authorization", b"secret")])
        row = await row_of(connection, await receiver.ask(authorized))
        assert row["received_at"] < soon
        await in_time(lambda: receiver.ask(authorized), lambda answer: answer.status == 401, PATIENCE_SECONDS)
        latest = await connection.fetchval("SELECT max(received_at) FROM hookd.events WHERE verdict = 'verified'")
        assert soon - timedelta(seconds=2) < latest < soon
