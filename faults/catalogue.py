"""Every case, in the order they are run."""

from faults.case import Case
from faults.cases import (
    certificates,
    clocks,
    crowds,
    days,
    disk,
    duplicates,
    handlers,
    interruptions,
    killers,
    kills,
    leases,
    locks,
    network,
    processors,
    refusals,
    refused_rows,
    replies,
    restarts,
    server_away,
    settles,
    transactions,
)

CASES: tuple[Case, ...] = (
    *kills.CASES,
    *restarts.CASES,
    *certificates.CASES,
    *refusals.CASES,
    *crowds.CASES,
    *processors.CASES,
    *killers.CASES,
    *handlers.CASES,
    *replies.CASES,
    *transactions.CASES,
    *duplicates.CASES,
    *leases.CASES,
    *settles.CASES,
    *interruptions.CASES,
    *server_away.CASES,
    *disk.CASES,
    *network.CASES,
    *refused_rows.CASES,
    *days.CASES,
    *locks.CASES,
    *clocks.CASES,
)

__all__ = ["CASES", "Case"]
