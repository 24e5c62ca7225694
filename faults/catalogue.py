"""Every case, in the order they are run."""

from faults import database
from faults.case import Case

CASES: tuple[Case, ...] = (*database.CASES,)

__all__ = ["CASES", "Case"]
