"""docs/benchmarks.md: the table of the last run stands between two marks, what stands around it stays."""

from pathlib import Path

FILE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: written by `python -m benchmarks --write` -->", "<!-- end of figures -->"


def write(table: str, file: Path = FILE) -> None:
    """Put the table between the marks; a file without marks gets them at its end."""
    text = file.read_text() if file.exists() else "# Benchmarks\n"
    before, begun, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if begun else ""
    file.write_text(f"{before.rstrip()}\n\n{BEGIN}\n\n{table.strip()}\n\n{END}\n\n{after.strip()}".strip() + "\n")
