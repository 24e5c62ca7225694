"""A gate for CI: the two ratios that hookd's speed rests on, against those that docs/benchmarks.md holds."""

import re
from dataclasses import replace

from benchmarks import drain, receiver
from benchmarks.bench import Bench
from benchmarks.document import FILE
from benchmarks.report import Section, Target
from rig.processes import BenchmarkError

RATIOS = ("durable requests/s ÷ answers without storing", "events/s, start-up included ÷ SQL alone")
FALL_MAX = 0.2
TITLE = "Gate"
METHOD = "Taken anew and compared with the committed figures: no more than a fifth may be lost on the way."


async def measure(bench: Bench) -> Section:
    """Raises BenchmarkError when docs/benchmarks.md has no figure to compare with."""
    section = Section(TITLE, METHOD)
    committed = {name: median_of(FILE.read_text(), name) for name in RATIOS}
    for each in (await receiver.measure(bench), await drain.measure(bench)):
        section.wrong += each.wrong
        for figure in each.figures:
            if figure.name in committed:
                least = round(committed[figure.name] * (1 - FALL_MAX), 2)
                section.figures.append(replace(figure, target=Target("≥", least)))
                section.notes.append(f"{figure.name}: committed {committed[figure.name]:.2f}")
    return section


def median_of(document: str, name: str) -> float:
    """The median that a table of the document gives a figure."""
    found = re.search(rf"^\| {re.escape(name)} +\| ([\d.]+) ×", document, re.MULTILINE)
    if found is None:
        raise BenchmarkError(f"{FILE} has no figure {name!r}: take it with python -m benchmarks --write")
    return float(found[1])
