"""Every case, in the order they are run."""

from faults import database, processing, receiving
from faults.case import Case

CASES: tuple[Case, ...] = (*receiving.CASES, *processing.CASES, *database.CASES)

__all__ = ["CASES", "Case"]
