"""Figures as they are printed: medians with the least and the most, each beside its target."""

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
    def verdict(self) -> str:
        return "" if self.target is None else "ok" if self.target.met_by(self.median) else "MISSED"

    def cells(self) -> tuple[str, ...]:
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
    if section.figures:
        header = ("", "median", "least – most", "target", "")
        yield from _table(header, (figure.cells() for figure in section.figures))
        yield ""
    yield from (f"- {note}" for note in section.notes)
    yield from (f"- WRONG: {what}" for what in section.wrong)


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
