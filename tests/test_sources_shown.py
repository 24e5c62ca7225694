"""`hookd sources`: what it asks for on a terminal, and what it shows of what is registered; no secret comes out."""

import asyncio
import os
import pty
import re
import signal
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from chassis.database import Connection
from hookd.commands.sources import command
from protocol.providers import PROVIDERS
from tests.commands import HOOKD, SECONDS_MAX, Hookd, read
from tests.enlisting import SECRET, a_folder, a_source, ok, secrets_of
from tests.factories import an_event

pytestmark = pytest.mark.any_server

SUBCOMMANDS = ("add", "list", "show", "edit", "rotate", "remove", "export", "apply", "rekey", "providers")


@pytest.fixture
def hookd(database_url: str, tmp_path: Path) -> Hookd:
    return a_folder(database_url, tmp_path)


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
