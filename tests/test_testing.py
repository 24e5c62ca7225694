"""`hookd.testing`: what a user's tests are given."""

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hookd
from chassis.database import Connection
from hookd import testing
from processor.handling.event import Event
from protocol.providers import PROVIDERS
from protocol.signature import judge
from protocol.source import VERIFIED, verdict_text

PAGE = (Path(__file__).parent.parent / "docs" / "testing.md").read_text()
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SIGNING = sorted(set(PROVIDERS) - {"none", "aws-sns"})


@pytest.mark.any_server
def test_the_page_s_examples_pass(tmp_path: Path, server_url: str) -> None:
    """Every file that docs/testing.md shows, as it stands there: ten tests."""
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    known = os.environ | {"TEST_DATABASE_URL": server_url}
    done = subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 passed" in done.stdout


def test_pytest_is_not_imported_without_need() -> None:
    """Whoever tests with something else need not have it."""
    code = "import sys, hookd.testing; hookd.testing.delivery('github'); sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", SIGNING)
def test_a_delivery_is_verified_by_its_secret(name: str) -> None:
    """With `secret` and `options`; a forged one is not."""
    for fault, verified in ((None, True), ("bad-signature", False)):
        made = testing.delivery(name, fault=fault)  # type: ignore[arg-type]
        verdict = judge(PROVIDERS[name], made, [testing.secret(name)], time.time(), options=testing.options(name))
        assert (verdict_text(verdict) == VERIFIED) is verified


def test_a_delivery_is_as_it_is_asked_for() -> None:
    """With its own type, secret, time, target and id; another one each time."""
    made = testing.delivery("slack", type="message", secret="mine", at=NOON, target="/a?b=c", id="7")
    assert (made.target, PROVIDERS["slack"].event_type_of(made)) == ("/a?b=c", "message")
    assert PROVIDERS["slack"].delivery_id_of(made) == "Ev7"
    assert verdict_text(judge(PROVIDERS["slack"], made, ["mine"], NOON.timestamp())) == VERIFIED
    assert testing.delivery("github").header("X-GitHub-Delivery") != testing.delivery("github").header(
        "X-GitHub-Delivery"
    )
    with pytest.raises(ValueError, match="no provider 'nobody': one of aws-sns, "):
        testing.delivery("nobody")


def test_an_event_is_as_a_handler_is_given_it() -> None:
    """Of the sample, or with a body of one's own; its id is of its time."""
    event = testing.event("github", type="issues", at=NOON)
    assert (event.source, event.event_type, event.method, event.target, event.attempt) == (
        "github", "issues", "POST", "/github", 1,
    )  # fmt: skip
    assert event.json()["repository"]["full_name"] == "example/lighthouse"
    assert event.header("x-github-event") == "issues"
    assert event.delivery_id == event.header("X-GitHub-Delivery")
    assert event.received_at == NOON
    assert (event.id.version, event.id.int >> 80) == (7, int(NOON.timestamp() * 1000))
    mine = testing.event("stripe", json={"a": 1}, source="payments", attempt=3)
    assert (mine.source, mine.target, mine.json(), mine.attempt) == ("payments", "/payments", {"a": 1}, 3)
    assert testing.event("stripe", body=b"\xff").body == b"\xff"


def test_an_event_has_a_body_of_one_s_own_kind() -> None:
    """JSON, a form, a form with files, text or bytes; with the Content-Type of its kind, whatever the sample's is."""
    assert testing.event("twilio", json=[1]).payload() == [1]
    assert testing.event("github", form={"a": "ß&=", "b": ""}).payload() == {"a": "ß&=", "b": ""}
    assert testing.event(text="größer").text() == "größer"
    scan = hookd.File("lamp ☃.png", "image/png", b"\x89PNG\r\n--\0")
    sent = testing.event(form={"scan": scan, "title": "größer"})
    assert (sent.form()["title"], sent.files()) == ("größer", {"scan": scan})
    assert testing.event(headers={"Content-Type": "text/csv"}, text="a;b").content_type == "text/csv"
    with pytest.raises(ValueError, match="the body is one of json=, form=, text= and body="):
        testing.event(text="a", body=b"b")


@settings(deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.binary(), max_size=4))
def test_any_files_arrive(files: dict[str, bytes]) -> None:
    """Of a form with files each arrives as it was given, whatever bytes are in it."""
    names = {f"field{number}": name for number, name in enumerate(files)}
    form = {field: hookd.File("a", "application/octet-stream", files[name]) for field, name in names.items()}
    assert testing.event(form=form).form() == form


def test_an_event_is_of_its_path() -> None:
    """The path's first segment is the source; the query stays; a path of another source is refused."""
    sent = testing.event(path="/lamp/7?by=keeper", method="PUT", headers={"X-A": "1"})
    assert (sent.source, sent.target, sent.method, sent.header("x-a")) == ("lamp", "/lamp/7?by=keeper", "PUT", "1")
    assert (sent.body, sent.payload(), sent.event_type) == (b"", None, None)
    with pytest.raises(ValueError, match="its first segment is the source, door"):
        testing.event(path="/lamp", source="door")
    with pytest.raises(ValueError, match="its first segment is the source's name"):
        testing.event(path="/LAMP")


def test_an_event_is_named_by_its_own_body() -> None:
    """As in the processor: what the provider reads in the body is read in the body that is given."""
    mine = testing.event("stripe", json={"id": "evt_7", "type": "charge.failed"})
    assert (mine.event_type, mine.delivery_id) == ("charge.failed", "evt_7")
    assert testing.event(path="/stripe", json={"type": "charge.failed"}).event_type == "charge.failed"
    assert testing.event("stripe", json={}, type="charge.failed").event_type == "charge.failed"


# --- run ------------------------------------------------------------------------------------------------------------


def run(function: object, sent: Event | None = None, **options: float) -> testing.Result:
    return testing.run(function, sent or testing.event(json={"a": 1}), **options)  # type: ignore[arg-type]


def test_a_run_gives_what_parameters_ask_for() -> None:
    """The rule's variables, the checked payload, the event; and what the handler returns is the result's value."""

    @hookd.webhook("/lamp/<int:number>")
    def light(payload: dict[str, int], number: int, event: Event) -> object:
        return payload, number, event.source

    result = run(light, testing.event(path="/lamp/7", json={"a": "1"}))
    assert result == testing.Result("processed", value=({"a": 1}, 7, "lamp"))
    assert run(light, testing.event(path="/lamp/7", json={"a": "x"})).reason == (
        "payload.a: Input should be a valid integer, unable to parse string as an integer"
    )


def test_what_a_sender_would_have() -> None:
    """Of a handler that replies the value is its answer."""

    @hookd.on("demo", reply=True)
    async def told(event: Event) -> object:
        return {"a": 1}, 201

    answer = run(told).value
    assert (answer.status, answer.headers, answer.body) == (201, (("Content-Type", "application/json"),), b'{"a":1}')


def test_a_run_s_place() -> None:
    """A `def` runs in a thread, an `async def` in the event loop."""

    def apart(event: Event) -> object:
        return threading.current_thread()

    async def here(event: Event) -> object:
        return threading.current_thread()

    assert run(apart).value is not threading.current_thread()
    assert run(here).value is threading.current_thread()


def test_what_would_become_of_it() -> None:
    """Retry, Reject, abort and any other exception mean what they mean to the processor; the error is at hand."""

    async def later(event: Event) -> None:
        raise hookd.Retry("later", after=30)

    async def never(event: Event) -> None:
        raise hookd.Reject("never")

    async def refused(event: Event) -> None:
        hookd.abort(403)

    def broken(event: Event) -> None:
        raise StopIteration

    def misdeclared(event: Event) -> object:
        return asyncio.sleep(0)

    def told(function: object) -> tuple[str, str | None, float | None]:
        result = run(function)
        return result.status, result.reason, result.after

    assert told(later) == ("retry", "later", 30)
    assert told(never) == ("failed", "never", None)
    assert told(refused) == ("failed", "aborted: 403 Forbidden", None)
    assert told(broken) == ("retry", "StopIteration", 5)
    assert isinstance(run(broken).error, StopIteration)
    assert "returned a coroutine: declare it with async def" in str(run(misdeclared).error)


def test_what_nobody_runs_is_not_done() -> None:
    """A coroutine that is not awaited, a handler that yields behind a wrapper: its event is not processed."""

    async def work(event: Event) -> None: ...

    async def forgetful(event: Event) -> object:
        return work(event)

    def plain(event: Event) -> object:
        return (each for each in event.body)

    class Yielding:
        async def __call__(self, event: Event) -> AsyncIterator[int]:
            yield 1

    for function, what in ((forgetful, "coroutine"), (plain, "generator"), (Yielding(), "async generator")):
        result = run(function)
        assert (result.status, result.reason) == (
            "retry",
            f"TypeError: its handler returned a {what}, which nobody runs",
        )


def test_a_run_is_as_long_as_it_may_be() -> None:
    """Over its time an `async def` is cancelled, and a thread no longer waited for: both are tried again."""
    cancelled, held = [], threading.Event()

    @hookd.on("demo", timeout=0.05)
    async def slow(event: Event) -> None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.append(event.id)
            raise

    def stuck(event: Event) -> None:
        held.wait()

    for result in (run(slow), run(stuck, timeout=0.05)):
        assert result.status == "retry"
        assert re.fullmatch(r"timed out after [\d.]+ s", result.reason or "")
    held.set()
    assert len(cancelled) == 1


def test_a_declaration_s_retries_count() -> None:
    """The last attempt that it allows is the last; before, it is tried again after its own delay."""

    @hookd.on("demo", retries=[7, 70])
    async def torn(event: Event) -> None:
        raise RuntimeError("torn")

    results = [run(torn, testing.event(attempt=attempt)) for attempt in (1, 2, 3)]
    assert [(each.status, each.after) for each in results] == [("retry", 7), ("retry", 70), ("failed", None)]


def test_a_handler_that_does_not_take_it() -> None:
    """Where the processor would not give it that event, a run says so, and why."""

    @hookd.on("github", event="push", where="payload.ref")
    async def deploy(event: Event) -> None: ...

    @hookd.webhook("/lamp/<int:n>", methods=["PUT"])
    def light(payload: object, n: int) -> None: ...

    for function, sent, why in (
        (deploy, testing.event("gitlab"), "it takes 'github', not 'gitlab'"),
        (deploy, testing.event("github", type="issues"), "it takes 'push', not event type 'issues'"),
        (deploy, testing.event("github", type="push", json={}), "where='payload.ref' is not so"),
        (light, testing.event(path="/lamp/x", method="PUT"), "its path is /lamp/<int:n>"),
        (light, testing.event(path="/lamp/1"), "it takes PUT, not POST"),
    ):
        with pytest.raises(testing.NotTaken, match=re.escape(why)):
            run(function, sent)


def test_a_method_runs_with_its_object() -> None:
    """Bound to an object of the test's own, else to one made without arguments."""
    assert run(Keeper("ada").greet, testing.event("github")).value == "ada"
    assert run(Keeper.greet, testing.event("github")).value == "nobody"


class Keeper:
    """A user's handlers."""

    def __init__(self, name: str = "nobody") -> None:
        self.name = name

    @hookd.on("github")
    async def greet(self, event: Event) -> str:
        return self.name


def test_what_is_no_handler() -> None:
    """A function that cannot be a handler is refused with its place."""

    def lost(event: Event, wish: object) -> None: ...

    with pytest.raises(ValueError, match=r"test_testing\.py:\d+: nothing is given to its parameter 'wish'"):
        run(lost)


async def test_a_run_where_a_loop_runs() -> None:
    """There `run` says what to await instead."""

    async def here(event: Event) -> object:
        return asyncio.get_running_loop()

    with pytest.raises(RuntimeError, match=r"await hookd\.testing\.run_async"):
        run(here)
    assert (await testing.run_async(here, testing.event())).value is asyncio.get_running_loop()


async def test_a_run_that_is_cancelled_is_no_failure() -> None:
    """Who cancels the test cancels the run; a handler that cancels itself has failed."""

    async def here(event: Event) -> None:
        raise asyncio.CancelledError

    assert (await testing.run_async(here, testing.event())).reason == "asyncio.exceptions.CancelledError"
    entered = asyncio.Event()

    async def wait(event: Event) -> None:
        entered.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(testing.run_async(wait, testing.event()))
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_run_with_a_connection(connection: Connection) -> None:
    """It is committed with what would be processed, else rolled back; what a commit would refuse is a failure."""
    await connection.execute("CREATE TABLE ledger (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    async def enter(payload: list[int], conn: asyncpg.Connection) -> None:
        for number in payload:
            await conn.execute("INSERT INTO ledger VALUES ($1)", number)
        if payload[-1] < 0:
            raise hookd.Reject("less than nothing")

    async def entered(*numbers: int) -> tuple[str, int]:
        result = await testing.run_async(enter, testing.event(json=numbers), connection=connection)
        return result.status, await connection.fetchval("SELECT count(*)::int FROM ledger")

    with pytest.raises(RuntimeError, match="asks for a connection: await"):
        await testing.run_async(enter, testing.event(json=[1]))
    assert await entered(1) == ("processed", 1)
    assert await entered(2, -1) == ("failed", 1)
    assert await entered(2, 2) == ("retry", 1)
    async with connection.transaction():
        assert await entered(3) == ("processed", 2)
        assert await entered(4, -1) == ("failed", 2)
