"""docs/benchmarks.md: the figures stand between two marks, a section for each benchmark; what stands around stays."""

import re
from collections.abc import Mapping
from pathlib import Path

FILE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: written by `python -m benchmarks --write` -->", "<!-- end of figures -->"


def write(machine: str, sections: Mapping[str, str], file: Path = FILE) -> None:
    """Put the sections in the places of those with the same titles, or behind the others; which were not taken stay.

    A file without marks gets them at its end.
    """
    text = file.read_text() if file.exists() else "# Benchmarks\n"
    before, begun, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END) if begun else ("", "", "")
    there = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", old, re.MULTILINE)) | dict(sections)
    parts = [machine, *(f"## {title}\n\n{words.strip()}" for title, words in there.items())]
    figures = "\n\n".join(part.strip() for part in parts)
    file.write_text(f"{before.rstrip()}\n\n{BEGIN}\n\n{figures}\n\n{END}\n\n{after.strip()}".strip() + "\n")
