"""What a case is: something that is broken, and what must hold all the same."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from faults.scene import Scene

Run: TypeAlias = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """`run` breaks things on a scene of its own and returns when all that was stored should be settled.

    `broken`: what is broken, in a sentence. `caught`: the sabotages (see `faults.sabotage`) that this case must catch.
    `twice`: why an event may be handled twice here, in the contract's words; None: it may not.
    `seconds_max`: after so long it has failed. `is_short`: one of those that `make test` runs.
    """

    name: str
    broken: str
    run: Run
    caught: tuple[str, ...]
    twice: str | None = None
    seconds_max: float = 60.0
    is_short: bool = False


def case(
    broken: str, *, caught: tuple[str, ...], twice: str | None = None, seconds_max: float = 60.0, is_short: bool = False
) -> Callable[[Run], Case]:
    """Make a case of a function; its name, with dashes, is the case's."""

    def decorate(run: Run) -> Case:
        name = getattr(run, "__name__", "").replace("_", "-")
        return Case(name, broken, run, caught, twice, seconds_max, is_short)

    return decorate
