"""hookd with one of its parts broken on purpose, so that a case can show that it would notice.

`python -m faults.sabotages NAME ARGUMENTS…` runs `hookd ARGUMENTS…` so. Nothing but the fault suite knows of this.
"""

from collections.abc import Callable

SABOTAGES: dict[str, Callable[[], None]] = {}


def sabotage(break_it: Callable[[], None]) -> Callable[[], None]:
    """Its name, with dashes, is the sabotage's; its docstring says what no longer holds."""
    SABOTAGES[break_it.__name__.replace("_", "-")] = break_it
    return break_it
