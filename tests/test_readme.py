"""What the README shows is true: its commands, its queries, its handler, its delivery from GitHub."""

import re
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from chassis.database import Connection
from hookd.cli import COMMANDS, hookd
from protocol.providers import PROVIDERS
from tests.factories import an_event

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PUSH = (ROOT / "tests/data/github/push.json").read_bytes()


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def statements() -> list[str]:
    return [part.strip() for block in fenced("sql") for part in block.split(";") if part.strip()]


@pytest.mark.parametrize("sql", statements())
async def test_every_query_runs(connection: Connection, sql: str) -> None:
    """Each SQL statement of the README runs as it stands."""
    await an_event(connection, source="github")
    await connection.execute("SET search_path = hookd, public")
    assert (await connection.execute(sql)).split()[0] in ("SELECT", "UPDATE")


def test_there_are_five_queries_on_the_status_table() -> None:
    """Five queries answer what an operator asks most."""
    assert sum(sql.partition("\n")[0].startswith("--") for sql in statements()) == 5


def test_every_command_exists() -> None:
    """Each `hookd` command and option that the README shows exists."""
    shown = re.findall(r"^(?:.*[^\w`])?(hookd [a-z][^\n#`]*)", "\n".join(fenced("sh")), re.MULTILINE)
    assert shown
    for line in shown:
        name, *words = line.split()[1:]
        assert name in COMMANDS, line
        command = hookd.get_command(click.Context(hookd), name)
        path = [name, words[0]] if isinstance(command, click.Group) else [name]
        help_text = CliRunner().invoke(hookd, [*path, "--help"]).output
        for option in (word for word in words if word.startswith("--")):
            assert option in help_text, line


def cells(line: str) -> tuple[str, ...]:
    """A table row's first two."""
    return tuple(cell.strip() for cell in line.split("|")[1:3])


def test_every_figure_is_on_the_page_of_benchmarks() -> None:
    """What the README says of speed is what was measured last."""
    measured = {cells(line) for line in (ROOT / "docs/benchmarks.md").read_text().splitlines() if line.startswith("| ")}
    _, _, section = README.partition("## How fast")
    said = [cells(line) for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")][2:]
    assert len(said) > 5
    assert set(said) <= measured, set(said) - measured


def test_the_providers_named_in_the_changelog_are_known() -> None:
    """The senders whose names are taken from headers are the ones the changelog lists."""
    changelog = (ROOT / "CHANGELOG.md").read_text().lower()
    assert all(name in changelog for name in PROVIDERS)


@pytest.mark.any_server
async def test_the_push_delivery_reaches_its_handler(connection: Connection, database_url: str, tmp_path: Path) -> None:
    """GitHub's push delivery, stored as the README sends it, runs the example's handler and ends processed."""
    shown = [["X-GitHub-Event", "push"], ["Content-Type", "application/json"]]
    event_id = await an_event(connection, source="github", event_type="push", headers=shown, payload=PUSH)
    once = await create_subprocess_exec(
        sys.executable, "-P", "-m", "hookd", "processor", "--app", str(ROOT / "examples/deploy.py"), "--once",
        cwd=tmp_path, env={"HOOKD_DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)}, stdout=PIPE,
    )  # fmt: skip
    said, _ = await once.communicate()
    promised = re.search(r"prints `(deploying [^`]*)`", README)
    assert promised is not None
    assert promised[1] in said.decode()
    row = await connection.fetchrow("SELECT status, reason FROM hookd.events WHERE id = $1", event_id)
    assert row is not None
    assert tuple(row) == ("processed", None)
