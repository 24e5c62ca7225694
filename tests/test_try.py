"""`hookd test`: what a handler would make of a request, without HTTP and without a row."""

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.database import Connection
from hookd.crafting import guessed
from tests.commands import HOOKD, Hookd, Ran

pytestmark = pytest.mark.any_server

NOWHERE = (
    "postgresql://127.0.0.1:1/nowhere"  # no test but those of a connection needs a database: this one answers nobody
)

APP = """
import logging, sys, time
import asyncpg
import hookd

@hookd.on("github", event="push", where="payload.ref == 'refs/heads/main'")
async def deploy(event):
    print("deploying", event.attempt)
    logging.getLogger("app").info("with care")

@hookd.on("github", event="push")
def note(event):
    return {"noted": True}

@hookd.webhook("/lamp/<name>/<int:number>", methods=["PUT"])
def light(payload, name, number):
    print(name, number, payload)

@hookd.on("echo")
def echo(event):
    print(event.content_type, event.text())

@hookd.on("torn", retries=[5, 60])
async def torn(event):
    raise RuntimeError("torn \\x1b[2J")

@hookd.on("later")
async def later(event):
    raise hookd.Retry("later", after=90)

@hookd.on("never")
async def never(event):
    raise hookd.Reject("never")

@hookd.on("stuck", timeout=0.1)
def stuck(event):
    time.sleep(600)

@hookd.on("ledger")
async def enter(payload: list[int], conn: asyncpg.Connection):
    for number in payload:
        await conn.execute("INSERT INTO ledger VALUES ($1)", number)
    print(await conn.fetchval("SELECT count(*) FROM ledger"), "entries")

@hookd.webhook("/bell/<times>", reply=True)
def bell(payload, times):
    if times == "never":
        hookd.abort(403, "not by you")
    return {"rung": times}
"""


@pytest.fixture
def hookd(tmp_path: Path) -> Hookd:
    (tmp_path / "app.py").write_text(APP)
    return Hookd(tmp_path, {"HOOKD_DATABASE_URL": NOWHERE, "HOOKD_APP": "app.py"})


def found(done: Ran) -> dict[str, Any]:
    [one] = done.json
    return one


def test_it_names_the_handler_and_what_would_become(hookd: Hookd) -> None:
    """The request, the handler with its file and line, what it prints, and `processed`; exit code 0."""
    done = hookd("test", "/github", '{"ref": "refs/heads/main"}', "-H", "X-GitHub-Event: push", "--attempt", "2")
    assert (done.code, done.lines) == (
        0,
        [
            "POST /github, 26 bytes, application/json (guessed), type push",
            "handler deploy (app.py:6)",
            "deploying 2",
            "processed",
        ],
    )
    assert "with care" in done.err


def test_it_says_which_were_asked_before(hookd: Hookd) -> None:
    """A handler that is passed by is named with the reason; a value that goes nowhere is said to."""
    done = hookd("test", "--source", "github", "--type", "push", "-H", "Content-Type: text/plain", "/dev/null")
    assert done.lines[1:] == [
        "not deploy (app.py:6): where=\"payload.ref == 'refs/heads/main'\" is not so",
        "handler note (app.py:11)",
        "returned {'noted': True} (ignored: reply=True would answer the sender with it)",
        "processed",
    ]


def test_what_a_sender_would_be_answered(hookd: Hookd) -> None:
    """Of a handler that replies the answer is shown; a refusal of its own is the event's reason, as in a receiver."""
    assert hookd("test", "/bell/7").lines[-2:] == ['answers 200 {"rung":"7"}', "processed"]
    assert hookd("test", "/bell/never").lines[-2:] == ["answers 403 not by you", "processed: answered 403"]


def test_an_answer_that_nobody_would_have_waited_for(hookd: Hookd) -> None:
    """One that took longer than HOOKD_REPLY_SECONDS is shown, and said to be too late."""
    done = hookd.having(HOOKD_REPLY_SECONDS="0.0001")("test", "/bell/7")
    assert done.lines[-2] == 'answers 200 {"rung":"7"} (too late: after 0.0001 s its sender has the usual answer)'


def test_what_a_body_may_unfold_into(hookd: Hookd) -> None:
    """As much as the processor's settings allow."""
    (hookd.folder / "body.gz").write_bytes(gzip.compress(b"x" * 1000))
    arguments = ("test", "/echo", "@body.gz", "-H", "Content-Encoding: gzip")
    assert hookd.having(HOOKD_CONTENT_BYTES_MAX="1000")(*arguments).code == 0
    done = hookd.having(HOOKD_CONTENT_BYTES_MAX="999")(*arguments)
    assert (done.code, "more than 999 bytes" in done.out) == (1, True)


def test_a_rule_s_variables(hookd: Hookd) -> None:
    """A path is matched by its rule, and its variables are told; a method that the rule does not take is, too."""
    done = hookd("test", "/lamp/north%20side/7?a=b", "7", "--method", "PUT")
    assert done.lines[1:3] == ["handler light (app.py:15), name='north side', number=7", "north side 7 7"]
    done = hookd("test", "/lamp/north/7", "7")
    assert (done.code, done.lines[1]) == (1, "not light (app.py:15): it takes PUT, not POST")
    done = hookd("test", "/lamp/north/seven", "--method", "PUT")
    assert (done.code, done.lines[1]) == (1, "not light (app.py:15): its path is /lamp/<name>/<int:number>")


def test_nobody_takes_it(hookd: Hookd) -> None:
    """A source without any handler, and a type that none takes: what would become of it is said; exit code 1."""
    done = hookd("test", "/gitlab", "{}")
    assert (done.code, done.lines[1:]) == (
        1,
        [
            "no handler takes it; there are handlers for bell, echo, github, lamp, later, ledger, never, stuck, torn",
            "it would be kept for 10 min for a newer app, then fail: no handler for source 'gitlab'",
        ],
    )
    done = hookd("test", "/github", "{}", "--type", "star")
    assert done.lines[1:] == [
        "not deploy (app.py:6): it takes 'push', not event type 'star'",
        "not note (app.py:11): it takes 'push', not event type 'star'",
        "no handler takes it; it would be processed, ignored: no handler for event type 'star'",
    ]
    assert (done.code, found(hookd("test", "/gitlab", "--json"))["status"]) == (1, "unhandled")


@pytest.mark.parametrize(
    ("source", "attempt", "said"),
    [
        ("torn", "1", r"would be tried again in 5 s (attempt 1 of 3): RuntimeError: torn \x1b[2J"),
        ("torn", "2", r"would be tried again in 60 s (attempt 2 of 3): RuntimeError: torn \x1b[2J"),
        ("torn", "3", r"failed: gave up after 3 attempts: RuntimeError: torn \x1b[2J"),
        ("later", "1", "would be tried again in 90 s (attempt 1 of 10): later"),
        ("never", "1", "failed: never"),
    ],
)
def test_what_fails_exits_with_1(hookd: Hookd, source: str, attempt: str, said: str) -> None:
    """A failure, and when it would be tried again, as the handler and the settings say; nothing moves a cursor."""
    done = hookd("test", f"/{source}", "--attempt", attempt)
    assert (done.code, done.lines[-1]) == (1, said)
    assert ("Traceback (most recent call last):" in done.out) is (source == "torn")
    assert "\x1b" not in done.out


def test_settings_count(hookd: Hookd) -> None:
    """Attempts are those of the settings where a handler says nothing, and the path is below the prefix."""
    done = hookd.having(HOOKD_ATTEMPTS_MAX="1")("test", "/later")
    assert done.lines[-1] == "failed: gave up after 1 attempts: later"
    for path in ("/echo", "/hooks/echo"):
        done = hookd.having(HOOKD_PREFIX="/hooks")("test", path, "a")
        assert (done.code, done.lines[0]) == (0, "POST /hooks/echo, 1 bytes, text/plain (guessed)")


def test_a_thread_that_hangs_is_not_waited_for(hookd: Hookd) -> None:
    """Over its time it would be tried again, and the command ends."""
    done = hookd("test", "/stuck")
    assert done.code == 1
    assert done.lines[-1].startswith("would be tried again in 5 s (attempt 1 of 10): timed out after 0.1")


@pytest.mark.parametrize(
    ("words", "content_type", "text"),
    [
        (('{"a":', "1}"), "application/json", '{"a": 1}'),
        (('payload={"a": 1}',), "application/x-www-form-urlencoded", 'payload={"a": 1}'),
        (("payload=%7B%22a%22%3A1%7D",), "application/x-www-form-urlencoded", "payload=%7B%22a%22%3A1%7D"),
        (("ring=3",), "application/x-www-form-urlencoded", "ring=3"),
        (("ring=three",), "text/plain", "ring=three"),
        (("hello", "world"), "text/plain", "hello world"),
        (('{"a":', "-H", "content-type: text/csv"), "text/csv", '{"a":'),
    ],
)
def test_a_content_type_is_guessed(hookd: Hookd, words: tuple[str, ...], content_type: str, text: str) -> None:
    """JSON; a form, where what follows the first = is JSON; else text. A header counts for more."""
    done = found(hookd("test", "/echo", *words, "--json"))
    assert (done["content_type"], done["printed"]) == (content_type, [f"{content_type} {text}"])
    assert done["is_guessed"] is ("-H" not in words)


@settings(deadline=None)
@given(st.binary())
def test_any_body_has_a_guess(body: bytes) -> None:
    """Whatever the bytes are; what is no UTF-8 is bytes."""
    assert "/" in guessed(body)
    assert guessed(b"\xff" + body) == "application/octet-stream"


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda each: st.lists(each, max_size=3)))
def test_any_json_is_guessed_to_be_json(value: object) -> None:
    """Also what is falsy, and what has an = in it."""
    assert guessed(json.dumps(value).encode()) == "application/json"


def test_a_body_from_a_file(hookd: Hookd, tmp_path: Path) -> None:
    """A file, standard input, or @file after a path: its bytes."""
    (tmp_path / "body").write_bytes("größer".encode())
    asked = [*HOOKD, "test", "--source", "echo", "-"]
    piped = subprocess.run(
        asked, cwd=tmp_path, env=hookd.environment(), input="größer", capture_output=True, text=True, check=True
    )
    ways = [hookd("test", "--source", "echo", "body").out, hookd("test", "/echo", "@body").out, piped.stdout]
    assert [way.splitlines()[2] for way in ways] == ["text/plain größer"] * 3


def test_a_sample_where_there_is_no_body(hookd: Hookd) -> None:
    """A source that bears a provider's name, or with --provider, is sent that provider's sample; names are its own."""
    done = found(hookd("test", "--source", "github", "--type", "push", "--json"))
    assert (done["handler"]["name"], done["event_type"], bool(done["delivery_id"])) == ("deploy", "push", True)
    done = found(hookd("test", "--source", "echo", "--provider", "stripe", "--json"))
    assert (done["event_type"], done["delivery_id"][:4], done["handler"]["name"]) == ("invoice.paid", "evt_", "echo")
    assert found(hookd("test", "--source", "echo", "--json"))["bytes"] == 0


def test_names_come_from_the_body(hookd: Hookd) -> None:
    """As in the processor, where the provider reads them there; --type counts for more."""
    body = '{"type": "charge.failed", "id": "evt_7"}'
    done = found(hookd("test", "/echo", body, "--provider", "stripe", "--json"))
    assert (done["event_type"], done["delivery_id"]) == ("charge.failed", "evt_7")
    done = found(hookd("test", "/echo", body, "--provider", "stripe", "--type", "mine", "--json"))
    assert done["event_type"] == "mine"


def test_json_is_one_object(hookd: Hookd) -> None:
    """What is printed and logged stands in it, so that a program reads one object."""
    done = hookd("test", "--source", "github", "--json")
    told = found(done)
    assert (done.code, done.err) == (0, "")
    assert told["handler"] == {"name": "deploy", "place": f"{hookd.folder}/app.py:6", "variables": {}}
    assert (told["status"], told["printed"], told["attempts_max"]) == ("processed", ["deploying 1"], 10)
    assert "with care" in told["logged"][0]
    done = hookd("test", "/later", "--json")
    told = found(done)
    assert (done.code, told["status"], told["after_seconds"], told["reason"]) == (1, "retry", 90, "later")


def test_what_a_sender_writes_moves_no_cursor(hookd: Hookd) -> None:
    """Control characters in names and paths are shown escaped."""
    done = hookd("test", "/github/\x1b[2J", "--type", "\x1b[31m", "-H", "X-GitHub-Delivery: \u202e")
    assert (done.code, "\x1b" in done.out, "\u202e" in done.out) == (1, False, False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected a path (/github), or --source with a file"),
        (("github",), "expected a path (/github), or --source with a file"),
        (("/GitHub",), "'/GitHub': expected a source's name"),
        (("--source", "GitHub"), "'GitHub': expected a source's name"),
        (("--source", "a/b"), "'a/b': expected a source's name"),
        (("--source", "github", "a", "b"), "with --source there is one file at most"),
        (("--source", "github", "none.json"), "none.json: No such file or directory"),
        (("/github", "@none.json"), "none.json: No such file or directory"),
        (("--source", "bell", "--provider", "token", "--type", "x"), "this sender names no event types"),
        (("/github", "-H", "no colon"), "expected 'Name: value'"),
        (("/github", "--app", "none.py"), "there is no file"),
        (("/ledger", "[]"), "enter (app.py:39) asks for a connection: with --database"),
    ],
)
def test_wrong_usage_exits_with_2(hookd: Hookd, arguments: tuple[str, ...], said: str) -> None:
    """One sentence, no traceback, nothing on standard output but what was found until then."""
    done = hookd("test", *arguments)
    assert done.code == 2, done
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_database_that_is_away(hookd: Hookd) -> None:
    """With --database, a database that cannot be reached is one line and exit code 1."""
    done = hookd("test", "/ledger", "[1]", "--database")
    assert (done.code, done.err.startswith("Error: PostgreSQL cannot be reached: ")) == (1, True)


async def test_what_a_connection_was_used_for_is_rolled_back(
    hookd: Hookd, database_url: str, connection: Connection
) -> None:
    """With --database a handler has the connection that it asks for; nothing stays, and a commit's failure is found."""
    await connection.execute("CREATE TABLE ledger (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    there = hookd.having(HOOKD_DATABASE_URL=database_url)
    done = there("test", "/ledger", "[1, 2]", "--database")
    assert (done.code, done.lines[2:]) == (0, ["2 entries", "processed"])
    done = there("test", "/ledger", "[1, 1]", "--database")
    assert (done.code, done.lines[-1].partition(": ")[2][:21]) == (1, "asyncpg.exceptions.Un")
    assert await connection.fetchval("SELECT count(*) FROM ledger") == 0
