"""Figures as they are printed: medians with the least and the most, ratios beside targets, the rest side by side."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

DIGITS = {"×": 2, "ms": 2, "µs": 1, "MiB": 1, "KiB": 2, "/s": 0, "": 0, "%": 0}


@dataclass(frozen=True)
class Target:
    kind: Literal["≥", "≤"]
    bound: float

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.kind == "≥" else value <= self.bound


@dataclass(frozen=True)
class Figure:
    """One line: a value for each round."""

    name: str
    unit: str
    values: Sequence[float]
    target: Target | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def whose(self) -> tuple[str, str]:
        """Circumstances, and whose it is under them: a name is "circumstances: whose: what", or less."""
        circumstances, _, whose = self.name.rpartition(": ")[0].rpartition(": ")
        return circumstances, whose

    @property
    def what(self) -> str:
        """What was measured, with its unit."""
        what = self.name.rpartition(": ")[2]
        return what if self.unit in ("", "/s") else f"{what}, {self.unit}"

    @property
    def verdict(self) -> str:
        return "" if self.target is None else "ok" if self.target.met_by(self.median) else "MISSED"

    def cell(self) -> str:
        """Its values where the unit is said elsewhere."""
        digits = DIGITS[self.unit]
        low, median, high = (f"{each:,.{digits}f}" for each in (min(self.values), self.median, max(self.values)))
        return f"{median} ({low}–{high})" if len(self.values) > 1 else median

    def cells(self) -> tuple[str, ...]:
        """A line of its own."""
        low, high = shown(min(self.values), self.unit), shown(max(self.values), self.unit)
        target = f"{self.target.kind} {self.target.bound:g} {self.unit}" if self.target else ""
        return (
            self.name,
            shown(self.median, self.unit),
            f"{low} – {high}" if len(self.values) > 1 else "",
            target,
            self.verdict,
        )


@dataclass
class Section:
    """What one benchmark found. `wrong`: why its figures do not count; a benchmark that loses events is none."""

    title: str
    method: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def missed(self) -> list[str]:
        return [figure.name for figure in self.figures if figure.verdict == "MISSED"]


def shown(value: float, unit: str) -> str:
    digits = DIGITS[unit]
    return f"{value:,.{digits}f}{' ' if unit not in ('', '/s') else ''}{unit}"


def markdown(machine: dict[str, str], sections: Sequence[Section]) -> str:
    """All of it, for a terminal."""
    return "\n".join([about(machine), *(f"\n## {each.title}\n\n{body(each)}" for each in sections)])


def about(machine: dict[str, str]) -> str:
    return "\n".join(_table(("machine", ""), machine.items()))


def body(section: Section, pictures: Sequence[str] = ()) -> str:
    """A section without its title; `pictures`: files to show below its table."""
    shown_there = [f"\n![{section.title}]({name})" for name in pictures]
    return "\n".join([*_lines(section), *shown_there])


def _lines(section: Section) -> Iterator[str]:
    yield from (section.method, "")
    alone = [each for each in section.figures if not _is_compared(each)]
    if alone:
        header = ("", "median", "least – most", "target", "")
        yield from _table(header, (figure.cells() for figure in alone))
        yield ""
    compared = [each for each in section.figures if _is_compared(each)]
    for circumstances in dict.fromkeys(each.whose[0] for each in compared):
        yield from _side_by_side(circumstances, [each for each in compared if each.whose[0] == circumstances])
        yield ""
    yield from (f"- {note}" for note in section.notes)
    yield from (f"- WRONG: {what}" for what in section.wrong)


def _is_compared(figure: Figure) -> bool:
    """Whether it stands beside others of its kind: no ratio, and nothing with a target."""
    return bool(figure.whose[1]) and figure.unit != "×" and figure.target is None


def _side_by_side(circumstances: str, figures: Sequence[Figure]) -> Iterator[str]:
    """A line for each who was measured, a column for each what."""
    columns = list(dict.fromkeys(each.what for each in figures))
    rows = {whose: dict.fromkeys(columns, "") for whose in dict.fromkeys(each.whose[1] for each in figures)}
    for each in figures:
        rows[each.whose[1]][each.what] = each.cell()
    yield from _table((circumstances, *columns), ((whose, *cells.values()) for whose, cells in rows.items()))


def _table(header: Sequence[str], rows: Any) -> Iterator[str]:
    cells = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    for number, row in enumerate(cells):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        if number == 0:
            yield "| " + " | ".join("-" * width for width in widths) + " |"


def as_json(machine: dict[str, str], sections: Sequence[Section]) -> dict[str, Any]:
    return {"machine": machine, "sections": [_section_as_json(each) for each in sections]}


def _section_as_json(section: Section) -> dict[str, Any]:
    figures = [asdict(each) | {"median": each.median, "verdict": each.verdict} for each in section.figures]
    return asdict(section) | {"figures": figures}
