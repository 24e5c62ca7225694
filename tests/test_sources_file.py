"""`hookd sources export`, `apply` and `rekey`: the registry as a file, and sealed under another key."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from chassis.database import Connection
from chassis.vault import FILE, Vault, VaultError
from protocol.source import source_of
from tests.commands import Hookd
from tests.enlisting import KEY, SECRET, a_folder, a_source, ok, row, secrets_of, words

pytestmark = pytest.mark.any_server


@pytest.fixture
def hookd(database_url: str, tmp_path: Path) -> Hookd:
    return a_folder(database_url, tmp_path)


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def two_sources(hookd: Hookd) -> Hookd:
    answer = ("--answer-status", "202", "--answer-header", "X-A: é", "--answer-body", 'say "hi"\n')
    await a_source(hookd, "git.hub", "--mode", "edge", *answer)
    await a_source(hookd, "ours", "--option", "prefix=v1 ", "--body-bytes-max", "4096", provider="hmac")
    return hookd


async def test_an_export_is_no_change(two_sources: Hookd, connection: Connection) -> None:
    """What is exported and applied changes nothing; into an empty registry (with secrets named) it makes the same."""
    hookd = two_sources
    ok(hookd("sources", "export", "all.toml"))
    assert ok(hookd("sources", "apply", "all.toml")).out == "2 unchanged\n"
    before = [await row(connection, name) for name in ("git.hub", "ours")]
    for name in ("git.hub", "ours"):
        ok(hookd("sources", "remove", name, "--yes"))
    text = (hookd.folder / "all.toml").read_text()
    (hookd.folder / "all.toml").write_text(text.replace("mode =", 'secret_file = "secret"\nmode ='))
    assert ok(hookd("sources", "apply", "all.toml")).lines[-1] == "done: 2 added"
    after = [await row(connection, name) for name in ("git.hub", "ours")]
    changing = {"added_at", "changed_at"}
    assert [{k: v for k, v in each.items() if k not in changing} for each in after] == [
        {k: v for k, v in each.items() if k not in changing} for each in before
    ]
    assert await secrets_of(connection, "ours") == [(SECRET.encode(), False)]
    assert ok(hookd("sources", "apply", "all.toml")).out == "2 unchanged\n"  # the secret is the one there is


async def test_a_plan_is_shown_and_done(two_sources: Hookd, connection: Connection) -> None:
    """The plan says what is added, changed from what to what, removed (with --prune alone), and left; then it is so."""
    hookd = two_sources
    (hookd.folder / "new.toml").write_text(
        '[sources.ours]\nprovider = "hmac"\nbody_bytes_max = 8192\nsecret_file = "other"\n'
        '[sources.ours.options]\nprefix = "v1 "\ntolerance_seconds = 60\n'
        '[sources.lamps]\nwindow = "1d"\n'
    )
    plan = [
        "~ change ours", "  options.tolerance_seconds: (none) → 60", "  body_bytes_max: 4096 → 8192",
        "  secrets: 1 → 1 new, 1 until 2h from now", "+ add lamps",
    ]  # fmt: skip
    dry = ok(hookd(*words("sources apply new.toml --dry-run --overlap 2h")))
    assert dry.lines == [*plan, "1 added, 1 changed"]
    assert await connection.fetchval("SELECT count(*) FROM hookd.sources WHERE name = 'lamps'") == 0
    assert hookd(*words("sources apply new.toml --prune")).code == 2  # no terminal to ask at
    done = ok(hookd(*words("sources apply new.toml --prune --yes --overlap 2h")))
    assert done.lines == [
        *plan,
        "- remove git.hub",
        "1 added, 1 changed, 1 removed",
        "done: 1 added, 1 changed, 1 removed",
    ]
    assert [name for (name,) in await connection.fetch("SELECT name FROM hookd.sources ORDER BY 1")] == [
        "lamps",
        "ours",
    ]
    assert await secrets_of(connection, "ours") == [(b"another", False), (SECRET.encode(), True)]
    assert (await row(connection, "lamps"))["mode"] == "off"


async def test_an_apply_is_all_or_nothing(two_sources: Hookd, connection: Connection) -> None:
    """A file with a fault in one source changes none; all faults are told, each with its source."""
    hookd = two_sources
    (hookd.folder / "bad.toml").write_text(
        '[sources.lamps]\nprovider = "none"\n[sources.stripe]\nprovider = "stripe"\n'
        '[sources.meta]\nprovider = "meta"\nsecret_file = "secret"\n[sources.meta.options]\nverify_token = "t"\n'
    )
    ran = hookd("sources", "apply", "bad.toml", "--yes")
    assert (ran.code, ran.out) == (2, "")
    assert "stripe: a secret is needed" in ran.err
    assert "meta: option verify_token is a secret" in ran.err
    assert await connection.fetchval("SELECT count(*) FROM hookd.sources") == 2


def test_what_is_wrong_with_a_file_is_told_together(tmp_path: Path) -> None:
    """Wrong types, unknown fields with what was meant, missing secrets: all at once, before a database is asked."""
    (tmp_path / "bad.toml").write_text(
        'answer = 1\n[sources.a]\nmoed = "edge"\nwindow = 7\nmethods = [1]\nbody_bytes_max = true\n'
        '[sources.b]\nanswer = {status = "ok", headers = [["a"]], bdoy = ""}\noptions = {x = [1]}\n'
    )
    hookd = Hookd(tmp_path, {"HOOKD_DATABASE_URL": "postgresql://127.0.0.1:1/nowhere"})
    ran = hookd("sources", "apply", "bad.toml")
    assert (ran.code, ran.out) == (2, "")
    for said in (
        "'answer': there is no such field", "a: 'moed': there is no such field; did you mean mode?",
        "a: window: expected a length of time", "a: methods: expected a list of text",
        "a: body_bytes_max: expected a whole number", "b: answer.status: expected a whole number",
        'b: answer.headers: expected a list such as [["name", "value"]]', "b: answer.'bdoy'",
        "b: options: expected a table",
    ):  # fmt: skip
        assert said in ran.err, ran.err
    for content, said in (
        (b"[", "no TOML"),
        (b"\xff", "not UTF-8"),
        (b'[sources.a]\nsecret_env = "NO"', "a: secret: NO"),
    ):
        (tmp_path / "bad.toml").write_bytes(content)
        ran = hookd("sources", "apply", "bad.toml")
        assert ran.code == 2
        assert said in ran.err


def test_faults_of_a_file_and_of_what_it_says_are_told_together(tmp_path: Path) -> None:
    """One source whose fields are wrong, one whose secret is missing, one that may not be so: all in one go."""
    (tmp_path / "bad.toml").write_text(
        '[sources.a]\nprovider = "github"\nwindow = 7\n'
        '[sources.b]\nprovider = "github"\nmode = "maybe"\nsecret_file = "none"\n'
        '[sources.c]\nprovider = "none"\nmode = "edge"\n[sources.d]\nprovider = "github"\n'
    )
    hookd = Hookd(tmp_path, {"HOOKD_DATABASE_URL": "postgresql://127.0.0.1:1/nowhere"})
    ran = hookd("sources", "apply", "bad.toml")
    assert (ran.code, ran.out) == (2, "")
    assert [line.strip() for line in ran.err.splitlines()[1:]] == [
        "a: window: expected a length of time such as 24h or 7d",
        "b: secret: none: No such file or directory",
        "b: mode 'maybe': expected one of deferred, edge, monitor, off",
        "c: none proves nothing that could be judged: mode off",
    ]


async def test_probes_are_neither_exported_nor_pruned(hookd: Hookd, connection: Connection) -> None:
    """What hookd doctor registered is its own: no export has it, no apply removes it."""
    await connection.execute("INSERT INTO hookd.sources (name, is_probe) VALUES ('doctor-github', true)")
    ok(hookd("sources", "export", "all.toml"))
    assert tomllib.loads((hookd.folder / "all.toml").read_text()) == {}
    ok(hookd("sources", "apply", "all.toml", "--prune", "--yes"))
    assert await connection.fetchval("SELECT count(*) FROM hookd.sources") == 1


# --- rekey ----------------------------------------------------------------------------------------------------------


async def test_secrets_are_sealed_anew_by_the_setting(hookd: Hookd, connection: Connection) -> None:
    """With a new key before the old one in the setting, rekey seals all with the new: the old is needed no more."""
    await a_source(hookd)
    new = Fernet.generate_key().decode()
    said = ok(hookd.having(HOOKD_SECRET_KEY=f"{new},{KEY}")("sources", "rekey"))
    assert said.out == "sealed 1 secret anew, with the first key of HOOKD_SECRET_KEY\n"
    assert await secrets_of(connection, key=new) == [(SECRET.encode(), False)]
    with pytest.raises(VaultError):
        await secrets_of(connection)


async def test_secrets_are_sealed_anew_by_the_file(hookd: Hookd, connection: Connection, tmp_path: Path) -> None:
    """With a key file a new key is made, the former kept, all sealed anew; expiries and order stay."""
    keyless = hookd.having(HOOKD_SECRET_KEY="", HOOKD_DATA_DIR=str(tmp_path / "data"))
    await a_source(keyless)
    ok(keyless("sources", "rotate", "github", "--secret-file", "other"))
    file = tmp_path / "data" / FILE
    former = file.read_text().split()
    running = Vault(None, file)
    before = await connection.fetch("SELECT number, name, sealed, expires_at FROM hookd.secrets ORDER BY number")
    assert [running.unseal(each["sealed"]) for each in before] == [SECRET.encode(), b"another"]
    ok(keyless("sources", "rekey"))
    keys = file.read_text().split()
    assert keys[1:] == former
    after = await connection.fetch("SELECT number, name, sealed, expires_at FROM hookd.secrets ORDER BY number")
    assert [(each["number"], each["expires_at"]) for each in after] == [
        (each["number"], each["expires_at"]) for each in before
    ]
    assert [Vault(keys[0], Path()).unseal(each["sealed"]) for each in after] == [SECRET.encode(), b"another"]
    assert [running.unseal(each["sealed"]) for each in after] == [SECRET.encode(), b"another"]


async def test_a_rekey_that_fails_loses_nothing(hookd: Hookd, connection: Connection, tmp_path: Path) -> None:
    """Cut off after the new key was written, again and again, every secret can still be read; then it succeeds."""
    keyless = hookd.having(HOOKD_SECRET_KEY="", HOOKD_DATA_DIR=str(tmp_path / "data"))
    await a_source(keyless)
    await connection.execute("ALTER TABLE hookd.secrets ADD CONSTRAINT no_more CHECK (false) NOT VALID")
    file = tmp_path / "data" / FILE
    for _ in range(3):
        assert keyless("sources", "rekey").code == 1
        sealed = await connection.fetchval("SELECT sealed FROM hookd.secrets")
        assert Vault(None, file).unseal(sealed) == SECRET.encode()
    await connection.execute("ALTER TABLE hookd.secrets DROP CONSTRAINT no_more")
    ok(keyless("sources", "rekey"))
    sealed = await connection.fetchval("SELECT sealed FROM hookd.secrets")
    assert Vault(file.read_text().split()[0], Path()).unseal(sealed) == SECRET.encode()


async def test_what_cannot_be_read_is_named_and_may_be_dropped(hookd: Hookd, connection: Connection) -> None:
    """A rekey without the old key changes nothing; with --drop-unreadable it goes on, and says who needs a secret."""
    await a_source(hookd)
    before = await connection.fetch("SELECT * FROM hookd.secrets")
    other = hookd.having(HOOKD_SECRET_KEY=Fernet.generate_key().decode())
    ran = other("sources", "rekey")
    assert (ran.code, ran.out) == (1, "")
    assert "secrets of github cannot be read with the key of HOOKD_SECRET_KEY: nothing was changed" in ran.err
    assert await connection.fetch("SELECT * FROM hookd.secrets") == before
    assert other("sources", "rekey", "--drop-unreadable").code == 2
    said = ok(other("sources", "rekey", "--drop-unreadable", "--yes"))
    assert "github: 1 unreadable deleted; give it another: hookd sources rotate github" in said.out
    ok(other("sources", "rotate", "github", "--secret-file", "other"))


async def test_a_key_that_cannot_be_used_drops_nothing(hookd: Hookd, connection: Connection, tmp_path: Path) -> None:
    """Where the key file is there and refused, secrets are not taken for lost ones, and the reason is said."""
    keyless = hookd.having(HOOKD_SECRET_KEY="", HOOKD_DATA_DIR=str(tmp_path / "data"))
    await a_source(keyless)
    (tmp_path / "data" / FILE).chmod(0o644)
    for arguments in ("rekey --drop-unreadable --yes", "rotate github --secret-file other"):
        ran = keyless("sources", *arguments.split())
        assert (ran.code, ran.out) == (1, "")
        assert "can be read by others than its owner: chmod 600" in ran.err
    assert await connection.fetchval("SELECT count(*) FROM hookd.secrets") == 1


async def test_a_key_that_is_none_is_one_line(hookd: Hookd, connection: Connection) -> None:
    """HOOKD_SECRET_KEY that is no key is named, its value is not, and nothing is registered."""
    ran = hookd.having(HOOKD_SECRET_KEY="hunter2")(
        "sources", "add", "a", "--provider", "gitea", "--secret-file", "secret"
    )
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("Error: HOOKD_SECRET_KEY: expected Fernet keys")
    assert "hunter2" not in ran.err
    assert await connection.fetchval("SELECT count(*) FROM hookd.sources") == 0


def test_unsealable_is_what_its_reader_knows() -> None:
    """A source whose secret cannot be opened has a fault, and nothing of it verifies."""

    def unseal(sealed: str) -> bytes:
        raise ValueError("a secret cannot be read")

    record: dict[str, Any] = {
        "name": "a", "provider": "github", "mode": "edge", "options": "{}", "secrets": '[["secret", "x", null]]',
        "methods": ["POST"], "answer": None, "body_bytes_max": None, "commit_timeout_seconds": None,
        "duplicates": "verified", "window_seconds": 1, "is_probe": False,
    }  # fmt: skip
    assert source_of(record, unseal).fault == "a secret cannot be read"


def test_a_secret_by_which_nothing_can_be_verified_is_a_fault() -> None:
    """Whoever wrote it into the table: the processor does not start with it. One that is good beside it will do."""
    record: dict[str, Any] = {
        "name": "a", "provider": "aws-sns", "mode": "deferred", "options": "{}", "secrets": '[["secret", "x", null]]',
        "methods": ["POST"], "answer": None, "body_bytes_max": None, "commit_timeout_seconds": None,
        "duplicates": "verified", "window_seconds": 1, "is_probe": False,
    }  # fmt: skip
    fault = source_of(record, str.encode).fault or ""
    assert fault.startswith("none of its secrets is a topic's ARN, such as arn:aws:sns:")
    arn = "arn:aws-cn:sns:cn-north-1:123456789012:lamps.fifo"
    record["secrets"] = f'[["secret", "x", null], ["secret", "{arn}", null]]'
    assert source_of(record, str.encode).fault is None
