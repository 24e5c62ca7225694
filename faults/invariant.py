"""What must hold whatever was broken, and the lines that speak against it."""

from collections import Counter
from collections.abc import Collection, Iterable

from chassis.database import Connection
from rig.load import Load

ROWS = "SELECT id::text, status, reason, claims FROM hookd.events"


async def violations(
    connection: Connection, loads: Iterable[Load], starts: Counter[str], excused: Collection[str]
) -> list[str]:
    """`starts`: how often a handler was started for each id. `excused`: what may be handled twice, for its cause."""
    found = [line for load in loads for line in await load.violations(connection)]
    rows = {row["id"]: row for row in await connection.fetch(ROWS)}
    unhandled = [each for each, row in rows.items() if row["status"] == "processed" and row["reason"] is None]
    twice = {each for each, count in starts.items() if count > 1}
    wrong = {
        "rows still new": sum(row["status"] == "new" for row in rows.values()),
        "processed without a handler or a reason": sum(not starts[each] for each in unhandled),
        "failed without a reason": sum(row["status"] == "failed" and not row["reason"] for row in rows.values()),
        "handled, and not in the table": len(starts.keys() - rows.keys()),
        "handled more often than claimed": sum(starts[each] > row["claims"] for each, row in rows.items()),
        "handled twice" + (", and not for that cause" if excused else ""): len(twice.difference(excused)),
    }
    return found + [f"{count:,} {what}" for what, count in wrong.items() if count]
