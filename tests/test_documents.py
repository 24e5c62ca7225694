"""What the documents name is there: files, folders, links, settings, make's targets."""

import re
from pathlib import Path

import pytest

from hookd.configuration import GROUPS

ROOT = Path(__file__).parent.parent
DOCUMENTS = (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), ROOT / "deploy/README.md")
ENDINGS = "conf|env|json|md|py|service|socket|timer|toml|yaml"
THEIRS = {"app.py", "first.py", "handlers.py", "hooks.py", "hookd.toml"}  # a reader's own

pytestmark = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def quoted(document: Path) -> str:
    return "\n".join(re.findall(r"`([^`\n]+)`", document.read_text()))


def exists(name: str, document: Path) -> bool:
    """Below the project's folder, or the end of a path there: `store.py` stands for any."""
    return (
        (document.parent / name).exists()
        or next(ROOT.glob(f"[!.]*/**/{name}"), None) is not None
        or (ROOT / name).exists()
    )


def test_files_and_folders_exist(document: Path) -> None:
    """Each file and folder of hookd's that a document names exists."""
    named = set(
        re.findall(
            rf"(?<![\w/.~-])(?:[\w@.-]+/)*[\w@-]+\.(?:{ENDINGS})\b|(?<![\w/.~-])(?:\w+/)+(?=\s|$)", quoted(document)
        )
    )
    assert [name for name in sorted(named - THEIRS) if not exists(name, document)] == []


def test_links_lead_somewhere(document: Path) -> None:
    """Each link between documents leads to a file that exists, and to a heading that it has."""
    for target, _, heading in re.findall(r"\]\(((?!https?:)[^)#]*)(#([^)]*))?\)", document.read_text()):
        file = document.parent / target if target else document
        assert file.exists(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if heading else []
        assert not heading or heading in {
            re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings
        }, heading


def test_settings_exist(document: Path) -> None:
    """Each HOOKD_ name in a document is a setting."""
    known = {f"HOOKD_{field.upper()}" for group in GROUPS for field in group.model_fields}
    assert set(re.findall(r"\bHOOKD_[A-Z_]+\b", document.read_text())) <= known


def test_makes_targets_exist(document: Path) -> None:
    """Each `make` that a document shows is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"^make ([a-z-]+)", quoted(document), re.MULTILINE))
    assert shown <= targets
