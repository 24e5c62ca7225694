"""How it stands: what the store read, folded and judged, in words for a person or a program."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from hookd.show import Table, age, duration, ids, json_ready
from hookd.store import LOOKED_AT_MAX, Standing

STATES = ("waiting", "retrying", "running", "parked", "processed", "failed")
SOURCES_MAX = 100  # anyone may invent names
OTHER = "other"
MAINTENANCE_SECONDS_MAX = 3600.0  # it runs every ten minutes
DAYS_AHEAD_MIN = 3  # of the fourteen that maintenance makes

Counts = Mapping[str, Counter[str]]


def by_source(standing: Standing) -> Counts:
    """Events of each source in each state; those with the most events, every further name as `other`."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in (*standing.settled, *standing.unsettled):
        found[row["source"]][row["state"]] += row["events"]
    rest = found.pop(OTHER, Counter())
    names = sorted(found, key=lambda name: (-found[name].total(), name))
    for name in names[SOURCES_MAX:]:
        rest.update(found[name])
    return {name: found[name] for name in sorted(names[:SOURCES_MAX])} | ({OTHER: rest} if rest else {})


def at_least(standing: Standing) -> set[str]:
    """The states that were counted up to a limit only."""
    looked = Counter[str]()
    for row in standing.unsettled:
        looked["parked" if row["state"] == "parked" else "claimable"] += row["events"]
    parked = {"parked"} if looked["parked"] > LOOKED_AT_MAX else set()
    return parked | ({"waiting", "retrying", "running"} if looked["claimable"] > LOOKED_AT_MAX else set())


def oldest_waiting_seconds(standing: Standing) -> float | None:
    return max(
        (row["age_seconds"] for row in standing.unsettled if row["state"] in {"waiting", "retrying"}), default=None
    )


def days_kept(standing: Standing) -> list[str]:
    """Days beyond their retention that stay, since an event of theirs is still new."""
    details = [row["detail"] or "" for row in standing.maintenance if row["step"] == "retention"]
    kept = [part.removeprefix("kept ") for detail in details for part in detail.split("; ") if part.startswith("kept ")]
    return [day for days in kept for day in days.split(", ")]


def warnings(standing: Standing) -> Iterator[str]:
    """What somebody should look at."""
    if not standing.maintenance:
        yield "maintenance has not run yet: is a processor running?"
    for row in standing.maintenance:
        if row["age_seconds"] > MAINTENANCE_SECONDS_MAX:
            ago = duration(row["age_seconds"])
            yield f"maintenance of {row['step']} last succeeded {ago} ago: is a processor running?"
    if standing.days_ahead < DAYS_AHEAD_MIN:
        yield f"partitions reach {standing.days_ahead} days ahead: run hookd migrate, or a processor"
    if kept := days_kept(standing):
        yield f"kept beyond retention, since events of theirs are still new: {', '.join(kept)}"
    if ended := sum(row["lease_ended"] for row in standing.unsettled):
        yield f"running without a processor, whose lease has ended: {ended}"


def as_json(standing: Standing) -> dict[str, Any]:
    sources, cut = by_source(standing), at_least(standing)

    def numbers(counts: Counter[str]) -> dict[str, int]:
        return {state: min(counts[state], LOOKED_AT_MAX) if state in cut else counts[state] for state in STATES}

    return {
        "at": json_ready(standing.at),
        "sources": {name: numbers(counts) for name, counts in sources.items()},
        "total": numbers(sum(sources.values(), Counter())),
        "at_least": [state for state in STATES if state in cut],
        "oldest_waiting_seconds": oldest_waiting_seconds(standing),
        "received_last_minute": min(standing.received_last_minute, LOOKED_AT_MAX),
        "last_failures": [{name: json_ready(value) for name, value in row.items()} for row in standing.failures],
        "maintenance": {
            row["step"]: {name: json_ready(row[name]) for name in ("succeeded_at", "age_seconds", "detail")}
            for row in standing.maintenance
        },
        "days_ahead": standing.days_ahead,
        "days_kept": days_kept(standing),
        "warnings": list(warnings(standing)),
    }


def in_words(standing: Standing) -> Iterator[str | Table]:
    """What a person reads, from the top."""
    yield counts_table(standing)
    oldest = oldest_waiting_seconds(standing)
    yield f"\noldest waiting: {'none' if oldest is None else duration(oldest)}"
    yield f"received in the last minute: {bounded(standing.received_last_minute)}"
    ran = (f"{row['step']} {duration(row['age_seconds'])} ago" for row in standing.maintenance)
    yield f"maintenance: {', '.join(ran) or 'never'}; {standing.days_ahead} days ahead"
    if standing.failures:
        yield "\nlast failures"
        yield failures_table(standing)
    for warning in warnings(standing):
        yield f"warning: {warning}"


def counts_table(standing: Standing) -> Table:
    sources, cut = by_source(standing), at_least(standing)

    def words(name: str, counts: Counter[str]) -> tuple[str, ...]:
        return name, *(bounded(counts[state]) if state in cut else str(counts[state]) for state in STATES)

    rows = [words(name, counts) for name, counts in sources.items()]
    total = words("total", sum(sources.values(), Counter()))
    return Table(("source", *STATES), [*rows, total], right=STATES)


def failures_table(standing: Standing) -> Table:
    rows = [
        (
            event_id,
            age(row["received_at"], standing.at),
            *(row[name] or "" for name in ("source", "event_type", "reason")),
        )
        for event_id, row in zip(ids([row["id"] for row in standing.failures]), standing.failures, strict=True)
    ]
    return Table(("id", "received", "source", "type", "reason"), rows, whole=("id", "received"))


def bounded(count: int) -> str:
    return f"{LOOKED_AT_MAX}+" if count > LOOKED_AT_MAX else str(count)
