"""The revisions this hookd brings, by the names of their files: Alembic, which reads them, takes half a second."""

from pathlib import Path

FILES = "r[0-9]*_*.py"


def known() -> list[str]:
    """All revisions this hookd knows, the oldest first."""
    return sorted(path.name[1:].partition("_")[0] for path in (Path(__file__).parent / "versions").glob(FILES))


def latest() -> str:
    """The newest revision this hookd brings."""
    return known()[-1]
