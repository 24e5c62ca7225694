"""`hookd sources`: who sends is registered, changed and shown; secrets go in, and never come out."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chassis.database import Connection
from chassis.vault import FILE, Vault
from hookd.commands.sources import command
from hookd.registry.plan import Fresh, Step
from protocol.providers import PROVIDERS
from protocol.providers.provider import Success
from protocol.samples import credentials
from protocol.source import SECRETS_MAX, Draft, source_of
from tests.commands import HOOKD, SECONDS_MAX, Hookd, read
from tests.enlisting import KEY, SECRET, a_folder, a_source, ok, row, secrets_of, words
from tests.factories import an_event

pytestmark = pytest.mark.any_server

OF_ONE_FORM = {"aws-sns", "basic", "discord", "ed25519", "rfc9421", "sendgrid", "standard-webhooks"}
SUBCOMMANDS = ("add", "list", "show", "edit", "rotate", "remove", "export", "apply", "rekey", "providers")


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


# --- the prompt -----------------------------------------------------------------------------------------------------


class Asked:
    """A command on a terminal of its own, which is asked something."""

    def __init__(self, hookd: Hookd, *arguments: str) -> None:
        self._terminal, theirs = pty.openpty()
        self.said = b""
        self.process = subprocess.Popen(
            [*HOOKD, *arguments], cwd=hookd.folder, env=hookd.environment(),
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def until(self, words: str) -> None:
        while words.encode() not in self.said:
            part = read(self._terminal)
            assert part, self.said
            self.said += part

    def type(self, line: str) -> None:
        os.write(self._terminal, line.encode() + b"\n")

    def end(self) -> int:
        self.said += b"".join(iter(lambda: read(self._terminal), b""))
        os.close(self._terminal)
        return self.process.wait(SECONDS_MAX)


async def test_a_secret_is_asked_for_twice_and_not_shown(hookd: Hookd, connection: Connection) -> None:
    """On a terminal `add` asks for the secret, twice, and what is typed is not seen."""
    asked = Asked(hookd, "sources", "add", "github", "--provider", "github")
    for prompt in ("the webhook's secret:", "the same again:"):
        await asyncio.to_thread(asked.until, prompt)
        asked.type(SECRET)
    assert await asyncio.to_thread(asked.end) == 0, asked.said
    assert SECRET.encode() not in asked.said
    assert await secrets_of(connection) == [(SECRET.encode(), False)]


async def test_ctrl_c_at_the_prompt_changes_nothing(hookd: Hookd, connection: Connection) -> None:
    """Ctrl-C while a secret is asked for ends with 130, one word and no row."""
    asked = Asked(hookd, "sources", "add", "github", "--provider", "github")
    await asyncio.to_thread(asked.until, "the webhook's secret:")
    asked.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(asked.end) == 130
    assert b"stopped" in asked.said
    assert b"Traceback" not in asked.said
    assert await connection.fetchval("SELECT count(*) FROM hookd.sources") == 0


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", 130, 1)])
async def test_a_removal_is_asked_for(hookd: Hookd, connection: Connection, answer: str, code: int, left: int) -> None:
    """On a terminal `remove` asks; only yes removes. It says what happens to the events."""
    await a_source(hookd)
    await an_event(connection, source="github")
    asked = Asked(hookd, "sources", "remove", "github")
    await asyncio.to_thread(asked.until, "[y/N]")
    asked.type(answer)
    assert await asyncio.to_thread(asked.end) == code
    assert b"its events stay in the table; its events that are still new will be handled without being" in asked.said
    assert await connection.fetchval("SELECT count(*) FROM hookd.sources") == left
    assert await connection.fetchval("SELECT count(*) FROM hookd.events") == 1


# --- looking --------------------------------------------------------------------------------------------------------


async def test_a_source_is_shown_without_its_secrets(hookd: Hookd) -> None:
    """`show`, `list` and `export` tell how many secrets there are, since when and until when; none is in them."""
    await a_source(hookd)
    ok(hookd("sources", "rotate", "github", "--secret-file", "other", "--overlap", "3h"))
    shown = [ok(hookd("sources", *each.split())) for each in ("show github", "list", "list --json", "export")]
    [of_json] = ok(hookd("sources", "show", "github", "--json")).json
    assert isinstance(of_json["secrets"], list)
    assert [each["until"] is None for each in of_json["secrets"]] == [True, False]
    assert sum(line.startswith("secret ") for line in shown[0].lines) == 2
    assert shown[1].lines[1].split()[:4] == ["github", "github", "deferred", "2"]
    assert shown[2].json == [of_json]
    assert re.search(r"# a secret since \d{4}-\d\d-\d\d; a secret since .*, until .*Z", shown[3].out)
    for each in shown:
        assert SECRET not in each.out
        assert "gAAAA" not in each.out


async def test_nothing_registered_is_said_beside(hookd: Hookd) -> None:
    """An empty list prints no row, and exits with 0."""
    ran = ok(hookd("sources", "list"))
    assert (ran.out, ran.err) == ("", "no source is registered yet: hookd sources add --help\n")


async def test_a_source_that_is_none_is_named(hookd: Hookd) -> None:
    """A name that nobody registered is exit code 1, and the registered ones are told."""
    ok(hookd("sources", "add", "lamps", "--provider", "none"))
    for arguments in ("show lamp", "edit lamp --mode off", "remove lamp --yes", "rotate lamp --secret-file secret"):
        ran = hookd("sources", *arguments.split())
        assert (ran.code, ran.out) == (1, "")
        assert ran.err == "Error: no source 'lamp' is registered (registered: lamps)\n"


def test_the_providers_are_listed(tmp_path: Path) -> None:
    """Each provider with its title and what its secret is, for people and programs, without a database."""
    hookd = Hookd(tmp_path, {"HOOKD_DATABASE_URL": "postgresql://127.0.0.1:1/nowhere"})
    assert [each["provider"] for each in ok(hookd("sources", "providers", "--json")).json] == list(PROVIDERS)
    lines = ok(hookd("sources", "providers")).lines
    assert [line.split()[0] for line in lines[1:]] == list(PROVIDERS)
    assert any("the app's signing secret" in line for line in lines)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_has_help_with_an_example(name: str) -> None:
    """Each subcommand's --help shows how to call it."""
    assert set(SUBCOMMANDS) == set(command.commands)
    done = CliRunner().invoke(command, [name, "--help"])
    assert done.exit_code == 0
    assert re.search(rf"Examples?:\n +.*hookd sources {name}", done.output)


# --- edit, rotate ---------------------------------------------------------------------------------------------------


async def test_an_edit_changes_what_is_given(hookd: Hookd, connection: Connection) -> None:
    """What is not given stays, the secrets too; what was and what is now are told, and nothing changed is said."""
    await a_source(hookd, "ours", "--option", "header=X-Sig", "--option", "prefix=v1=", provider="hmac")
    before = await row(connection, "ours")
    said = ok(hookd(*words("sources edit ours --mode monitor --option prefix= --option encoding=base64")))
    assert said.lines == [
        "changed ours", "  mode: deferred → monitor", "  options.encoding: (none) → base64",
        "  options.prefix: v1= → (none)",
    ]  # fmt: skip
    after = await row(connection, "ours")
    assert json.loads(str(after["options"])) == {"header": "X-Sig", "encoding": "base64"}
    same = ("provider", "methods", "answer", "window_seconds", "added_at")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert await secrets_of(connection, "ours") == [(SECRET.encode(), False)]
    assert "nothing was changed" in ok(hookd("sources", "edit", "ours", "--mode", "monitor")).out
    assert hookd("sources", "edit", "ours", "--mode", "later").code == 2


async def test_an_edit_to_a_provider_that_can_be_judged(hookd: Hookd, connection: Connection) -> None:
    """Its mode was off for nothing could be judged: now it is judged, which takes a secret; unless told otherwise."""
    ok(hookd("sources", "add", "lamps", "--provider", "none"))
    ran = hookd("sources", "edit", "lamps", "--provider", "github")
    assert (ran.code, ran.err) == (2, "Error: a secret is needed (the webhook's secret), or mode off\n")
    said = ok(hookd("sources", "edit", "lamps", "--provider", "github", "--secret-file", "secret"))
    assert said.lines == [
        "changed lamps", "  provider: none → github", "  mode: off → deferred", "  secrets: 0 → 1 new"
    ]  # fmt: skip
    assert await secrets_of(connection, "lamps") == [(SECRET.encode(), False)]
    ok(hookd("sources", "edit", "lamps", "--mode", "off"))
    ok(hookd("sources", "edit", "lamps", "--provider", "stripe"))
    assert ((await row(connection, "lamps"))["provider"], (await row(connection, "lamps"))["mode"]) == ("stripe", "off")
    ok(hookd("sources", "add", "others", "--provider", "none"))
    ok(hookd("sources", "edit", "others", "--provider", "github", "--mode", "off"))
    assert (await row(connection, "others"))["mode"] == "off"


async def test_what_was_said_can_be_taken_back(hookd: Hookd, connection: Connection) -> None:
    """`default` takes an answer, a body limit or a commit time-out back."""
    more = ("--answer-status", "202", "--body-bytes-max", "4096", "--commit-timeout", "3")
    await a_source(hookd, "github", *more)
    ok(hookd(*words("sources edit github --answer-status default --body-bytes-max default --commit-timeout default")))
    found = await row(connection)
    assert (found["answer"], found["body_bytes_max"], found["commit_timeout_seconds"]) == (None, None, None)


async def test_receivers_get_secrets_only_where_they_need_them(hookd: Hookd, connection: Connection) -> None:
    """A deferred source's secret is not in the receiver's view; made edge, or with a handshake, it is."""
    await a_source(hookd)
    await a_source(hookd, "slack", provider="slack")
    query = "SELECT secrets IS NOT NULL FROM hookd.receiver_sources WHERE name = $1"
    assert await connection.fetchval(query, "github") is False
    assert await connection.fetchval(query, "slack") is True
    ok(hookd("sources", "edit", "github", "--mode", "edge"))
    assert await connection.fetchval(query, "github") is True


async def test_a_rotation_keeps_the_old_one_for_a_while(hookd: Hookd, connection: Connection) -> None:
    """The new secret is current, the old one ends after the overlap; one that ends sooner anyway is not prolonged."""
    await a_source(hookd)
    said = ok(hookd("sources", "rotate", "github", "--secret-file", "other", "--overlap", "2h"))
    assert said.out == "github has a new secret; the former one ends in 2h\n"
    assert await secrets_of(connection) == [(b"another", False), (SECRET.encode(), True)]
    (hookd.folder / "third").write_text("third")
    ok(hookd("sources", "rotate", "github", "--secret-file", "third"))
    left = await connection.fetch(
        "SELECT expires_at - added_at AS good FROM hookd.secrets WHERE expires_at IS NOT NULL ORDER BY number"
    )
    assert timedelta(hours=2) <= left[0]["good"] < timedelta(hours=3)
    assert timedelta(hours=24) <= left[1]["good"] < timedelta(hours=25)


async def test_a_rotation_can_end_the_old_one_at_once(hookd: Hookd, connection: Connection) -> None:
    """With --overlap 0s the old secret is good for nothing that is received from now on."""
    await a_source(hookd)
    said = ok(hookd("sources", "rotate", "github", "--secret-file", "other", "--overlap", "0s"))
    assert said.out == "github has a new secret; the former one ends now\n"
    assert await connection.fetchval("SELECT count(*) FROM hookd.secrets WHERE expires_at <= now()") == 1
    assert len(ok(hookd("sources", "show", "github", "--json")).json[0]["secrets"]) == 1  # type: ignore[arg-type]


async def test_the_same_secret_is_no_rotation(hookd: Hookd, connection: Connection) -> None:
    """A rotation to the current secret is refused: it would end that very secret."""
    await a_source(hookd)
    ran = hookd("sources", "rotate", "github", "--secret-file", "secret")
    assert (ran.code, ran.err) == (1, "Error: that is the secret of github already: nothing was changed\n")
    assert await secrets_of(connection) == [(SECRET.encode(), False)]


async def test_old_secrets_do_not_pile_up(hookd: Hookd, connection: Connection) -> None:
    """Of many rotations the expired secrets are dropped, the oldest first; too many that are good are a fault."""
    await a_source(hookd)
    for number in range(SECRETS_MAX):
        (hookd.folder / "new").write_text(f"secret {number}")
        ok(hookd("sources", "rotate", "github", "--secret-file", "new", "--overlap", "0s"))
    kept = [value for value, _ in await secrets_of(connection)]
    assert kept == [f"secret {number}".encode() for number in reversed(range(SECRETS_MAX))]
    await connection.execute("UPDATE hookd.secrets SET expires_at = now() + interval '1 day'")
    ran = hookd("sources", "rotate", "github", "--secret-file", "secret")
    assert (ran.code, ran.out) == (2, "")
    assert f"{SECRETS_MAX + 1} secrets: {SECRETS_MAX} at most" in ran.err


async def test_a_secret_option_is_replaced(hookd: Hookd, connection: Connection) -> None:
    """--option-file of an edit puts a new value in the old one's place, sealed like a secret."""
    (hookd.folder / "token").write_text("first")
    await a_source(hookd, "meta", "--option-file", "verify_token=token", provider="meta")
    (hookd.folder / "token").write_text("second")
    ok(hookd("sources", "edit", "meta", "--option-file", "verify_token=token"))
    [sealed] = await connection.fetch("SELECT sealed FROM hookd.secrets WHERE name = 'verify_token'")
    assert Vault(KEY, Path()).unseal(sealed["sealed"]) == b"second"
    assert await secrets_of(connection, "meta") == [(SECRET.encode(), False)]


async def test_of_changes_at_once_none_is_halved(hookd: Hookd, connection: Connection) -> None:
    """Two commands that change different things of one source at the same time both have their way."""
    await a_source(hookd)
    for mode, window in (("edge", "1d"), ("monitor", "2d"), ("deferred", "3d")):
        changes = (f"--mode {mode}", f"--window {window}")
        words = [f"sources edit github {change}".split() for change in changes]
        both = await asyncio.gather(*(asyncio.to_thread(hookd, *each) for each in words))
        assert [ran.code for ran in both] == [0, 0], both
        found = await row(connection)
        assert (found["mode"], found["window_seconds"]) == (mode, int(window[0]) * 86_400)


async def test_a_change_that_fails_leaves_all_as_it_was(hookd: Hookd, connection: Connection) -> None:
    """A database that refuses the last row of a change takes back the first."""
    await connection.execute("ALTER TABLE hookd.secrets ADD CONSTRAINT full_up CHECK (false) NOT VALID")
    ran = hookd("sources", "add", "github", "--provider", "github", "--secret-file", "secret")
    assert ran.code == 1
    assert re.fullmatch(r"Error: PostgreSQL refuses it: new row .*; nothing was changed\n", ran.err)
    assert await connection.fetchval("SELECT count(*) FROM hookd.sources") == 0


# --- rights ---------------------------------------------------------------------------------------------------------


async def test_each_role_may_do_its_part(hookd: Hookd, database_url: str) -> None:
    """A reader may look and not change, a receiver neither; each is told in one line."""
    await a_source(hookd)
    reader = hookd.having(HOOKD_DATABASE_URL=f"{database_url}&role=hookd_reader")
    receiver = hookd.having(HOOKD_DATABASE_URL=f"{database_url}&role=hookd_receiver")
    assert ok(reader("sources", "list")).lines[1].startswith("github")
    assert ok(reader("sources", "export")).out == ok(hookd("sources", "export")).out
    for ran in (
        reader("sources", "add", "x", "--provider", "none"),
        reader("sources", "rekey"),
        receiver("sources", "list"),
        receiver("sources", "remove", "github", "--yes"),
    ):
        assert (ran.code, ran.out) == (1, "")
        assert re.fullmatch(r"Error: this role may not do that \(permission denied for table \w+\): .*\n", ran.err)


async def test_no_key_is_needed_to_look_or_edit(hookd: Hookd, tmp_path: Path) -> None:
    """Without the key a source can be shown and edited, and no key file is made by that."""
    await a_source(hookd)
    keyless = hookd.having(HOOKD_SECRET_KEY="", HOOKD_DATA_DIR=str(tmp_path / "data"))
    for arguments in ("list", "show github", "export", "edit github --mode edge"):
        ok(keyless("sources", *arguments.split()))
    assert not (tmp_path / "data" / FILE).exists()


async def test_another_key_is_not_mixed_in(hookd: Hookd, connection: Connection, tmp_path: Path) -> None:
    """Where secrets were sealed with a key that this machine lacks, nothing is sealed with another, and it is said."""
    await a_source(hookd)
    keyless = hookd.having(HOOKD_SECRET_KEY="", HOOKD_DATA_DIR=str(tmp_path / "data"))
    ran = keyless("sources", "add", "gitea", "--provider", "gitea", "--secret-file", "other")
    assert (ran.code, ran.out) == (1, "")
    assert "set HOOKD_SECRET_KEY as the receivers and processors have it" in ran.err
    assert not (tmp_path / "data" / FILE).exists()
    assert await connection.fetchval("SELECT count(*) FROM hookd.sources") == 1
