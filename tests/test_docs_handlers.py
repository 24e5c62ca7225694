"""What docs/handlers.md shows is true: its files, its commands, and what they print."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands import Hookd

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]

DOCUMENT = (Path(__file__).parent.parent / "docs" / "handlers.md").read_text()
FILE = re.compile(r"# (\w+\.py)\n")


class Block(NamedTuple):
    """A fenced block of the page."""

    language: str
    content: str


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)]


def files() -> dict[str, str]:
    named = [(FILE.match(block.content), block) for block in BLOCKS if block.language == "python"]
    assert all(name for name, _ in named), "a block that is no file"
    return {name[1]: block.content for name, block in named if name}


def shown() -> list[tuple[str, str, str]]:
    """Commands, what they are given, and what they print."""
    told = []
    for number, (language, command) in enumerate(BLOCKS):
        if language == "sh":
            given = BLOCKS[number + 1].content if BLOCKS[number + 1].language == "stdin" else ""
            told.append((command, given, BLOCKS[number + 1 + bool(given)].content))
    return told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in files().items():
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize(("command", "given", "printed"), shown())
def test_each_command_prints_what_is_shown(folder: Path, command: str, given: str, printed: str) -> None:
    """Each command of the page, beside the page's files, prints what stands below it, and says nothing else."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("HOOKD_")}
    known |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOOKD_DATA_DIR": str(folder / "data")}
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=known, input=given, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (printed, "")


def test_each_file_is_an_app(folder: Path) -> None:
    """Each file of the page that is no test has handlers that can be loaded."""
    for name in files():
        if not name.startswith("test_"):
            done = Hookd(folder, {})("routes", "--json", "--app", name)
            assert done.code == 0, done.err


def test_its_tests_pass(folder: Path) -> None:
    """The page's own tests, as they stand there: five."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_every_block_is_run() -> None:
    """Each block of the page is a file, a command, what it is given, or what it prints."""
    assert {block.language for block in BLOCKS} == {"python", "sh", "stdin", "text"}
    assert sum(block.language == "sh" for block in BLOCKS) == sum(block.language == "text" for block in BLOCKS)


def test_every_link_leads_somewhere() -> None:
    """Each file of ours that the page points to is there."""
    links = re.findall(r"\]\(([^)#:]+)[^):]*\)", DOCUMENT)
    missing = [link for link in links if not (Path(__file__).parent.parent / "docs" / link).exists()]
    assert missing == []
