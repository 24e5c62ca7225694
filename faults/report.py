"""The results, for a terminal and for docs/faults.md."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from faults.run import Result
from rig import machine

DOCUMENT = Path(__file__).parents[1] / "docs" / "faults.md"
HEAD = """\
# Faults

What is broken on purpose, and what held. Each case has a PostgreSQL and hookd processes of its own; a load sends
numbered bodies, each once, and keeps every answer. At the end:

* every 2xx is in the table exactly once, byte for byte, and nothing is there that was not sent;
* every row is processed or failed; each processed row was handled, or its reason says why not;
* a handler was started twice for an event only where the case says why it may, and then only for those events to which
  just that happened (their holder was killed while it held them, say); each start has a claim of its own;
* where handlers write in their events' own transactions, there is what one run wrote for each processed event, and
  nothing for any other, at every moment;
* no body answered with a 4xx is stored. (A 503 or a cut connection may be: it means *not known to be stored*.)

```console
$ make faults                              # all of it, and this page
$ .venv/bin/python -m faults --list
$ .venv/bin/python -m faults postgres-killed --seed 7
$ make faults-selftest                     # each case on a hookd that is broken on purpose: it must notice
```
"""


def line(result: Result) -> str:
    """One result, for who watches."""
    name = result.case.name + (f" with {result.sabotage}" if result.sabotage else "")
    words = [result.blunt] if result.blunt else result.violations
    wrong = f": {'; '.join(words)}" if words else ""
    return f"{word(result):8} {result.seconds:6.1f} s  {name}{wrong}"


def word(result: Result) -> str:
    if result.blunt:
        return "BLUNT"
    if result.sabotage:
        return "MISSED" if result.holds else "noticed"
    return "holds" if result.holds else "BROKEN"


def table(results: Sequence[Result]) -> Iterator[str]:
    good = sum(result.is_as_it_should_be for result in results)
    yield f"{good} of {len(results)} as they should be, in {sum(result.seconds for result in results):.0f} s"


def write(results: Sequence[Result], seed: int) -> None:
    DOCUMENT.write_text("\n".join(_document(results, seed)) + "\n")


def _document(results: Sequence[Result], seed: int) -> Iterable[str]:
    yield HEAD
    yield f"Seed {seed}, {len(results)} cases, {sum(result.seconds for result in results) / 60:.0f} minutes, on:\n"
    yield from (f"* {name}: {value}" for name, value in machine.settings(Path(tempfile.gettempdir())).items())
    yield "\n| case | broken | result | figures |"
    yield "| --- | --- | --- | --- |"
    for result in results:
        figures = "; ".join(f"{name} {value}" for name, value in result.figures.items())
        twice = f" May be handled twice: {result.case.twice}." if result.case.twice else ""
        words = "; ".join([word(result), *result.violations]).replace("|", "\\|").replace("\n", " ")
        yield f"| `{result.case.name}` | {result.case.broken}.{twice} | {words} | {figures} |"
