"""`hookd status`: how it stands, told without reading history."""

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from chassis.database import Connection, Database
from hookd import standing
from hookd.store import LOOKED_AT_MAX, Standing, Store
from tests.commands import Hookd
from tests.databases import execute
from tests.factories import an_event, at, events

MANY = """
INSERT INTO hookd.events (id, source, method, target, headers, payload, due_at)
SELECT (left(hookd.uuid_at(now() - interval '1 hour')::text, 14) || '7' || right(gen_random_uuid()::text, 21))::uuid,
       'demo', 'POST', '/demo', '[]', '', $2
  FROM generate_series(1, $1)
"""
MAINTAINED = "INSERT INTO hookd.maintenance VALUES ($1, now() + $2::text::interval, $3)"


@pytest.fixture
def hookd(database_url: str, tmp_path: Path) -> Hookd:
    return Hookd(tmp_path, {"HOOKD_DATABASE_URL": database_url})


@pytest.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    store = Store(database, "test")
    yield store
    await store.close()


async def test_status_counts_by_source_and_state(hookd: Hookd, connection: Connection) -> None:
    """Each source has its counts: waiting, retrying, running and parked apart, processed and failed; and a total."""
    await events(connection, 2, source="github", received="3 hours ago")
    await an_event(connection, source="github", attempts=1, due="5 minutes", received="5 hours ago")
    await an_event(connection, source="github", attempts=1, held_by="host 1", due="30 seconds", received="9 hours ago")
    await an_event(connection, source="stripe", due="infinity", received="9 days ago")
    await events(connection, 3, source="stripe", status="processed")
    await an_event(connection, source="stripe", status="failed")
    [shown] = hookd("status", "--json").json
    nothing = dict.fromkeys(standing.STATES, 0)
    assert shown["sources"] == {
        "github": nothing | {"waiting": 2, "retrying": 1, "running": 1},
        "stripe": nothing | {"parked": 1, "processed": 3, "failed": 1},
    }
    assert shown["total"] == dict(zip(standing.STATES, (2, 1, 1, 1, 3, 1), strict=True))
    assert shown["at_least"] == []
    oldest = shown["oldest_waiting_seconds"]
    assert isinstance(oldest, float)
    assert 5 * 3600 <= oldest < 5 * 3600 + 60
    assert hookd("status").lines[:4] == [
        "source  waiting  retrying  running  parked  processed  failed",
        "github        2         1        1       0          0       0",
        "stripe        0         0        0       1          3       1",
        "total         2         1        1       1          3       1",
    ]


async def test_the_last_five_failures_are_shown(hookd: Hookd, connection: Connection) -> None:
    """The newest five failures, of whatever source, with their reasons, the newest on top."""
    ids = [
        await an_event(connection, source=f"s{n % 3}", status="failed", received=f"{n} days ago", reason=f"why {n}")
        for n in range(1, 8)
    ]
    shown = hookd("status", "--json").json[0]["last_failures"]
    assert isinstance(shown, list)
    assert [(each["id"], each["source"], each["reason"]) for each in shown] == [
        (str(ids[n - 1]), f"s{n % 3}", f"why {n}") for n in range(1, 6)
    ]


async def test_the_rate_is_of_the_last_minute(store: Store, connection: Connection) -> None:
    """What was received in the last minute counts, whatever became of it."""
    await an_event(connection, received="10 seconds ago")
    await an_event(connection, received="10 seconds ago", status="processed")
    await an_event(connection, received="70 seconds ago")
    assert (await store.standing()).received_last_minute == 2


async def test_nothing_reads_history(store: Store, connection: Connection) -> None:
    """Settled events are counted without being read, also after statistics that say they are all new."""
    day = (await at(connection, "1 hour ago")).astimezone(UTC)
    await an_event(connection, received=day)
    await connection.execute(MANY, 5000, datetime.now(UTC))
    await connection.execute("ANALYZE hookd.events")
    await connection.execute("UPDATE hookd.events SET status = 'processed', finished_at = now()")
    read = f"SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'events_{day:%Y%m%d}'"
    await connection.execute("SELECT pg_stat_force_next_flush()")
    before = await connection.fetchval(read)
    await an_event(connection, status="failed", source="z", received="now")
    await store.standing()
    await store.close()
    while await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'hookd test'"):
        pass
    assert await connection.fetchval(read) - before < 20


@pytest.mark.parametrize(
    ("due", "state", "other_due", "other"),
    [("now", "waiting", "infinity", "parked"), ("infinity", "parked", "now", "waiting")],
)
async def test_a_backlog_is_counted_up_to_a_limit(
    store: Store, connection: Connection, due: str, state: str, other_due: str, other: str
) -> None:
    """Of what is new at most 100,000 rows are counted one by one; the number is then marked as a lower bound."""
    await an_event(connection, received="1 hour ago", status="processed")
    await connection.execute(MANY, LOOKED_AT_MAX + 1, await at(connection, due))
    await an_event(connection, due=other_due)
    found = await store.standing()
    *_, total = standing.counts_table(found).rows
    shown = dict(zip(standing.STATES, total[1:], strict=True))
    assert (shown[state], shown[other]) == ("100000+", "1")
    told = standing.as_json(found)
    assert (told["total"][state], state in told["at_least"], other in told["at_least"]) == (100_000, True, False)


def a_standing(settled: list[dict[str, Any]] | None = None, **facts: Any) -> Standing:
    """A quiet one, but for these facts."""
    maintenance = [{"step": "days", "succeeded_at": datetime.now(UTC), "age_seconds": 60.0, "detail": "0 made"}]
    quiet: dict[str, Any] = {"unsettled": [], "received_last_minute": 0, "failures": [], "maintenance": maintenance}
    return Standing(**{"at": datetime.now(UTC), "settled": settled or [], "days_ahead": 14, **quiet, **facts})


def test_names_beyond_a_hundred_are_folded() -> None:
    """The hundred sources with the most events keep their names; all others are counted as `other`."""
    counts = [{"source": f"s{n:03}", "state": "failed", "events": 1000 - n} for n in range(102)]
    shown = standing.by_source(a_standing([*counts, {"source": "other", "state": "processed", "events": 7}]))
    assert list(shown) == [*(f"s{n:03}" for n in range(100)), "other"]
    assert shown["other"] == Counter(failed=900 + 899, processed=7)


def test_quiet_has_no_warnings() -> None:
    """Where maintenance runs and days are made ahead there is nothing to warn of."""
    assert list(standing.warnings(a_standing())) == []


@pytest.mark.parametrize(
    ("facts", "warning"),
    [
        ({"maintenance": []}, "maintenance has not run yet: is a processor running?"),
        (
            {"maintenance": [{"step": "keys", "age_seconds": 7300.0, "detail": None}]},
            "maintenance of keys last succeeded 2 h ago: is a processor running?",
        ),
        ({"days_ahead": 2}, "partitions reach 2 days ahead: run hookd migrate, or a processor"),
        (
            {
                "maintenance": [
                    {
                        "step": "retention",
                        "age_seconds": 0.0,
                        "detail": "dropped 2026-01-01; kept 2026-01-02, 2026-01-03",
                    }
                ]
            },
            "kept beyond retention, since events of theirs are still new: 2026-01-02, 2026-01-03",
        ),
        (
            {"unsettled": [{"source": "a", "state": "running", "events": 4, "age_seconds": 1.0, "lease_ended": 3}]},
            "running without a processor, whose lease has ended: 3",
        ),
    ],
)
def test_what_somebody_should_look_at(facts: dict[str, Any], warning: str) -> None:
    """Maintenance that stands still, missing days, days that stay and abandoned events are warned of."""
    assert list(standing.warnings(a_standing(**facts))) == [warning]


async def test_warnings_come_from_the_table(hookd: Hookd, connection: Connection) -> None:
    """Maintenance's own notes, the partitions and the leases are what is judged."""
    await connection.execute(MAINTAINED, "days", "-2 hours", "0 made")
    await connection.execute(MAINTAINED, "retention", "-1 minutes", "kept 2026-01-02")
    await an_event(connection, held_by="host 1", due="1 minute ago")
    for day in await connection.fetch("SELECT day FROM hookd.days() WHERE day > current_date + 2"):
        await connection.execute(f"DROP TABLE hookd.events_{day[0]:%Y%m%d}")
    [shown] = hookd("status", "--json").json
    assert shown["warnings"] == [
        "maintenance of days last succeeded 2 h ago: is a processor running?",
        "partitions reach 2 days ahead: run hookd migrate, or a processor",
        "kept beyond retention, since events of theirs are still new: 2026-01-02",
        "running without a processor, whose lease has ended: 1",
    ]
    assert (shown["days_ahead"], shown["days_kept"]) == (2, ["2026-01-02"])
    maintenance = shown["maintenance"]
    assert isinstance(maintenance, dict)
    assert maintenance["retention"]["detail"] == "kept 2026-01-02"


@pytest.mark.any_server
async def test_watching_prints_a_line_each_second(hookd: Hookd, connection: Connection) -> None:
    """--watch --json prints how it stands again and again, until Ctrl-C ends it with 0."""
    with hookd.start("status", "--watch", "--json") as child:
        assert child.stdout is not None
        first = orjson.loads(child.stdout.readline())
        await an_event(connection)
        second = orjson.loads(child.stdout.readline())
        os.killpg(child.pid, signal.SIGINT)
        _, err = child.communicate()
    assert (child.returncode, err) == (0, "")
    assert (first["total"]["waiting"], second["total"]["waiting"]) == (0, 1)


async def test_watching_outlives_the_database(hookd: Hookd, connection: Connection, server_url: str) -> None:
    """While the database is away --watch says so, and goes on when it is back."""
    name = await connection.fetchval("SELECT current_database()")
    with hookd.start("status", "--watch", "--json") as child:
        assert child.stdout is not None
        child.stdout.readline()
        await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hookd status'"
        )
        while "error" not in (line := orjson.loads(child.stdout.readline())):
            pass
        assert line["error"].startswith("PostgreSQL cannot be reached: ")
        await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        while "total" not in orjson.loads(child.stdout.readline()):
            pass
        os.killpg(child.pid, signal.SIGINT)


@pytest.mark.any_server
async def test_watching_on_a_terminal_draws_again(hookd: Hookd, connection: Connection) -> None:
    """On a terminal --watch draws the table again in its place; Ctrl-C ends it with 0."""
    child, terminal = hookd.start_on_terminal("status", "--watch")
    seen = read_until(terminal, "warning")
    await an_event(connection)
    seen += read_until(terminal, "demo")
    child.send_signal(signal.SIGINT)
    assert child.wait() == 0
    os.close(terminal)
    assert "\x1b[1A" in seen  # up a line: drawn over, not below


def read_until(terminal: int, word: str) -> str:
    seen = ""
    while word not in seen:
        seen += os.read(terminal, 65536).decode()
    return seen
