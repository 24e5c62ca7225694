"""`hookd sources add`: who sends is registered, with all that is wrong told at once; secrets go in."""

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chassis.database import Connection
from chassis.vault import Vault
from hookd.registry.plan import Fresh, Step
from protocol.providers import PROVIDERS
from protocol.providers.provider import Success
from protocol.samples import credentials
from protocol.source import Draft, source_of
from tests.commands import HOOKD, Hookd
from tests.enlisting import KEY, SECRET, a_folder, a_source, ok, row, secrets_of, words

pytestmark = pytest.mark.any_server

OF_ONE_FORM = {"aws-sns", "basic", "discord", "ed25519", "rfc9421", "sendgrid", "standard-webhooks"}


@pytest.fixture
def hookd(database_url: str, tmp_path: Path) -> Hookd:
    return a_folder(database_url, tmp_path)


# --- add ------------------------------------------------------------------------------------------------------------


async def test_a_source_is_registered_with_what_is_usual(hookd: Hookd, connection: Connection) -> None:
    """`add` with a provider and a secret makes a deferred source, its secret sealed, its line's end left out."""
    said = ok(hookd("sources", "add", "github", "--provider", "github", "--secret-file", "secret"))
    assert said.lines[0] == "registered github: GitHub, mode deferred"
    assert "its URL: https://YOUR-HOST/github" in said.lines
    assert f"at GitHub: {PROVIDERS['github'].setup}" in said.lines
    found = await row(connection)
    assert (found["mode"], found["duplicates"], found["window_seconds"]) == ("deferred", "verified", 604800)
    assert await secrets_of(connection) == [(SECRET.encode(), False)]


async def test_receiver_and_processor_read_what_was_registered(hookd: Hookd, connection: Connection) -> None:
    """What stands in the views is the source that was given: its mode, options, answer, limits and secrets."""
    options = ("--option", "header=X-Sig", "--option", "prefix=v1 ", "--option", "tolerance_seconds=60")
    answer = ("--answer-status", "202", "--answer-header", "X-A:  b", "--answer-body", "thänks")
    limits = ("--body-bytes-max", "4096", "--commit-timeout", "1.5", "--window", "2h", "--duplicates", "all")
    more = ("--mode", "edge", "--method", "post", "--method", "PUT")
    await a_source(hookd, "ours", *options, *answer, *limits, *more, provider="hmac")
    for view in ("receiver_sources", "processor_sources"):
        record = await connection.fetchrow(f"SELECT * FROM hookd.{view}")
        assert record is not None
        source = source_of(dict(record), Vault(KEY, Path()).unseal)
        assert (source.mode, source.methods, source.duplicates) == ("edge", ("POST", "PUT"), "all")
        assert source.options == {"header": "X-Sig", "prefix": "v1 ", "tolerance_seconds": "60"}
        assert source.answer == (202, (("X-A", "b"),), "thänks".encode())
        assert (source.body_bytes_max, source.commit_timeout_seconds, source.window_seconds) == (4096, 1.5, 7200)
        assert [value for value, _ in source.secrets] == [SECRET.encode()]
        assert source.fault is None


async def test_the_table_holds_no_secret(hookd: Hookd, connection: Connection, tmp_path: Path) -> None:
    """Neither a secret nor a secret option is in any column of any row, in clear or in base64 or in hex."""
    (tmp_path / "token").write_text("a verify token")
    await a_source(hookd, "meta", "--option-file", "verify_token=token", provider="meta")
    rows = await connection.fetch("SELECT s::text FROM hookd.sources s UNION ALL SELECT x::text FROM hookd.secrets x")
    assert len(rows) == 3
    table = "\n".join(value for (value,) in rows)
    for secret in (SECRET, "a verify token"):
        assert secret not in table
        assert secret.encode().hex() not in table
        assert json.dumps(secret)[1:12] not in table


async def test_the_first_source_shuts_the_door_and_the_last_opens_it(hookd: Hookd) -> None:
    """The first one says that others are answered 404 from now on, the second does not; nor where that is set."""
    shut = "every source that is not registered is answered 404"
    first = ok(hookd("sources", "add", "a", "--provider", "none"))
    assert shut in first.out
    assert "registered a: Nothing, mode off" in first.out
    assert shut not in ok(hookd("sources", "add", "b", "--provider", "none")).out
    assert "store every name again" not in ok(hookd("sources", "remove", "a", "--yes")).out
    assert "store every name again" in ok(hookd("sources", "remove", "b", "--yes")).out
    strict = hookd.having(HOOKD_UNKNOWN_SOURCES="store")
    assert shut not in ok(strict("sources", "add", "a", "--provider", "none")).out


async def test_a_probe_is_not_the_first_one(hookd: Hookd, connection: Connection) -> None:
    """What hookd doctor registers does not count: the first real source is still the first."""
    await connection.execute("INSERT INTO hookd.sources (name, is_probe) VALUES ('doctor-github', true)")
    assert "is answered 404" in ok(hookd("sources", "add", "b", "--provider", "none")).out


async def test_an_existing_name_is_refused(hookd: Hookd, connection: Connection) -> None:
    """A name that is registered names `edit`, and changes nothing."""
    await a_source(hookd)
    ran = hookd("sources", "add", "github", "--provider", "gitea", "--secret-file", "other")
    assert (ran.code, ran.out) == (1, "")
    assert "github is registered already: hookd sources edit github" in ran.err
    assert (await row(connection))["provider"] == "github"
    assert await secrets_of(connection) == [(SECRET.encode(), False)]


async def test_all_faults_are_told_together(hookd: Hookd) -> None:
    """Everything that is wrong is said at once, with exit code 2."""
    ran = hookd(
        *words("sources add Git/Hub --provider nobody --mode maybe --duplicates some --method BREW --window 31d"),
        *("--answer-status", "404", "--body-bytes-max", "1023", "--commit-timeout", "0", "--secret-file", "missing"),
        *("--answer-header", "X-A: a\x01b", "--answer-header", "Content-Length: 3"),
    )
    assert (ran.code, ran.out) == (2, "")
    for part in (
        "'Git/Hub': expected a name", "provider 'nobody'", "mode 'maybe'", "duplicates 'some'", "methods BREW",
        "window: 30d at most (HOOKD_RETENTION_DAYS)", "answer: a status of 200 to 299", "body_bytes_max: 1024 at least",
        "commit_timeout_seconds: more than 0", "secret: missing: No such file", "header 'X-A'",
        "header 'Content-Length' is the receiver's own",
    ):  # fmt: skip
        assert part in ran.err, ran.err
    assert "\x01" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("add x", "--provider is missing"),
        ("add x --provider github", "a secret is needed, the webhook's secret: --secret-file"),
        ("add x --provider github --mode off --secret-file empty", "secret: it is empty"),
        ("add x --provider aws-sns --secret-file secret", "secret: a topic's ARN, such as arn:aws:sns:eu-central-1:"),
        ("add x --provider basic --secret-file secret", "secret: user:password is expected"),
        ("add x --provider github --secret-env NO_SUCH", "secret: NO_SUCH: there is no such variable"),
        ("add x --provider none --secret-file secret", "none has no secret"),
        ("add x --provider none --mode edge", "mode off"),
        ("add x --provider aws-sns --mode edge --secret-file secret", "mode deferred"),
        ("add x --provider hmac --secret-file secret --option algorithm=md4", "algorithm"),
        ("add x --provider meta --secret-file secret --option verify_token=t", "verify_token is a secret"),
        ("add x --provider meta --secret-file secret", "--option-file"),
        ("add x --provider github --secret-file secret --body-bytes-max 26214401", "26214400 at most"),
        ("add x --provider github --secret-file secret --secret-file secret", "the same one twice"),
        ("add x --provider none --answer-status 204 --answer-body x", "204 has no body"),
        ("add x --provider none --window 1y", "expected a length of time"),
        ("edit x", "nothing to change"),
        ("edit x --secret-file missing", "secret: missing: No such file"),
        ("remove x --overlap 1h", "No such option"),
        ("rotate x", "a secret is needed"),
    ],
)
def test_wrong_usage_is_said(tmp_path: Path, arguments: str, words: str) -> None:
    """Each is refused with exit code 2 before any database is asked, and no secret is in the message."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "empty").write_text("\n")
    ran = Hookd(tmp_path, {"HOOKD_DATABASE_URL": "postgresql://127.0.0.1:1/nowhere"})("sources", *arguments.split())
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert SECRET not in ran.err


def test_a_fault_is_told_once(tmp_path: Path) -> None:
    """A secret that cannot be read is not a secret that is missing."""
    ran = Hookd(tmp_path, {})("sources", *words("add x --provider meta --secret-file no --option-file verify_token=no"))
    assert [line.strip() for line in ran.err.splitlines()[1:]] == [
        "secret: no: No such file or directory", "verify_token: no: No such file or directory"
    ]  # fmt: skip


async def test_the_window_fits_the_retention(hookd: Hookd, connection: Connection) -> None:
    """Where events are kept for five days, keys are too unless told otherwise; exactly that long may be asked for."""
    brief = hookd.having(HOOKD_RETENTION_DAYS="5")
    await a_source(brief)
    assert (await row(connection))["window_seconds"] == 5 * 86_400
    assert brief("sources", "edit", "github", "--window", "121h").code == 2
    ok(brief("sources", "edit", "github", "--window", "120h"))


async def test_a_secret_comes_from_a_variable_or_a_pipe(hookd: Hookd, connection: Connection) -> None:
    """--secret-env names a variable, --secret-file - reads standard input; of several the first is current."""
    having = hookd.having(LAMP="from the environment")
    ran = await asyncio.to_thread(
        subprocess.run, [*HOOKD, *words("sources add github --provider github --secret-file - --secret-env LAMP")],
        input=b"from the pipe\n", cwd=hookd.folder, env=having.environment(), capture_output=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert await secrets_of(connection) == [(b"from the pipe", False), (b"from the environment", False)]


async def test_white_space_around_a_secret_is_kept_and_said(hookd: Hookd, connection: Connection) -> None:
    """A secret that begins with a space is taken as it is, with a warning."""
    (hookd.folder / "secret").write_text(" padded\n")
    ran = ok(hookd("sources", "add", "github", "--provider", "github", "--secret-file", "secret"))
    assert "warning: a secret begins or ends with white space" in ran.err
    assert await secrets_of(connection) == [(b" padded", False)]


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - {"none"}))
def test_a_secret_of_the_right_kind_is_taken(provider: str) -> None:
    """Of every provider: what its own sample is verified by is no fault, and what is no key of its kind is one."""
    sender, at = PROVIDERS[provider], 1_760_000_000
    assert sender.sample is not None
    secret = credentials(sender, at).secret
    draft = Draft("a", provider, options=dict(sender.sample.options))
    right, wrong = (
        Step("a", None, draft, Fresh((each,))).faults_of_keys() for each in (secret.encode(), b"-----BEGIN")
    )
    assert right == []
    assert bool(wrong) == (provider in OF_ONE_FORM)
    assert "BEGIN" not in "".join(wrong)


async def test_a_key_that_cannot_be_read_is_refused(hookd: Hookd, connection: Connection) -> None:
    """A public key that is none would fail every delivery: it is refused when it is given, and not shown."""
    ran = hookd("sources", "add", "discord", "--provider", "discord", "--secret-file", "secret")
    assert (ran.code, ran.err) == (2, "Error: secret: it cannot be read as the application's public key, hex\n")
    assert await connection.fetchval("SELECT count(*) FROM hookd.sources") == 0


# --- what may be registered -----------------------------------------------------------------------------------------


GOOD = Draft("a", "none", "off")


@pytest.mark.parametrize(
    ("least", "good", "too_much"),
    [
        ({"body_bytes_max": 1023}, {"body_bytes_max": 1024}, {"body_bytes_max": 0}),
        ({"commit_timeout_seconds": 0}, {"commit_timeout_seconds": 600}, {"commit_timeout_seconds": 600.1}),
        ({"commit_timeout_seconds": -1}, {"commit_timeout_seconds": 0.1}, {"commit_timeout_seconds": float("nan")}),
        ({"window_seconds": 0}, {"window_seconds": 1}, {"window_seconds": -1}),
        ({"answer": Success(199)}, {"answer": Success(200)}, {"answer": Success(300)}),
        ({"answer": Success(205)}, {"answer": Success(299)}, {"answer": Success(401)}),
        ({"answer": Success(204, (), b"x")}, {"answer": Success(204)}, {"answer": Success(200, (), b"a\0")}),
        (
            {"answer": Success(200, (), b"x" * 65537)},
            {"answer": Success(200, (), b"x" * 65536)},
            {"answer": Success(200, (("A", "b"),) * 33)},
        ),
        (
            {"answer": Success(200, (("A b", "c"),))},
            {"answer": Success(200, (("A", "ü"),))},
            {"answer": Success(200, (("A", "☃"),))},
        ),
        (
            {"answer": Success(200, (("A", "b\n"),))},
            {"answer": Success(200, (("A", ""),))},
            {"answer": Success(200, (("", "b"),))},
        ),
        (
            {"answer": Success(200, (("A", "b\x7f"),))},
            {"answer": Success(200, (("A", "b c"),))},
            {"answer": Success(200, (("A", " b"),))},
        ),
        ({"methods": ()}, {"methods": ("POST", "GET")}, {"methods": ("post",)}),
        ({"name": "A"}, {"name": "a" * 64}, {"name": "a" * 65}),
        ({"name": ""}, {"name": "0._-"}, {"name": "a\n"}),
    ],
)
def test_the_bounds_of_a_source(least: dict[str, Any], good: dict[str, Any], too_much: dict[str, Any]) -> None:
    """Each value is taken up to its bound, and beyond it is a fault."""
    assert replace(GOOD, **good).faults(0) == []
    assert len(replace(GOOD, **least).faults(0)) == 1
    assert len(replace(GOOD, **too_much).faults(0)) == 1


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_what_the_table_cannot_hold_is_a_fault(value: str) -> None:
    """An option that PostgreSQL would refuse is said by its name."""
    draft = replace(GOOD, provider="hmac", mode="deferred", options={"prefix": value})
    assert "option 'prefix': text without NUL" in draft.faults(1)
