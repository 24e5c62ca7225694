"""`hookd sources edit` and `rotate`: what is registered is changed, as a whole or not at all; and who may do it."""

import asyncio
import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from chassis.database import Connection
from chassis.vault import FILE, Vault
from protocol.source import SECRETS_MAX
from tests.commands import Hookd
from tests.enlisting import KEY, SECRET, a_folder, a_source, ok, row, secrets_of, words

pytestmark = pytest.mark.any_server


@pytest.fixture
def hookd(database_url: str, tmp_path: Path) -> Hookd:
    return a_folder(database_url, tmp_path)


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
