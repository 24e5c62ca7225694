"""The soak's own account: half an hour of answers, each looked for in the table."""

from pathlib import Path
from uuid import uuid4

import pytest

from benchmarks.report import Section
from benchmarks.soak import Sample, compared, report
from chassis.database import Connection
from rig import sample
from tests.factories import an_event

pytestmark = pytest.mark.any_server

BREAKS = {
    "lost": ("DELETE FROM hookd.events WHERE id = $1", "1 answered and not in the table"),
    "a byte changed": (
        "UPDATE hookd.events SET payload = set_byte(payload, 0, 0) WHERE id = $1",
        "1 in the table with other bytes than were sent",
    ),
    "claimed twice": ("UPDATE hookd.events SET claims = 2 WHERE id = $1", "1 not processed, or claimed twice"),
    "failed": (
        "UPDATE hookd.events SET status = 'failed', reason = 'any' WHERE id = $1",
        "1 not processed, or claimed twice",
    ),
    "not answered": (
        "INSERT INTO hookd.events (id, source, method, target, headers, payload)"
        " SELECT hookd.uuid_at(now()), source, method, target, headers, payload FROM hookd.events WHERE id = $1",
        "1 in the table and not answered",
    ),
}


@pytest.mark.parametrize("break_it", [None, *BREAKS])
async def test_what_was_answered_is_compared(connection: Connection, tmp_path: Path, break_it: str | None) -> None:
    """Each id that was answered is a row with the bytes that were sent, claimed once, processed; there is no other."""
    ids = [await an_event(connection, status="processed", payload=sample.BODY, claims=1) for _ in range(3)]
    answered = tmp_path / "answered"
    answered.write_text("".join(f"{each}\n" for each in ids))
    sql, told = BREAKS[break_it] if break_it else ("SELECT $1::uuid", "")
    await connection.execute(sql, ids[1])
    found = await compared(connection, answered)
    assert told in found if told else found == []


async def test_an_id_that_was_answered_twice_is_told(connection: Connection, tmp_path: Path) -> None:
    """One row is not enough for two answers."""
    event_id = await an_event(connection, status="processed", payload=sample.BODY, claims=1)
    (tmp_path / "answered").write_text(f"{event_id}\n{event_id}\n{uuid4()}\n")
    found = await compared(connection, tmp_path / "answered")
    assert {"1 answered with the id of another", "1 answered and not in the table"} <= set(found)


def test_what_is_not_level_is_missed() -> None:
    """What has grown by more than a quarter from the second quarter to the last is no longer level."""
    level = Sample(60, 50, 9, 2, 1.3, 0.05, 20, 4)
    section = Section("Soak", "")
    report(section, [level] * 12 + [level._replace(look_ms=12, receiver_mib=74)] * 4)
    assert section.missed == ["looking for what is due, p99, last quarter"]
