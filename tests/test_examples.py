"""The programs of examples/: each does what it says."""

import json
import runpy
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
from slack_sdk.signature import SignatureVerifier

from chassis.database import Connection
from hookd import testing
from tests.commands import Hookd
from tests.factories import an_event, row_of
from tests.handling import declared
from tests.processing import Watch
from tests.receiving import hookd_ingest
from tests.registering import SECRET_KEY, a_delivery, a_source
from tests.sending import Headers

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PUSH = (ROOT / "tests/data/github/push.json").read_bytes()
SHOWN = [["X-GitHub-Event", "push"], ["Content-Type", "application/json"]]
COMMAND = {"command": "/light", "user_id": "U0KEEPER", "channel_id": "C0LAMP"}


@pytest.fixture(autouse=True)
def passing() -> Iterator[None]:
    """What an example declares is taken away with the test that ran it."""
    with declared():
        yield


def example(name: str) -> Any:
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / f"{name}.py")))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_each_is_an_app(path: Path) -> None:
    """Each has handlers that hookd loads, and says in its first lines how it is started."""
    done = Hookd(ROOT, {})("routes", "--app", str(path))
    assert done.code == 0, done.err
    assert f"hookd up --app examples/{path.name}" in path.read_text()


async def test_a_push_is_deployed(connection: Connection, database_url: str, tmp_path: Path) -> None:
    """deploy.py: GitHub's push, processed, runs the command with the commit and the repository's name."""
    script = tmp_path / "deploy"
    script.write_text('#!/bin/sh\necho "deployed $*"\n')
    script.chmod(0o755)
    event_id = await an_event(connection, source="github", event_type="push", headers=SHOWN, payload=PUSH)
    hookd = Hookd(tmp_path, {"HOOKD_DATABASE_URL": database_url, "DEPLOY_COMMAND": f"{script} --quick"})
    done = hookd("processor", "--app", str(EXAMPLES / "deploy.py"), "--once")
    assert "deploying Codertocat/Hello-World at 6113728, 1 commits by Codertocat" in done.lines
    assert f"deployed --quick {json.loads(PUSH)['after']} Codertocat/Hello-World" in done.lines
    assert (await row_of(connection, event_id))["status"] == "processed"


async def test_a_deployment_that_fails_is_tried_again(
    connection: Connection, database_url: str, tmp_path: Path
) -> None:
    """deploy.py: a command that ends with an error leaves the event to another attempt."""
    event_id = await an_event(connection, source="github", event_type="push", headers=SHOWN, payload=PUSH)
    hookd = Hookd(tmp_path, {"HOOKD_DATABASE_URL": database_url, "DEPLOY_COMMAND": "false"})
    hookd("processor", "--app", str(EXAMPLES / "deploy.py"), "--once")
    row = await row_of(connection, event_id)
    assert (row["status"], row["attempts"], row["reason"]) == ("new", 1, "RuntimeError: false ended with 1")


@pytest.mark.parametrize("change", [{"ref": "refs/heads/next"}, {"deleted": True}])
def test_another_push_is_let_be(change: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    """deploy.py: another branch, or one that was deleted, deploys nothing."""
    push = testing.event("github", type="push", json=json.loads(PUSH) | change)
    assert testing.run(example("deploy").deploy, push).status == "processed"
    assert capsys.readouterr().out == ""


def test_a_command_is_answered() -> None:
    """slack_command.py: it turns a channel's light on and off, tells how it is, and knows what it does not know."""
    light = example("slack_command").light
    said = []
    for text in ("on", "", "off", "brighter"):
        result = testing.run(light, testing.event("slack", form=COMMAND | {"text": text}))
        assert result.status == "processed"
        said.append(str(result.value))
    for words, answer in zip(("light is on", "light is on", "light is off", "not `brighter`"), said, strict=True):
        assert words in answer
    assert ["in_channel" in answer for answer in said] == [True, False, True, False]


async def test_a_command_is_answered_in_its_request(connection: Connection, database_url: str) -> None:
    """slack_command.py: Slack's own request, signed, has its answer in time; its row is verified, and processed."""
    await a_source(connection, "slack")
    watch = await Watch.over(connection)
    body, moment = urlencode(COMMAND | {"text": "on"}).encode(), str(int(time.time()))
    signature = SignatureVerifier(testing.secret("slack")).generate_signature(timestamp=moment, body=body)
    headers: Headers = [
        (b"Content-Type", b"application/x-www-form-urlencoded"), (b"X-Slack-Request-Timestamp", moment.encode()),
        (b"X-Slack-Signature", str(signature).encode()),
    ]  # fmt: skip
    async with hookd_ingest(database_url, app=EXAMPLES / "slack_command.py", secret_key=SECRET_KEY) as receiver:
        answer = await receiver.post("/slack", body, headers)
        assert "the light is on" in answer.body.decode()
        [(event_id, ended)] = (await watch.settled()).items()
    assert (ended, (await row_of(connection, event_id))["verdict"]) == (("processed", None), "verified")


def test_another_command_is_not_its_business() -> None:
    """slack_command.py: only its own command is taken; one that says too little has failed."""
    light = example("slack_command").light
    with pytest.raises(testing.NotTaken):
        testing.run(light, testing.event("slack", form=COMMAND | {"command": "/dim", "text": ""}))
    result = testing.run(light, testing.event("slack", form=COMMAND))
    assert (result.status, result.reason) == ("failed", "payload.text: Field required")


async def test_a_payment_is_entered_once(connection: Connection) -> None:
    """stripe_ledger.py: an invoice has one entry, however often its payment is told."""
    module = example("stripe_ledger")
    await connection.execute(module.__doc__.split("\n\n")[-1])
    paid = testing.event("stripe")
    for event in (paid, paid, testing.event("stripe")):
        assert (await testing.run_async(module.enter, event, connection=connection)).status == "processed"
    entries = await connection.fetch("SELECT * FROM ledger")
    assert [tuple(each) for each in entries] == [("in_sample", 4200, "eur", paid.id)]


async def test_a_payment_goes_all_the_way(connection: Connection, database_url: str, tmp_path: Path) -> None:
    """stripe_ledger.py: of a signed payment that comes twice there is one entry, by the processor's own transaction."""
    await connection.execute(example("stripe_ledger").__doc__.split("\n\n")[-1])
    await a_source(connection, "stripe")
    first, copy = await a_delivery(connection, source="stripe"), await a_delivery(connection, source="stripe")
    settings = {"HOOKD_DATABASE_URL": database_url, "HOOKD_SECRET_KEY": SECRET_KEY}
    done = Hookd(tmp_path, settings)("processor", "--app", str(EXAMPLES / "stripe_ledger.py"), "--once")
    assert done.code == 0, done.err
    assert await (await Watch.over(connection)).settled() == {
        first: ("processed", None),
        copy: ("processed", f"duplicate of {first}"),
    }
    assert await connection.fetchval("SELECT array_agg(event) FROM ledger") == [first]


async def test_what_was_not_paid_is_not_entered(connection: Connection) -> None:
    """stripe_ledger.py: an invoice of nothing has failed, with the place."""
    body = {"type": "invoice.paid", "data": {"object": {"id": "in_1", "amount_paid": 0, "currency": "eur"}}}
    event = testing.event("stripe", json=body)
    result = await testing.run_async(example("stripe_ledger").enter, event, connection=connection)
    assert (result.status, result.reason) == (
        "failed", "payload.data.object.amount_paid: Input should be greater than 0",
    )  # fmt: skip
