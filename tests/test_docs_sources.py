"""What docs/sources.md shows is true: its commands in their order, its query, its file."""

import re
from pathlib import Path

import pytest

from chassis.database import Connection
from hookd.registry.file import parse
from tests.born import shell

DOCUMENT = (Path(__file__).parent.parent / "docs" / "sources.md").read_text()


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.mark.any_server
async def test_every_command_runs(database_url: str, connection: Connection, tmp_path: Path) -> None:
    """Its commands, all of them from the first on, do what they are shown for; at their end the sources are there."""
    environment = {"HOOKD_DATABASE_URL": database_url, "HOOKD_DATA_DIR": str(tmp_path / "data")}
    for block in fenced("sh"):
        await shell(block, tmp_path, environment)
    rows = await connection.fetch("SELECT name, mode FROM hookd.sources ORDER BY name")
    assert [tuple(row) for row in rows] == [("github", "edge"), ("ours", "deferred"), ("whatsapp", "deferred")]


async def test_every_query_runs(connection: Connection) -> None:
    """Its SQL runs as it stands."""
    for statement in fenced("sql"):
        await connection.execute(statement)


def test_the_file_is_one_that_apply_reads() -> None:
    """Its example of a file is read without a fault, and means what the words beside it say."""
    [example] = fenced("toml")
    [entry], faults = parse(example, 1)
    assert faults == []
    assert (entry.draft.name, entry.draft.mode, entry.draft.window_seconds) == ("stripe", "edge", 3 * 86_400)
    assert entry.secret_variables == ("STRIPE_SECRET",)
    assert entry.draft.faults(1) == []
