"""`hookd doctor`: what it finds well, what it finds wrong, and that it leaves nothing behind."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from chassis.database import Connection, Database, DatabaseError
from chassis.vault import Vault
from hookd.client import Answer, Client, Place
from hookd.doctor.environment import clock, days, durability, keys, processor
from hookd.doctor.store import Store
from hookd.doctor.trials import NOBODY_HANDLES, Sent, faults_of, made, probes_of, sent, trials_of, whats
from hookd.doctor.visit import Unknown, until_known
from protocol.providers import PROVIDERS
from protocol.source import SECRET
from tests.receiving import Local, hookd_ingest
from tests.trying import KEY, Inbox, commands, inbox
from tests.waiting import in_time

pytestmark = pytest.mark.any_server

PATIENCE_SECONDS = 20.0
ID, OTHER_ID = UUID(int=1), UUID(int=2)
NOWHERE = "postgresql://127.0.0.1:1/nowhere"
PROBES = "SELECT count(*) FROM hookd.sources WHERE is_probe"
SENT = "SELECT count(*) FROM hookd.events WHERE source LIKE 'doctor-none-%' AND source <> ALL($1)"
LEFT = """
SELECT (SELECT count(*) FROM hookd.events WHERE source LIKE 'doctor-%')
     + (SELECT count(*) FROM hookd.sources WHERE name LIKE 'doctor-%')
     + (SELECT count(*) FROM hookd.deliveries WHERE source LIKE 'doctor-%')
     + (SELECT count(*) FROM hookd.counts WHERE source LIKE 'doctor-%')
     + (SELECT count(*) FROM hookd.refused WHERE source LIKE 'doctor-%')
"""


# --- against what runs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def running(url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Inbox]:
    async with inbox(url, tmp_path_factory.mktemp("running")) as running:
        yield running


async def test_every_provider_is_well(running: Inbox, table: Connection) -> None:
    """Good, copied, forged and old deliveries and handshakes of every provider; and no trace of them afterwards."""
    done = await running.run("doctor", "--json")
    said: Any = json.loads(done.out)
    assert [each for each in said["providers"] if not each["ok"]] == []
    assert [check for check in said["checks"] if not check["ok"]] == []
    assert (done.code, done.err, said["ok"], said["error"]) == (0, "", True, None)
    assert [each["provider"] for each in said["providers"]] == list(PROVIDERS)
    tried = {each["provider"]: each["tried"] for each in said["providers"]}
    assert {"handshake", "an old one", "bad signature at the edge"} <= set(tried["slack"])
    assert tried["none"] == ["delivery", "its copy"]
    assert [each["provider"] for each in said["providers"] if each["not_tried"]] == ["aws-sns"]
    assert await table.fetchval(LEFT) == 0


async def test_a_person_reads_a_table(running: Inbox) -> None:
    """What was looked at, then each provider with what was tried; what was not is said, and not called well."""
    done = await running.run("doctor", "--provider", "github", "--provider", "aws-sns")
    assert done.code == 0
    assert "github    ok  bad signature, delivery, its copy," in done.out
    assert "not tried: a good signature and its copy: they need a certificate of Amazon's" in done.out
    assert all(f"\n{word}" in done.out for word in ("database", "durability", "clocks", "receiver", "processor"))


async def test_kept_probes_stay_until_the_next_doctor(running: Inbox, table: Connection) -> None:
    """--keep leaves them to be looked at; whatever a doctor leaves, the next one removes."""
    assert (await running.run("doctor", "--provider", "stripe", "--keep")).code == 0
    kept = await table.fetch("SELECT reason, verdict FROM hookd.events WHERE source LIKE 'doctor-stripe-%'")
    assert NOBODY_HANDLES in [row["reason"] for row in kept]
    assert await table.fetchval(PROBES) == 3
    assert (await running.run("doctor", "--provider", "none")).code == 0
    assert await table.fetchval(LEFT) == 0


async def test_a_processor_that_does_not_know_the_key_is_found_out(running: Inbox, tmp_path: Path) -> None:
    """The doctor seals with its own key: who cannot read it verifies nothing, and that is said."""
    other = "b3RoZXItdGVzdHMtc2VhbC13aXRoLXRoaXMtb25lLTA="
    done = await asyncio.to_thread(running.hookd.having(HOOKD_SECRET_KEY=other), "doctor", "--provider", "github")
    assert done.code == 1
    assert "github    WRONG  delivery: " in done.out
    assert other not in done.out + done.err


# --- in trouble -------------------------------------------------------------------------------------------------------


async def test_a_database_that_is_away_is_the_first_thing_said(tmp_path: Path) -> None:
    """One line about it, and exit code 1."""
    done = await asyncio.to_thread(commands(NOWHERE, tmp_path, 1), "doctor", "--json")
    said: Any = json.loads(done.out)
    assert (done.code, said["ok"], said["providers"]) == (1, False, [])
    assert [(check["name"], check["ok"]) for check in said["checks"]] == [("database", False)]
    assert "Traceback" not in done.err


async def test_nothing_is_tried_where_nothing_runs(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """Neither receiver nor processor: each with what to do, and nothing is registered."""
    done = await asyncio.to_thread(commands(database_url, tmp_path, 1), "doctor")
    assert done.code == 1
    assert "nothing answers at http://127.0.0.1:1: connection refused; start hookd up or hookd ingest" in done.out
    assert "none seems to run: start hookd up, or hookd processor --app" in done.out
    assert done.err == "no provider was tried: mend the above first\n"
    assert await connection.fetchval("SELECT revision FROM hookd.registry") == 0


async def test_a_receiver_of_another_database_is_told(receiver: Local) -> None:
    """It never learns of the probes; that ends, and the likely reason is said."""
    async with Client(Place(f"http://127.0.0.1:{receiver.port}", "")) as client:
        with pytest.raises(Unknown, match="does it use this database"):
            await until_known(client, "0", lambda _: None, seconds_max=0.5)


@asynccontextmanager
async def at_work(
    database_url: str, connection: Connection, folder: Path, besides: Sequence[str] = ()
) -> AsyncIterator["subprocess.Popen[str]"]:
    """A doctor who waits for a processor that was here lately and is gone."""
    await connection.execute(
        "INSERT INTO hookd.maintenance (step, succeeded_at) VALUES ('days', now()) ON CONFLICT DO NOTHING"
    )
    async with hookd_ingest(database_url, secret_key=KEY) as receiver:
        with commands(database_url, folder, receiver.port).start("doctor", "--provider", "none") as child:
            try:
                await in_time(
                    lambda: connection.fetchval(SENT, list(besides)), lambda sent: sent == 2, PATIENCE_SECONDS
                )
                yield child
            finally:
                child.kill()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_a_doctor_who_is_stopped_leaves_nothing(
    database_url: str, connection: Connection, tmp_path: Path, how: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM: its sources are removed before it ends."""
    async with at_work(database_url, connection, tmp_path) as child:
        child.send_signal(how)
        assert await asyncio.to_thread(child.wait, PATIENCE_SECONDS) in (130, -signal.SIGTERM)
    assert await connection.fetchval(LEFT) == 0


async def test_the_next_doctor_cleans_up_after_one_who_was_killed(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """What a kill -9 leaves goes with the next visit; two at once there are not."""
    async with at_work(database_url, connection, tmp_path) as child:
        second = Store(Database(database_url))
        with pytest.raises(DatabaseError, match="another hookd doctor is at work"):
            await second.take_turn()
        await second.close()
        child.kill()
        await asyncio.to_thread(child.wait, PATIENCE_SECONDS)
    left = [row["name"] for row in await connection.fetch("SELECT name FROM hookd.sources WHERE is_probe")]
    assert len(left) == 2
    async with at_work(database_url, connection, tmp_path, left) as child:
        assert await connection.fetchval("SELECT count(*) FROM hookd.sources WHERE name = ANY($1)", left) == 0
        child.send_signal(signal.SIGINT)
        await asyncio.to_thread(child.wait, PATIENCE_SECONDS)
    assert await connection.fetchval(LEFT) == 0


# --- the environment --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset_seconds", "ok", "words"), [(2.0, True, "ahead of"), (2.1, False, "ahead of"), (-2.1, False, "behind")]
)
def test_clocks_may_differ_by_two_seconds(offset_seconds: float, ok: bool, words: str) -> None:
    """Some signatures are good for five."""
    check = clock(offset_seconds)
    assert check.ok is ok
    assert words in check.says
    assert ("NTP" in check.says) is not ok


def test_days_that_are_missing_are_named() -> None:
    """Today's and tomorrow's partition."""
    today, tomorrow = date(2026, 1, 31), date(2026, 2, 1)
    assert days({"today": today, "days": [today, tomorrow]}).ok
    assert "none for 2026-02-01:" in days({"today": today, "days": [today]}).says
    assert "none for 2026-01-31 and 2026-02-01:" in days({"today": today, "days": []}).says


@pytest.mark.parametrize("name", ["fsync", "synchronous_commit"])
def test_a_server_that_forgets_is_told(name: str) -> None:
    """Also where somebody allowed it."""
    server = {"fsync": "on", "synchronous_commit": "on"}
    assert durability(server).ok
    assert f"{name} off: turn it on" in durability({**server, name: "off"}).says


@pytest.mark.parametrize(
    ("connections", "ago", "ok"), [(5, None, True), (0, 3600.0, True), (0, 3601.0, False), (0, None, False)]
)
def test_a_processor_is_connected_or_was_here_within_the_hour(connections: int, ago: float | None, ok: bool) -> None:
    """One that cron starts is not always there."""
    assert processor({"processor_connections": connections, "maintained_seconds_ago": ago}).ok is ok


async def test_a_secret_that_cannot_be_read_is_told(connection: Connection, database: Database, tmp_path: Path) -> None:
    """With the source's name, and nothing of the secret."""
    await connection.execute("INSERT INTO hookd.sources (name, provider, mode) VALUES ('mine', 'github', 'deferred')")
    theirs = Vault(KEY, tmp_path / "none")
    await connection.execute("INSERT INTO hookd.secrets (source, sealed) VALUES ('mine', $1)", theirs.seal(b"s3cret"))
    store = Store(database)
    records = await store.sources()
    await store.close()
    assert keys(theirs, records).ok
    check = keys(Vault(None, tmp_path / "secret.key"), records)
    assert not check.ok
    assert "mine: a secret cannot be read" in check.says
    assert not keys(Vault("no key", tmp_path / "none"), []).ok


# --- what is found wrong ----------------------------------------------------------------------------------------------


def tried(provider: str, what: str, *, edge: bool = False, status: int | None = None, body: bytes = b"") -> Sent:
    """A trial with the answer it should have had, unless another is given."""
    at = time.time()
    probe = next(each for each in probes_of(provider, "0", at) if (each.draft.mode == "edge") is edge)
    trial = next(each for each in trials_of(probe, at) if each.what == what)
    request = made(trial, at, f"/{probe.draft.name}", "hooks.example.com")
    first = sent(trial, request, Answer(200, json.dumps({"id": str(ID)}).encode()), at)
    if status is not None:
        return first._replace(answer=Answer(status, body))
    if first.greeting is not None:
        return first._replace(answer=Answer(first.greeting.status, first.greeting.body))
    return first._replace(answer=Answer(401, b"")) if edge and not first.is_verified else first


def a_row(each: Sent, **changes: Any) -> dict[str, Any]:
    """The row it should have become."""
    provider = each.trial.probe.provider
    refused = {"status": "failed", "reason": "unverified: signature: no", "verdict": "signature: no"}
    verified = {"status": "processed", "reason": NOBODY_HANDLES, "verdict": "verified"}
    return {
        "id": ID,
        "method": each.request.method,
        "target": each.request.target,
        "headers": [("Content-Length", "1"), *each.request.headers],
        "payload": each.request.body,
        "event_type": provider.event_type_of(each.request),
        "delivery_id": provider.delivery_id_of(each.request),
        **(verified if each.is_verified else refused),
        **changes,
    }


@pytest.mark.parametrize("what", ["delivery", "bad signature", "handshake"])
def test_what_is_as_it_should_be_has_no_faults(what: str) -> None:
    """The row beside which the wrong ones below stand."""
    each = tried("slack", what)
    row = a_row(each) if each.greeting is None else None
    assert faults_of(each, row, [row] if row else []) == []


@pytest.mark.parametrize(
    ("what", "changes", "words"),
    [
        ("delivery", {"payload": b"{}"}, "the body is not as it was sent"),
        ("delivery", {"headers": []}, "the headers are not as they were sent"),
        ("delivery", {"target": "/"}, "method or target are not"),
        ("delivery", {"method": "PUT"}, "method or target are not"),
        ("delivery", {"event_type": None}, "event_type is none, not app_mention"),
        ("delivery", {"delivery_id": "x"}, "delivery_id is x, not Ev"),
        ("delivery", {"verdict": None}, "verdict is none, not verified"),
        ("delivery", {"verdict": "signature: no"}, "verdict is signature: no, not verified"),
        ("delivery", {"status": "failed", "reason": "RuntimeError"}, "status is failed, not processed (RuntimeError)"),
        ("delivery", {"status": "new"}, "not settled in time"),
        ("delivery", {"reason": None}, f"reason is none, not {NOBODY_HANDLES}"),
        ("delivery", {"id": OTHER_ID}, "answered"),
        ("bad signature", {"verdict": "verified"}, "verdict is verified, not a refusal"),
        ("bad signature", {"verdict": None}, "verdict is none"),
        ("bad signature", {"status": "processed"}, "processed, not failed as unverified"),
        ("bad signature", {"reason": "RuntimeError"}, "failed, not failed as unverified (RuntimeError)"),
        ("an old one", {}, "verdict is signature: no, not timestamp"),
    ],
)
def test_each_thing_that_is_wrong_is_told(what: str, changes: dict[str, Any], words: str) -> None:
    """In a row that is right but for that."""
    each = tried("slack", what)
    row = a_row(each, **changes)
    assert [fault for fault in faults_of(each, row, [row]) if words in fault]


def test_a_wrong_answer_is_told() -> None:
    """Of a delivery, of a handshake, and at the edge."""
    assert faults_of(tried("github", "delivery", status=503, body=b"away"), None, []) == ["answered 503 away"]
    assert faults_of(tried("github", "delivery"), None, []) == ["answered 2xx, and there is no row"]
    for provider, status, fault in (("github", 202, "answered 202, not 200"), ("twilio", 200, "answered 200, not 204")):
        one = tried(provider, "delivery", status=status)
        assert fault in faults_of(one, a_row(one), [])
    (fault,) = faults_of(tried("slack", "handshake", status=200, body=b"{}"), None, [])
    assert fault == "answered 200 {}, not 200 lamp-4711"
    asked = tried("slack", "handshake")
    assert faults_of(asked, a_row(asked), []) == ["a handshake was stored as an event"]


def test_a_forgery_at_the_edge_is_refused_and_kept() -> None:
    """401, and a failed row that says why."""
    forged = tried("github", "bad signature", edge=True)
    kept = a_row(forged, reason="refused at the edge: signature: no")
    assert faults_of(forged, kept, []) == []
    assert faults_of(forged, None, []) == ["refused at the edge, and not kept"]
    assert faults_of(forged, a_row(forged), []) != []
    let_in = tried("github", "bad signature", edge=True, status=200)
    assert faults_of(let_in, kept, []) == ["answered 200 at the edge, not 401"]


def test_of_two_copies_one_is_handled() -> None:
    """Not both, not none, and the other says of which it is one; where there is no id, both are."""
    first, copy = tried("github", "delivery"), tried("github", "its copy")
    won, lost = a_row(first), a_row(copy, reason=f"duplicate of {ID}")
    assert faults_of(first, won, [won, lost]) == []
    assert faults_of(copy, lost, [won, lost]) == []
    both = [won, a_row(copy, id=ID)]
    assert "of a delivery and its copy 2 were handled" in faults_of(first, won, both)
    assert "of a delivery and its copy 0 were handled" in faults_of(copy, lost, [lost, lost])
    wrong = a_row(copy, reason=f"duplicate of {OTHER_ID}")
    assert faults_of(copy, wrong, [won, wrong]) == [f"reason is duplicate of {OTHER_ID}, not duplicate of {ID}"]
    plain = tried("dropbox", "delivery")
    assert faults_of(plain, a_row(plain), [a_row(plain), a_row(plain)]) == []


@pytest.mark.parametrize("name", PROVIDERS)
def test_probes_are_sources_that_somebody_could_register(name: str) -> None:
    """By the rules of any other; secret options are kept with the secrets."""
    for probe in probes_of(name, "0123abcd", time.time()):
        whole = replace(probe.draft, options=probe.options)
        assert whole.faults(sum(called == SECRET for called, _ in probe.secrets)) == []
        assert not set(probe.draft.options) & {called for called, _ in probe.secrets}
        assert list(whats(probe, time.time()))
