"""TLS: what holds over plain HTTP holds over it; it is agreed on in time; its certificate may change under load."""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from chassis.database import Connection
from chassis.tls import Identity
from rig.hookd import ROOT
from rig.load import Load
from tests.born import hookd, shell
from tests.certifying import Pair, a_pair
from tests.commands import Hookd
from tests.receiving import Local, Remote, hookd_ingest, receiving
from tests.sending import MIB, Sender, TLSSender, chunked, head, one_by_one, post
from tests.storing import row_of, stored
from tests.waiting import PATIENCE_SECONDS, in_time

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]

NOWHERE = "postgresql://127.0.0.1:1/nowhere"
CLIENT_HELLO = b"\x16\x03\x01"  # how one begins


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return a_pair(tmp_path)


@pytest.fixture(scope="module")
async def secure(url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Local]:
    """A receiver that speaks TLS, for those tests that leave it as it is."""
    pair = a_pair(tmp_path_factory.mktemp("pair"))
    async with receiving(url, tls=pair.trusting(), **pair.settings) as receiver:
        yield receiver


async def tls_sender(receiver: Local | Remote, tls: ssl.SSLContext | None = None) -> TLSSender:
    assert receiver.tls is not None
    sender = await TLSSender.over(tls or receiver.tls, receiver.port)
    receiver.senders.append(sender)
    return sender


def shown(sender: TLSSender) -> bytes | None:
    """The certificate that the receiver showed, in DER."""
    return sender.agreed.getpeercert(binary_form=True)


# --- what holds over plain HTTP holds over TLS ------------------------------------------------------------------------


async def test_a_webhook_over_tls_is_a_committed_row(secure: Local, table: Connection) -> None:
    """Byte for byte, by length and in chunks, of 1 MiB too; and on a connection that is kept for the next."""
    body = os.urandom(MIB)
    sender = await secure.sender()
    for request in (post("/demo/a%2Fb?c", body), post("/demo", b""), chunked("/demo/a%2Fb?c", [body[:7], body[7:]])):
        await sender.send(request)
        row = await row_of(table, await sender.answer())
        assert (row["payload"], str(row["remote"])) == (body if b"a%2Fb" in request else b"", "127.0.0.1")
    assert await sender.rest() == b""  # after what came in chunks it closes, as over plain HTTP


async def test_a_request_over_tls_one_byte_at_a_time(secure: Local, table: Connection) -> None:
    """Each byte in a record of its own is the same request."""
    row = await row_of(table, await secure.ask(*one_by_one(post("/demo", b"in small pieces"))))
    assert row["payload"] == b"in small pieces"


async def test_limits_hold_over_tls(database_url: str, connection: Connection, pair: Pair) -> None:
    """A body of exactly the limit is stored, one byte more is refused; a head that never ends is not waited for."""
    settings: dict[str, Any] = {"body_bytes_max": 4096, "head_timeout_seconds": 0.5, **pair.settings}
    async with receiving(database_url, tls=pair.trusting(), **settings) as receiver:
        assert (await receiver.post("/demo", bytes(4096))).status == 200
        assert (await receiver.post("/demo", bytes(4097))).status == 413
        assert (await receiver.ask(chunked("/demo", [bytes(4096), b"x"]))).status == 413
        slow = await receiver.sender()
        await slow.send(b"POST /demo HTTP/1.1\r\n")
        answer = await slow.answer()
        assert (answer.status, answer.closes) == (408, True)
    assert await stored(connection) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_senders_speak_1_2_or_1_3(database_url: str, pair: Pair, version: ssl.TLSVersion) -> None:
    """Nothing older is offered. Of what the sender would speak above it HTTP/1.1 is chosen."""
    tls = pair.trusting(minimum_version=version, maximum_version=version)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    async with receiving(database_url, tls=tls, **pair.settings) as receiver:
        sender = await tls_sender(receiver)
        assert sender.agreed.version() == version.name.replace("_", ".")
        assert sender.agreed.selected_alpn_protocol() == "http/1.1"
    assert Identity(pair.certificate, pair.key).context.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_open_connections_are_served_to_their_end(database_url: str, connection: Connection, pair: Pair) -> None:
    """After SIGTERM a request on one is stored and its answer closes it; also on one that agrees on TLS only then."""
    async with hookd_ingest(database_url, tls=pair.trusting(), **pair.settings) as receiver:
        used, unused = await receiver.sender(), socket.create_connection(("127.0.0.1", receiver.port))
        await used.send(post())
        assert not (await used.answer()).closes
        await receiver.get("/-/live")  # so that all were accepted
        receiver.signal(signal.SIGTERM)
        await receiver.hookd.logged("ingest.stopping")
        agreed = TLSSender(*await asyncio.open_connection(sock=unused, ssl=receiver.tls, server_hostname="127.0.0.1"))
        for sender in (used, agreed):
            await sender.send(post("/late", b"late"))
            answer = await sender.answer()
            assert (await row_of(connection, answer))["payload"] == b"late"
            assert answer.closes
            assert await sender.rest() == b""
        agreed.close()
        assert await receiver.hookd.ended() == 0
        with pytest.raises(ConnectionRefusedError):
            await receiver.sender()
    assert await stored(connection) == 3


# --- until TLS is agreed on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[post()], one_by_one(post()), [b"P"]], ids=["whole", "one byte at a time", "begun"])
async def test_plain_http_is_told(database_url: str, connection: Connection, pair: Pair, parts: list[bytes]) -> None:
    """Who writes http:// where TLS is spoken reads so, in HTTP; nothing is stored, and no error is logged."""
    with capture_logs() as lines:
        async with receiving(database_url, tls=pair.trusting(), **pair.settings) as receiver:
            sender = await Sender.to(receiver.port)
            await sender.send(*parts)
            answer = await sender.answer()
            assert (answer.status, answer.closes) == (400, True)
            assert "https://" in answer.error
            assert await sender.rest() == b""
            sender.close()
    assert await stored(connection) == 0
    assert [line["log_level"] for line in lines if line["event"] == "webhook.refused"] == ["warning"]
    assert [line for line in lines if line["log_level"] in ("error", "critical")] == []


@pytest.mark.parametrize("begun", [b"", CLIENT_HELLO, CLIENT_HELLO + b"\x02\x00\x01"], ids=["silent", "begun", "half"])
async def test_a_handshake_that_never_ends_is_not_waited_for(database_url: str, pair: Pair, begun: bytes) -> None:
    """Its connection is closed after HOOKD_HEAD_TIMEOUT_SECONDS; others are served meanwhile and afterwards."""
    with capture_logs() as lines:
        async with receiving(database_url, tls=pair.trusting(), head_timeout_seconds=0.3, **pair.settings) as receiver:
            sender = await Sender.to(receiver.port)
            await sender.send(begun)
            assert (await receiver.post()).status == 200
            assert await sender.rest() == b""
            assert (await receiver.post()).status == 200
            sender.close()
    assert [line["status"] for line in lines if line["event"] == "webhook.refused"] == [408]


@pytest.mark.parametrize("garbage", [CLIENT_HELLO + b"\x00\x05hello", b"\x16" * 600], ids=["a record", "no record"])
async def test_what_is_no_handshake_is_hung_up_on(database_url: str, pair: Pair, garbage: bytes) -> None:
    """It is refused and counted, and is no error of ours."""
    with capture_logs() as lines:
        async with receiving(database_url, tls=pair.trusting(), **pair.settings) as receiver:
            sender = await Sender.to(receiver.port)
            await sender.send(garbage)
            assert b"HTTP" not in await sender.rest()
            sender.close()
            assert (await receiver.post()).status == 200
    assert [line["status"] for line in lines if line["event"] == "webhook.refused"] == [400]
    assert [line for line in lines if line["log_level"] in ("error", "critical")] == []


def break_off(port: int, tls: ssl.SSLContext) -> None:
    """Send what nobody encrypted in the middle of a body."""
    with tls.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1") as opened:
        opened.sendall(head("/demo", [(b"Content-Length", b"9"), (b"Expect", b"100-continue")]))
        assert opened.recv(100).startswith(b"HTTP/1.1 100 ")
        os.write(opened.fileno(), b"\x17\x03\x03\x00\x20" + b"?" * 32)
        with suppress(OSError):
            while os.read(opened.fileno(), 4096):
                pass


async def test_tls_that_breaks_in_a_body_is_the_senders_fault(
    database_url: str, connection: Connection, pair: Pair
) -> None:
    """As a sender that leaves: nothing is stored, and it is no error of ours."""
    with capture_logs() as lines:
        async with receiving(database_url, tls=pair.trusting(), **pair.settings) as receiver:
            await asyncio.to_thread(break_off, receiver.port, pair.trusting())
            assert (await receiver.post()).status == 200
    assert [line["status"] for line in lines if line["event"] == "webhook.refused"] == [400]
    assert [line for line in lines if line["log_level"] in ("error", "critical")] == []
    assert await stored(connection) == 1


def distrust(port: int) -> None:
    """As a sender does that knows the authority of no test."""
    with socket.create_connection(("127.0.0.1", port)) as opened, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(opened, server_hostname="127.0.0.1")


async def test_a_sender_that_does_not_trust_the_certificate_is_told_of(database_url: str, pair: Pair) -> None:
    """The receiver's log has the sender's own word for it, so that somebody learns why nothing arrives."""
    with capture_logs() as lines:
        async with receiving(database_url, tls=pair.trusting(), **pair.settings) as receiver:
            await asyncio.to_thread(distrust, receiver.port)

            async def told() -> list[str]:
                assert (await receiver.post()).status == 200
                return [line["reason"] for line in lines if line["event"] == "webhook.refused"]

            [reason] = await in_time(told, bool, PATIENCE_SECONDS)
    assert "unknown ca" in reason


async def test_who_only_looks_whether_somebody_listens_is_no_event(database_url: str, pair: Pair) -> None:
    """A connection that ends without a byte, as a load balancer's check does, is logged nowhere."""
    with capture_logs() as lines:
        async with receiving(database_url, tls=pair.trusting(), **pair.settings) as receiver:
            for leave in (Sender.close, Sender.reset, Sender.half_close):
                sender = await Sender.to(receiver.port)
                leave(sender)
                assert (await receiver.post()).status == 200
                sender.close()
    assert {line["event"] for line in lines} & {"webhook.refused", "request.broke"} == set()
    assert [line for line in lines if line["log_level"] in ("error", "critical")] == []


async def test_connections_are_bounded_before_tls_is_agreed_on(database_url: str, pair: Pair) -> None:
    """HOOKD_CONNECTIONS_MAX and a tenth of it, those included that have not agreed yet: the next is closed at once."""
    async with receiving(database_url, tls=pair.trusting(), connections_max=10, **pair.settings) as receiver:
        silent = [await Sender.to(receiver.port) for _ in range(10)]
        eleventh = await receiver.sender()
        await eleventh.send(post())
        assert (await eleventh.answer()).status == 200
        twelfth = await Sender.to(receiver.port)
        assert await twelfth.rest() == b""
        for each in (*silent, twelfth):
            each.close()
        eleventh.close()

        async def served() -> bool:
            with suppress(OSError, EOFError):
                return (await receiver.post()).status == 200
            return False

        assert await in_time(served, bool, PATIENCE_SECONDS)


# --- the certificate --------------------------------------------------------------------------------------------------


async def test_sighup_loads_a_new_certificate(database_url: str, pair: Pair) -> None:
    """A single receiver shows it to whoever comes then, and closes no connection that is open."""
    before = pair.issue()
    async with hookd_ingest(database_url, tls=pair.trusting(), **pair.settings) as receiver:
        old = await tls_sender(receiver)
        after = pair.issue()
        receiver.signal(signal.SIGHUP)
        assert (await receiver.hookd.logged("tls.loaded", 2))["certificate"] == str(pair.certificate)
        new = await tls_sender(receiver)
        for sender, certificate in ((old, before), (new, after)):
            await sender.send(post())
            assert (await sender.answer()).status == 200
            assert shown(sender) == certificate
        receiver.hang_up()
        assert await receiver.hookd.stop() == 0


async def test_a_broken_new_certificate_keeps_the_old_one(database_url: str, pair: Pair) -> None:
    """The log says what is wrong with it; once it is mended, the next SIGHUP takes it."""
    before = pair.issue()
    async with hookd_ingest(database_url, tls=pair.trusting(), **pair.settings) as receiver:
        whole = pair.key.read_bytes()
        after = pair.issue()
        mended = pair.key.read_bytes()
        pair.key.write_bytes(whole)
        receiver.signal(signal.SIGHUP)
        unchanged = await receiver.hookd.logged("tls.unchanged")
        assert (unchanged["level"], "is not the one of the certificate" in unchanged["reason"]) == ("error", True)
        assert shown(await tls_sender(receiver)) == before
        assert (await receiver.post()).status == 200
        pair.key.write_bytes(mended)
        receiver.signal(signal.SIGHUP)
        await receiver.hookd.logged("tls.loaded", 2)
        assert shown(await tls_sender(receiver)) == after
        receiver.hang_up()
        assert await receiver.hookd.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_two_new_certificates_under_load(
    database_url: str, connection: Connection, pair: Pair, workers: int
) -> None:
    """SIGHUP twice, each time with new files: every request is answered 200, by one worker or by two in turn."""
    async with hookd_ingest(database_url, workers, tls=pair.trusting(), **pair.settings) as receiver:
        load = Load(f"https://127.0.0.1:{receiver.port}", senders=4, tls=pair.trusting(), pause_seconds=0.01)
        async with load.running():
            for count in (1, 2):
                await load.more(20)
                latest = pair.issue()
                receiver.signal(signal.SIGHUP)
                await receiver.hookd.logged("tls.loaded", workers * (count + 1))
                if workers > 1:
                    await receiver.hookd.logged("child.stopped", workers * count)
            await load.more(20)
        assert shown(await tls_sender(receiver)) == latest
        receiver.hang_up()
        assert await receiver.hookd.stop() == 0
    assert (set(load.statuses), load.cut) == ({200}, 0)
    await load.assert_stored(connection)


async def test_workers_are_not_replaced_into_a_broken_certificate(database_url: str, pair: Pair) -> None:
    """It is looked at before the first of them is replaced: none is, and the log says why; mended, all are."""
    async with hookd_ingest(database_url, 2, tls=pair.trusting(), **pair.settings) as receiver:
        whole = pair.certificate.read_bytes()
        pair.certificate.write_bytes(b"no certificate")
        receiver.signal(signal.SIGHUP)
        refused = await receiver.hookd.logged("restart.refused")
        assert "holds no certificate in PEM" in refused["reason"]
        assert (await receiver.post()).status == 200
        pair.certificate.write_bytes(whole)
        receiver.signal(signal.SIGHUP)
        await receiver.hookd.logged("child.stopped", 2)
        assert (await receiver.post()).status == 200
        assert await receiver.hookd.stop() == 0
        assert len([line for line in receiver.hookd.lines if line["event"] == "child.started"]) == 4


async def test_a_certificate_that_has_ended_is_served_with_a_warning(database_url: str, pair: Pair) -> None:
    """Some senders do not look; the log says that others hang up."""
    pair.issue(ends=datetime.now(UTC) - timedelta(days=1))
    with capture_logs() as lines:
        async with receiving(
            database_url, tls=pair.trusting(check_hostname=False, verify_mode=ssl.CERT_NONE), **pair.settings
        ) as receiver:
            assert (await receiver.post()).status == 200
    assert [line["log_level"] for line in lines if line["event"] == "tls.expired"] == ["warning"]
    assert "tls.loaded" not in {line["event"] for line in lines}


def encrypted(pair: Pair) -> None:
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    kind = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, kind)
    pair.key.write_bytes(pem)


def of_another(pair: Pair) -> None:
    certificate = pair.certificate.read_bytes()
    pair.issue()
    pair.certificate.write_bytes(certificate)


WRONG: dict[str, tuple[Callable[[Pair], object], str]] = {
    "no certificate file": (lambda pair: pair.certificate.unlink(), "cannot read {certificate}: No such file"),
    "no key file": (lambda pair: pair.key.unlink(), "cannot read {key}: No such file"),
    "empty": (lambda pair: pair.certificate.write_bytes(b""), "{certificate} holds no certificate in PEM"),
    "no PEM": (lambda pair: pair.certificate.write_bytes(os.urandom(99)), "{certificate} holds no certificate in PEM"),
    "no key": (lambda pair: pair.key.write_bytes(b"-----BEGIN"), "{key} holds no private key in PEM"),
    "another's key": (of_another, "the key in {key} is not the one of the certificate in {certificate}"),
    "encrypted": (encrypted, "{key} is encrypted"),
}


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_the_files_is_one_line(pair: Pair, tmp_path: Path, case: str, workers: str) -> None:
    """Before it listens, and before it looks for its database; exit code 2, and no word of the key."""
    spoil, said = WRONG[case]
    spoil(pair)
    run = Hookd(tmp_path, {"HOOKD_DATABASE_URL": NOWHERE})
    files = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
    for command in ("ingest", "up"):
        done = run(command, "--port", "0", "--workers", workers, *files)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert said.format(certificate=pair.certificate, key=pair.key) in done.err
        assert "PRIVATE" not in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_key_that_may_not_be_read_is_named(pair: Pair, tmp_path: Path) -> None:
    """With what the system says of it."""
    pair.key.chmod(0)
    run = Hookd(tmp_path, {"HOOKD_TLS_CERT": str(pair.certificate), "HOOKD_TLS_KEY": str(pair.key)})
    assert f"cannot read {pair.key}: Permission denied" in run("ingest", "--port", "0").err


@pytest.mark.parametrize("only", ["HOOKD_TLS_CERT", "HOOKD_TLS_KEY"])
def test_one_without_the_other_is_refused(pair: Pair, tmp_path: Path, only: str) -> None:
    """A receiver that was meant to speak TLS never speaks without; told with whatever else is wrong."""
    done = Hookd(tmp_path, {only: str(pair.certificate), "HOOKD_WORKRES": "2"})("ingest", "--port", "0")
    assert done.code == 2
    assert "HOOKD_TLS_CERT and HOOKD_TLS_KEY: set both, or neither" in done.err
    assert "did you mean HOOKD_WORKERS?" in done.err


# --- what is written --------------------------------------------------------------------------------------------------


def commands_shown() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "tls.md").read_text(), re.MULTILINE | re.DOTALL)


async def test_every_command_of_the_document_runs(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """docs/tls.md: certificates are made, a receiver speaks TLS with one, and curl and hookd send reach it."""
    make, make_for_names, start, post_there = commands_shown()
    environment = {"HOOKD_DATABASE_URL": database_url}
    await shell(make + make_for_names, tmp_path, environment)
    words = (*start.split()[1:], "--port", "0")
    async with hookd(*words, cwd=tmp_path, environment=None, database_url=database_url) as up:
        port = (await up.logged("ingest.listening"))["url"].rpartition(":")[2]
        await shell(post_there.replace("8080", port), tmp_path, environment)
        assert await up.stop() == 0
    assert await stored(connection) == 2


# --- who sends --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sending(database_url: str, tmp_path: Path) -> Hookd:
    return Hookd(tmp_path, {"HOOKD_DATABASE_URL": database_url})


async def test_send_trusts_whom_it_is_told_to(database_url: str, pair: Pair, sending: Hookd, tmp_path: Path) -> None:
    """With --ca an authority that nobody else trusts; without it the reason is said, and what to do."""
    authority = tmp_path / "authority.pem"
    pair.authority.cert_pem.write_to_path(str(authority))
    async with receiving(database_url, tls=pair.trusting(), **pair.settings) as receiver:
        place = f"https://127.0.0.1:{receiver.port}"
        done = await asyncio.to_thread(sending, "send", "demo", "--to", place, "--ca", str(authority), "--json")
        assert (done.code, json.loads(done.out)["status"]) == (0, 200), done.err
        done = await asyncio.to_thread(sending, "send", "demo", "--to", place)
        assert (done.code, done.out) == (1, "")
        assert f"{place} is not trusted: " in done.err
        assert "--ca names a certificate to trust" in done.err
        done = await asyncio.to_thread(sending, "send", "demo", "--to", f"http://127.0.0.1:{receiver.port}")
        assert (done.code, "write https:// instead of http://" in done.out) == (1, True)


async def test_send_and_doctor_know_their_own_receiver(database_url: str, sending: Hookd, tmp_path: Path) -> None:
    """Where the settings have hookd speak TLS, its own commands speak it too, and trust that certificate."""
    assert (await asyncio.to_thread(sending, "certificate")).code == 0
    files = {"HOOKD_TLS_CERT": "hookd-cert.pem", "HOOKD_TLS_KEY": "hookd-key.pem"}
    trusting = ssl.create_default_context(cafile=str(tmp_path / "hookd-cert.pem"))
    paths: dict[str, Any] = {"tls_cert": tmp_path / "hookd-cert.pem", "tls_key": tmp_path / "hookd-key.pem"}
    async with receiving(database_url, tls=trusting, **paths) as receiver:
        here = sending.having(**files, HOOKD_PORT=str(receiver.port))
        assert (await asyncio.to_thread(here, "send", "demo")).code == 0
        said = json.loads((await asyncio.to_thread(here, "doctor", "--json", "--provider", "github")).out)
        assert {check["name"]: check["ok"] for check in said["checks"]}["receiver"]


def test_a_ca_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """A file that is not there, or holds no certificate, is named before anything is sent."""
    run = Hookd(tmp_path, {"HOOKD_DATABASE_URL": NOWHERE})
    (tmp_path / "empty.pem").write_bytes(b"")
    for name, said in (("nowhere.pem", "cannot read nowhere.pem: No such file"), ("empty.pem", "holds no certificate")):
        for command in (("send", "demo"), ("doctor",)):
            done = run(*command, "--to", "https://127.0.0.1:1", "--ca", name)
            assert (done.code, said in done.err) == (2, True)


async def test_https_where_none_is_spoken_is_said(database_url: str, sending: Hookd) -> None:
    """Who sends by https:// to a receiver that speaks plain HTTP is told in a sentence."""
    async with receiving(database_url) as receiver:
        done = await asyncio.to_thread(sending, "send", "demo", "--to", f"https://127.0.0.1:{receiver.port}")
    assert (done.code, done.out, done.err.count("Error: ")) == (1, "", 1)
    assert "does not speak TLS as we do" in done.err
    assert os.strerror(1).lower() not in done.err  # SSL's numbers are not the system's
