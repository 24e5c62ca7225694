"""The figures as pictures: SVG, drawn by matplotlib, beside the tables of docs/benchmarks.md."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, Section

BARS_MAX = 24
HEIGHT_INCHES, WIDTH_INCHES = 0.32, 9.0
# The same figures make the same file: no date in it, and no random names.
UNDATED = {"Date": None}
STABLE: dict[str, Any] = {"svg.hashsalt": "hookd", "svg.fonttype": "none", "font.size": 9.0}


def draw(sections: Sequence[Section], folder: Path) -> dict[str, list[str]]:
    """A file for each section and unit that has something to compare; their names by the section's title."""
    for section in sections:
        for old in folder.glob(f"benchmarks-{_slug(section.title)}-*.svg"):
            old.unlink()
    return {section.title: list(_drawn(section, folder)) for section in sections}


def _drawn(section: Section, folder: Path) -> Iterator[str]:
    for unit in dict.fromkeys(figure.unit for figure in section.figures):
        figures = [figure for figure in section.figures if figure.unit == unit][:BARS_MAX]
        if len(figures) < 2 or unit == "":
            continue
        name = f"benchmarks-{_slug(section.title)}-{_slug(unit) or 'ratio'}.svg"
        _bars(figures, unit, section.title, folder / name)
        yield name


def _bars(figures: Sequence[Figure], unit: str, title: str, file: Path) -> None:
    """Medians as bars, the least and the most as whiskers."""
    import matplotlib as mpl  # noqa: PLC0415 - a benchmark that is not written needs no pictures

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    with mpl.rc_context(STABLE):
        canvas, axes = plt.subplots(figsize=(WIDTH_INCHES, 1.2 + HEIGHT_INCHES * len(figures)), layout="constrained")
        medians = [figure.median for figure in figures]
        spread = [
            [figure.median - min(figure.values) for figure in figures],
            [max(figure.values) - figure.median for figure in figures],
        ]
        colours = ["#2b6cb0" if "hookd" in figure.name else "#a0aec0" for figure in figures]
        axes.barh([figure.name for figure in figures], medians, xerr=spread, color=colours, ecolor="#4a5568")
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        axes.set_title(title)
        canvas.savefig(file, format="svg", metadata=UNDATED)
        plt.close(canvas)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("µ", "u")).strip("-")
