"""`hookd send`: a delivery as its sender would send it, to a receiver that runs."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner

from chassis.database import Connection
from chassis.vault import Vault
from hookd.client import Answer, Client, Place, Unreachable, place_by, place_of
from hookd.commands.send import command, id_in
from ingest.settings import IngestSettings
from protocol import content
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.samples import credentials, has_time, sample_delivery, sample_of
from protocol.shaping import PADDING
from protocol.signature import judge
from protocol.source import VERIFIED, verdict_text
from tests.commands import Hookd, Ran
from tests.factories import row_of
from tests.receiving import Local, receiving
from tests.trying import KEY, commands

pytestmark = pytest.mark.any_server

AT = 1_760_000_000
SECRET = "the-source-s-own-secret"
TYPES = {"meta": "page.feed", "webex": "rooms.updated", "discord": "ENTITLEMENT_CREATE"}
WITHOUT_TYPE = {"dropbox", "websub", "rfc9421", "hmac", "ed25519", "token", "basic", "none"}


# --- the delivery itself ----------------------------------------------------------------------------------------------


def made(name: str, **changes: Any) -> tuple[Request, str]:
    """The provider's sample so changed, and the verdict on it."""
    provider, keys = PROVIDERS[name], credentials(PROVIDERS[name], AT)
    options = sample_of(provider).options
    sent = sample_delivery(provider, keys.key, AT, options=options, **changes)
    verdict = judge(provider, sent, [keys.secret], AT, options=options, certificate=keys.certificate)
    return sent, verdict_text(verdict)


@pytest.mark.parametrize("name", sorted(set(PROVIDERS) - WITHOUT_TYPE))
def test_an_event_type_stands_where_the_sender_puts_it(name: str) -> None:
    """It is the type that hookd finds, and the signature is good."""
    wanted = TYPES.get(name, "lamp_lit")
    sent, verdict = made(name, event_type=wanted)
    assert PROVIDERS[name].event_type_of(sent) == wanted
    assert verdict == VERIFIED


def test_an_event_type_that_the_sender_cannot_have_is_refused() -> None:
    """Who names no types, whose types have two words, and what no header can hold."""
    for name, wanted, words in (
        ("dropbox", "x", "names no event types"),
        ("meta", "page", "expected 2 words"),
        ("github", "a\r\nb", "printable ASCII"),
    ):
        with pytest.raises(ValueError, match=words):
            made(name, event_type=wanted)


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_body_has_exactly_the_size_asked_for(name: str) -> None:
    """Whatever it is made of, it stays what it was, and the signature is good."""
    sent, verdict = made(name, body_bytes=5000)
    assert (len(sent.body), verdict) == (5000, VERIFIED)
    least, _ = made(name)
    kind = sent.header("Content-Type") or ""
    if kind.startswith("application/x-www-form"):
        assert set(content.form(sent.body, kind)) == set(content.form(least.body, kind)) | {PADDING}
    elif not sent.body.startswith(b"<"):
        assert type(content.parse_json(sent.body)) is type(content.parse_json(least.body))
    with pytest.raises(ValueError, match=" at least"):
        made(name, body_bytes=len(least.body))


def test_a_body_of_the_least_size() -> None:
    """The least that is named is taken, one byte less is not."""
    with pytest.raises(ValueError, match="at least") as refused:
        made("github", body_bytes=1)
    least = int(str(refused.value).split()[-3])
    assert len(made("github", body_bytes=least)[0].body) == least
    with pytest.raises(ValueError, match="at least"):
        made("github", body_bytes=least - 1)


def test_what_cannot_be_signed_is_told() -> None:
    """A key of another kind, options that describe no scheme."""
    for name, options, words in (
        ("ed25519", {}, "not one that the sender signs"),
        ("hmac", {"signed": "x"}, "options"),
    ):
        with pytest.raises(ValueError, match=words):
            sample_delivery(PROVIDERS[name], "no key", AT, options=options)


def test_who_signs_a_time_is_known() -> None:
    """Of these an old delivery is refused."""
    assert {name for name in ("stripe", "slack", "github", "none") if has_time(PROVIDERS[name], AT)} == {
        "stripe",
        "slack",
    }


def test_a_retry_tells_of_the_same_moment() -> None:
    """Signed later, it says the same: where the body is the key, it is the same delivery."""
    provider = PROVIDERS["discord"]
    key = credentials(provider, AT).key
    first, retry, other = (
        sample_delivery(provider, key, AT + later, happened=happened)
        for later, happened in ((0, AT), (9, AT), (9, AT + 9))
    )
    assert provider.delivery_id_of(first) == provider.delivery_id_of(retry) != provider.delivery_id_of(other)
    assert first.header("X-Signature-Timestamp") != retry.header("X-Signature-Timestamp")


# --- the client -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://127.0.0.1:8080", Place("http://127.0.0.1:8080", "")),
        ("https://hooks.example.com/a/b/", Place("https://hooks.example.com", "/a/b")),
        ("http://user:word@[::1]:1/x", Place("http://[::1]:1", "/x")),
    ],
)
def test_a_receiver_is_named_by_its_url(url: str, place: Place) -> None:
    """With the path before the source; a log-in in it is not repeated."""
    assert place_of(url) == place
    assert place.target("github").endswith("/github")


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://x/?a=b", "http://x/#a"])
def test_what_is_no_url_of_a_receiver_is_refused(url: str) -> None:
    """With an example of one."""
    with pytest.raises(ValueError, match="such as http"):
        place_of(url)


@pytest.mark.parametrize(
    ("host", "origin"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("fd00::1", "[fd00::1]"), ("box", "box")],
)
def test_a_receiver_is_where_the_settings_say(host: str, origin: str) -> None:
    """One that listens on all addresses is asked on this machine's own."""
    place = place_by(IngestSettings(host=host, port=81, prefix="/hooks"))
    assert place == Place(f"http://{origin}:81", "/hooks")
    assert place.host == f"{origin}:81"
    with pytest.raises(ValueError, match="--to"):
        place_by(IngestSettings(port=0))


async def test_headers_go_out_as_their_bytes_are(receiver: Local, table: Connection) -> None:
    """Repeated, in their order, and beyond ASCII; and nothing is added but what HTTP needs."""
    headers = [("Host", "hookd"), ("X-A", "1"), ("x-b", "grün".encode().decode("latin-1")), ("X-A", "2")]
    async with Client(Place(f"http://127.0.0.1:{receiver.port}", "")) as client:
        answer = await client.send(Request("POST", "/demo?a=%2f&b=c+d", headers, b"\x00\xff"))
    row = await row_of(table, UUID(id_in(answer.body)))
    assert (row["target"], row["payload"]) == ("/demo?a=%2f&b=c+d", b"\x00\xff")
    names = {"host", "x-a", "x-b"}
    stored = [tuple(pair) for pair in json.loads(row["headers"])]
    assert [pair for pair in stored if pair[0].lower() in names] == headers
    assert {name.lower() for name, _ in stored} - names == {"content-length", "connection"}


async def test_a_receiver_that_is_away_is_told() -> None:
    """Where it was looked for, and why it was not there."""
    async with Client(Place("http://127.0.0.1:1", "")) as client:
        with pytest.raises(Unreachable, match=r"^nothing answers at http://127.0.0.1:1: connection refused$"):
            await client.send(Request("POST", "/x", [("Host", "x")], b""))


async def test_a_receiver_that_hangs_up_is_told() -> None:
    """Without an answer there is none."""
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Client(Place(f"http://127.0.0.1:{port}", "")) as client:
            with pytest.raises(Unreachable, match="hung up"):
                await client.send(Request("POST", "/x", [("Host", "x")], b"y"))


@pytest.mark.parametrize(("status", "is_success"), [(199, False), (200, True), (299, True), (300, False)])
def test_a_success_is_a_2xx(status: int, is_success: bool) -> None:
    """And nothing else."""
    assert Answer(status, b"").is_success is is_success


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b'{"id":5}', b"{}"])
def test_an_answer_need_not_tell_the_id(body: bytes) -> None:
    """Some senders want an answer of their own."""
    assert id_in(body) is None


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def hookd(url: str, receiver: Local, tmp_path_factory: pytest.TempPathFactory) -> Hookd:
    return commands(url, tmp_path_factory.mktemp("send"), receiver.port)


async def run(hookd: Hookd, *arguments: str) -> Ran:
    """The receiver is in this loop."""
    return await asyncio.to_thread(hookd, "send", *arguments)


async def stored(table: Connection, done: Ran, name: str, secret: str | None = None) -> tuple[Request, str]:
    """The request as it was stored, and the verdict on it."""
    row = await row_of(table, UUID(str(done.json[0]["id"])))
    request = Request(
        row["method"], row["target"], [tuple(each) for each in json.loads(row["headers"])], row["payload"]
    )
    provider = PROVIDERS[name]
    secrets = [secret or credentials(provider, time.time()).secret]
    options = sample_of(provider).options
    return request, verdict_text(judge(provider, request, secrets, row["received_at"].timestamp(), options=options))


async def test_a_delivery_is_sent_and_its_answer_shown(hookd: Hookd) -> None:
    """What was asked, what was answered, and the row's id."""
    done = await run(hookd, "github", "--type", "issues")
    assert done.code == 0
    asked, answered, its_id = done.lines
    assert asked.startswith("POST /github, ")
    assert ", type issues, delivery " in asked
    assert answered == f'200 {{"id": "{its_id.removeprefix("id ")}"}}'
    assert done.err == (
        "github is not registered: signed as the sample is, which is good where its secret is a-secret-of-the-sample\n"
    )


async def test_who_is_in_no_list_signs_nothing(hookd: Hookd) -> None:
    """A source of another name is sent a plain delivery."""
    done = await run(hookd, "demo", "--json")
    assert (done.code, done.err, done.json[0]["provider"]) == (0, "", "none")


@pytest.mark.parametrize("name", ["stripe", "twilio", "sendgrid", "rfc9421", "hubspot", "basic"])
async def test_what_arrives_is_verified(hookd: Hookd, table: Connection, name: str) -> None:
    """Over the wire too, in chunks too, whatever is signed: body, URL, headers."""
    for more in ((), ("--chunked", "--size", "20000")):
        done = await run(hookd, name, "--json", *more)
        request, verdict = await stored(table, done, name)
        assert verdict == VERIFIED
        assert (request.header("Transfer-Encoding") == "chunked") is bool(more)
        assert (len(request.body) == 20_000) is bool(more)


async def test_a_bad_delivery_is_refused_by_whoever_judges_it(hookd: Hookd, table: Connection) -> None:
    """--bad-signature and --old; of who signs no time the latter is told to be no use."""
    for option, verdict in (("--bad-signature", "signature: "), ("--old", "timestamp: ")):
        done = await run(hookd, "slack", "--json", option)
        assert (await stored(table, done, "slack"))[1].startswith(verdict)
    assert "an old delivery is as good as a new one" in (await run(hookd, "github", "--old")).err


async def test_twice_is_the_same_delivery_two_times(hookd: Hookd) -> None:
    """Two rows with one delivery id."""
    for name in ("stripe", "calendly"):
        first, second = (await run(hookd, name, "--twice", "--json")).json
        assert first["id"] != second["id"]
        assert first["delivery_id"] == second["delivery_id"] is not None


async def test_a_registered_source_is_sent_what_it_verifies(hookd: Hookd, table: Connection, tmp_path: Path) -> None:
    """By its provider, its options and its newest secret, which is shown nowhere."""
    vault = Vault(KEY, tmp_path / "none")
    options = json.dumps({"header": "X-Mine", "algorithm": "sha512"})
    await table.execute(
        "INSERT INTO hookd.sources (name, provider, mode, options) VALUES ('mine', 'hmac', 'off', $1)", options
    )
    for secret in ("an-older-one", SECRET):
        sealed = vault.seal(secret.encode())
        await table.execute("INSERT INTO hookd.secrets (source, sealed) VALUES ('mine', $1)", sealed)
    done = await run(hookd, "mine", "--json")
    assert (done.code, done.err, done.json[0]["provider"]) == (0, "", "hmac")
    assert SECRET not in done.out
    request, _ = await stored(table, done, "hmac")
    known = {"header": "X-Mine", "algorithm": "sha512"}
    assert verdict_text(judge(PROVIDERS["hmac"], request, [SECRET], time.time(), options=known)) == VERIFIED
    done = await run(hookd.having(HOOKD_SECRET_KEY="b3RoZXItdGVzdHMtc2VhbC13aXRoLXRoaXMtb25lLTA="), "mine")
    assert done.code == 1
    assert "Error: mine: a secret cannot be read with the key of HOOKD_SECRET_KEY" in done.err
    await table.execute("DELETE FROM hookd.secrets")
    assert "Error: mine has no secret" in (await run(hookd, "mine")).err
    done = await run(hookd, "mine", "--provider", "github")
    assert done.err.startswith("mine is registered with another provider: signed as the sample is")
    await table.execute("DELETE FROM hookd.sources")


async def test_a_private_key_is_the_sample_s(hookd: Hookd, table: Connection) -> None:
    """Nobody has the sender's own: which public key the source must have is said, unless it has it."""
    public = credentials(PROVIDERS["discord"], time.time()).secret
    await table.execute("INSERT INTO hookd.sources (name, provider, mode) VALUES ('games', 'discord', 'off')")
    done = await run(hookd, "games")
    assert done.err == (
        f"discord signs with a private key: signed with the sample's, which is good where its public key is {public}\n"
    )
    sealed = Vault(KEY, Path("/nowhere")).seal(public.encode())
    await table.execute("INSERT INTO hookd.secrets (source, sealed) VALUES ('games', $1)", sealed)
    assert (await run(hookd, "games")).err == ""
    await table.execute("DELETE FROM hookd.sources")


async def test_a_secret_is_given_by_a_file_or_a_variable(hookd: Hookd, table: Connection) -> None:
    """Never as an argument; no database is needed then."""
    (hookd.folder / "secret").write_text(f"{SECRET}\n")
    nowhere = hookd.having(HOOKD_DATABASE_URL="postgresql://127.0.0.1:1/nowhere", MY_SECRET=SECRET)
    for given in (("--secret-file", "secret"), ("--secret-env", "MY_SECRET")):
        done = await run(nowhere, "mine", "--provider", "github", "--json", *given)
        assert (done.code, done.err) == (0, "")
        assert (await stored(table, done, "github", SECRET))[1] == VERIFIED


async def test_a_receiver_elsewhere_is_named(url: str, hookd: Hookd) -> None:
    """With its prefix; a refusal is shown, and is exit code 1."""
    async with receiving(url, prefix="/hooks") as receiver:
        done = await run(hookd, "demo", "--to", f"http://127.0.0.1:{receiver.port}/hooks", "--json")
        assert (done.code, done.json[0]["request"]) == (0, "POST /hooks/demo")
        done = await run(hookd, "demo", "--to", f"http://127.0.0.1:{receiver.port}")
    assert done.code == 1
    assert done.lines[1].startswith('400 {"error"')


async def test_no_receiver_is_one_line(hookd: Hookd) -> None:
    """Exit code 1, and what to do."""
    done = await run(hookd.having(HOOKD_PORT="1"), "demo")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "Error: nothing answers at http://127.0.0.1:1: connection refused; "
        "start a receiver with hookd up or hookd ingest\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("No Name",), "expected a source's name"),
        (("x", "--provider", "nobody"), "not one of"),
        (("x", "--bad-signature", "--old"), "not both"),
        (("x", "--provider", "github", "--secret-env", "NO_SUCH"), "NO_SUCH: there is no such variable"),
        (("x", "--provider", "github", "--secret-file", "/no/such"), "/no/such: No such file"),
        (("x", "--provider", "github", "--secret-file", "a", "--secret-env", "B"), "not both"),
        (("x", "--provider", "none", "--bad-signature"), "signs nothing"),
        (("x", "--provider", "none", "--size", "1"), "at least"),
        (("x", "--provider", "none", "--type", "y"), "names no event types"),
        (("x", "--provider", "none", "--to", "nowhere"), "such as http://127.0.0.1:8080"),
        (("x", "--provider", "ed25519", "--secret-env", "PATH"), "this key is not one that the sender signs with"),
    ],
)
def test_wrong_usage_is_said(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """What is wrong is named, with exit code 2, and never a traceback."""
    done = Hookd(tmp_path, {"HOOKD_PORT": "1"})("send", *arguments)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


def test_a_secret_is_no_argument() -> None:
    """It would stand in the list of processes and in the shell's history."""
    assert "--secret " not in CliRunner().invoke(command, ["--help"]).output
