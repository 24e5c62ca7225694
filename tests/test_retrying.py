"""`retries=` and `timeout=`: a handler says itself how patient it is; what it does not say, the settings do."""

import asyncio
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

import hookd
from chassis.database import Connection, Database
from processor.outcome import DIED, WAITS
from tests.factories import an_event, row_of
from tests.handling import faults, handler
from tests.processing import Gate, Watch, an_app, processing

pytestmark = pytest.mark.any_server

WAITS_FOR_ITS_RETRY = "id = $1 AND status = 'new' AND held_by IS NULL AND attempts = $2"
DUE_IN = "SELECT extract(epoch FROM due_at - now())::float FROM hookd.events WHERE id = $1"
MAKE_DUE = "UPDATE hookd.events SET due_at = now() WHERE id = $1"
DIED_TWICE: dict[str, Any] = {"held_by": "a dead one", "attempts": 2, "claims": 2, "due": "1 second ago"}
LARGE = b'{"a": "%b"}' % (b"x" * 100_000)


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


class Failing:
    """A handler that always fails, and counts its attempts by source."""

    def __init__(self) -> None:
        self.tried: list[tuple[str, int]] = []

    async def __call__(self, event: hookd.Event) -> None:
        self.tried.append((event.source, event.attempt))
        raise RuntimeError("again")

    def attempts(self, source: str) -> int:
        return sum(each == source for each, _ in self.tried)


async def waits(connection: Connection, watch: Watch, event_id: UUID, attempt: int) -> float:
    """How long the event waits after that attempt; then it waits no more."""
    await watch.until(WAITS_FOR_ITS_RETRY, event_id, attempt)
    seconds: float = await connection.fetchval(DUE_IN, event_id)
    await connection.execute(MAKE_DUE, event_id)
    return seconds


# How often, and when


async def test_delays(database: Database, connection: Connection, watch: Watch) -> None:
    """A list is the delays before each retry, give or take a fifth; after the last one the event has failed."""
    event_id = await an_event(connection, source="a")
    failing = Failing()
    async with processing(database, handler(hookd.on("a", retries=[100, 1000.5, 60]), failing)):
        for attempt, delay in enumerate((100, 1000.5, 60), start=1):
            assert delay * 0.8 - 2 < await waits(connection, watch, event_id, attempt) <= delay * 1.2
        assert await watch.settled() == {event_id: ("failed", "gave up after 4 attempts: RuntimeError: again")}
    assert failing.attempts("a") == 4


async def test_a_count(database: Database, connection: Connection, watch: Watch) -> None:
    """A number is how many retries there are, waiting as all events do."""
    event_id = await an_event(connection, source="a")
    failing = Failing()
    async with processing(database, handler(hookd.on("a", retries=2), failing), attempts_max=10):
        for attempt in (1, 2):
            delay = WAITS[attempt]
            assert delay * 0.8 - 2 < await waits(connection, watch, event_id, attempt) <= delay * 1.2
        assert await watch.settled() == {event_id: ("failed", "gave up after 3 attempts: RuntimeError: again")}
    assert failing.attempts("a") == 3


@pytest.mark.parametrize("payload", [b'{"a": 1}', LARGE], ids=["inline", "fetched"])
@pytest.mark.parametrize("where", [None, "payload"], ids=["", "filtered"])
async def test_each_handler_has_its_own(
    database: Database, connection: Connection, watch: Watch, payload: bytes, where: str | None
) -> None:
    """None at all, fewer than the settings say, as many, more: beside each other, large bodies and filters too."""
    counts: dict[str, Any] = {"none": 0, "empty": (), "fewer": 1, "usual": None, "more": [0, 0, 0, 0]}
    ids = {name: await an_event(connection, source=name, payload=payload) for name in counts}
    failing = Failing()
    handlers = [handler(hookd.on(name, retries=each, where=where), failing) for name, each in counts.items()]
    attempts = {"none": 1, "empty": 1, "fewer": 2, "usual": 3, "more": 5}

    async with processing(database, *handlers, attempts_max=3):
        for name, attempt in (("fewer", 1), ("usual", 1), ("usual", 2)):
            await waits(connection, watch, ids[name], attempt)
        settled = await watch.settled()
    assert {name: failing.attempts(name) for name in counts} == attempts
    assert {name: settled[event_id][1] for name, event_id in ids.items()} == {
        name: f"gave up after {count} attempts: RuntimeError: again" for name, count in attempts.items()
    }


async def test_retry_after_goes_before_the_delays(database: Database, connection: Connection, watch: Watch) -> None:
    """What an attempt asks for itself counts, and is an attempt like any other."""
    event_id = await an_event(connection, source="a")

    async def retry(event: hookd.Event) -> None:
        raise hookd.Retry("later", after=500)

    async with processing(database, handler(hookd.on("a", retries=[10]), retry)):
        assert 490 < await waits(connection, watch, event_id, 1) <= 500
        assert await watch.settled() == {event_id: ("failed", "gave up after 2 attempts: later")}


async def test_an_abort_rejects(database: Database, connection: Connection, watch: Watch) -> None:
    """Where nobody waits for an answer, an abort is an event that has failed, at once."""
    event_id = await an_event(connection, source="a")

    async def refuse(event: hookd.Event) -> None:
        hookd.abort(403)

    async with processing(database, handler(hookd.on("a"), refuse)):
        assert await watch.settled() == {event_id: ("failed", "aborted: 403 Forbidden")}


async def test_a_broken_body_is_not_tried_again(database: Database, connection: Connection, watch: Watch) -> None:
    """Neither what is asked for by a parameter nor what a handler asks for itself: the event fails, with the place."""
    asked = await an_event(connection, source="asked", payload=b'{"a": ')
    wrong = await an_event(connection, source="wrong", payload=b"[]")
    itself = await an_event(connection, source="itself", payload=b'{"a": ')

    async def by_parameter(payload: dict[str, int]) -> None: ...

    def by_itself(event: hookd.Event) -> None:
        event.json()

    async with processing(
        database,
        *(handler(hookd.on(source), by_parameter) for source in ("asked", "wrong")),
        handler(hookd.on("itself"), by_itself),
    ):
        settled = await watch.settled()
    said = "the body is not JSON: Expecting value: line 1 column 7 (char 6)"
    assert settled == {
        asked: ("failed", said),
        wrong: ("failed", "payload: Input should be a valid dictionary"),
        itself: ("failed", said),
    }


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"retries": -1}, "retries=-1: expected 0 to 99"),
        ({"retries": 100}, "retries=100: expected 0 to 99"),
        ({"retries": [1] * 100}, "retries=100: expected 0 to 99"),
        ({"retries": True}, "retries=True: expected how many, or the delays before each, in seconds"),
        ({"retries": 1.5}, "retries=1.5: expected how many"),
        ({"retries": "3"}, "retries='3': expected how many"),
        ({"retries": [1, -1]}, "retries: a delay of -1: expected seconds, up to 7 days"),
        ({"retries": [7 * 86_400 + 1]}, "retries: a delay of 604801: expected seconds"),
        ({"retries": ["5 min"]}, "retries: a delay of '5 min': expected seconds"),
        ({"retries": [float("nan")]}, "retries: a delay of nan"),
        ({"timeout": 0}, "timeout=0: expected seconds, up to a day"),
        ({"timeout": -1}, "timeout=-1: expected seconds"),
        ({"timeout": 86_401}, "timeout=86401: expected seconds"),
        ({"timeout": float("nan")}, "timeout=nan: expected seconds"),
        ({"timeout": True}, "timeout=True: expected seconds"),
        ({"timeout": "30"}, "timeout='30': expected seconds"),
    ],
)
def test_what_cannot_be(declared: dict[str, Any], said: str) -> None:
    """Refused when the app is loaded."""
    for decorator in (hookd.on("a", **declared), hookd.webhook("/a", **declared)):
        (fault,) = faults((decorator, lambda event: None))
        assert said in fault


def test_what_may_just_be() -> None:
    """The most that there may be of each."""
    most: list[dict[str, Any]] = [
        {"retries": 99},
        {"retries": [7 * 86_400.0] * 99},
        {"timeout": 86_400},
        {"timeout": 0.001},
    ]
    for declared in most:
        assert not faults((hookd.on("a", **declared), lambda event: None))


# Time-outs


async def test_a_time_out_of_its_own(database: Database, connection: Connection, watch: Watch) -> None:
    """Shorter or longer than the settings': each run is cut off at its own handler's."""
    short = await an_event(connection, source="short")
    long = await an_event(connection, source="long")
    usual = await an_event(connection, source="usual")
    done = asyncio.Event()

    async def hang(event: hookd.Event) -> None:
        await asyncio.Event().wait()

    async def wait(event: hookd.Event) -> None:
        await done.wait()

    handlers = [
        handler(hookd.on("short", timeout=0.1, retries=0), hang),
        handler(hookd.on("long", timeout=60, retries=0), wait),
        handler(hookd.on("usual", retries=0), hang),
    ]
    async with processing(database, *handlers, handler_timeout_seconds=0.4):
        await watch.until("id = $1 AND status = 'failed'", usual)
        await watch.until("id = $1 AND status = 'failed'", short)
        assert (await row_of(connection, long))["status"] == "new"
        done.set()
        settled = await watch.settled()
    assert settled[long] == ("processed", None)
    reasons = {each: settled[each][1] or "" for each in (short, usual)}
    for event_id, least in ((short, 0.1), (usual, 0.4)):
        assert reasons[event_id].startswith("gave up after 1 attempts: timed out after ")
        assert float(reasons[event_id].split()[-2]) >= least


async def test_a_thread_s_time_out_of_its_own(database: Database, connection: Connection, watch: Watch) -> None:
    """A `def` cannot be cancelled: it counts as failed when it ends, by its own handler's time."""
    event_id = await an_event(connection, source="a")
    over, begun = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(event: hookd.Event) -> None:
        loop.call_soon_threadsafe(begun.set)
        over.wait(20)

    async with processing(database, handler(hookd.on("a", timeout=0.05, retries=0), hang)):
        await begun.wait()
        with capture_logs() as logs:
            while not any(each["event"] == "thread.stuck" for each in logs):  # noqa: ASYNC110 - a log tells nobody
                await asyncio.sleep(0.01)
        assert (await row_of(connection, event_id))["status"] == "new"
        over.set()
        status, reason = (await watch.settled())[event_id]
    assert (status, (reason or "").startswith("gave up after 1 attempts: timed out after ")) == ("failed", True)


# Suspects, the last claim, and replays

PATIENT = """
@hookd.on("hangs", timeout=0.3, retries=5)
async def hang(event):
    await asyncio.sleep(60)

@hookd.on("kills", retries=2)
async def kill(event):
    os._exit(1)

@hookd.webhook("/cap/<name>", where="payload.ok")
async def capped(payload: dict, name: str):
    raise hookd.Reject(name)

@hookd.webhook("/json", retries=0)
async def read(payload: dict):
    raise AssertionError
"""


async def test_a_suspect_has_its_handler_s_patience(
    database: Database, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """In its child too: its own time-out and count, its rule's variables, its filter, a body that is not JSON."""
    hangs = await an_event(connection, source="hangs", **DIED_TWICE)
    kills = await an_event(connection, source="kills", **DIED_TWICE)
    capped = await an_event(connection, source="cap", target="/cap/web", payload=b'{"ok": 1}', **DIED_TWICE)
    passed = await an_event(connection, source="cap", target="/cap/web", payload=b"{}", **DIED_TWICE)
    broken = await an_event(connection, source="cap", target="/cap/web", payload=b"{", **DIED_TWICE)
    read = await an_event(connection, source="json", payload=b'{"a": ', **(DIED_TWICE | {"attempts": 0, "claims": 5}))
    app = an_app(tmp_path, PATIENT)
    handlers = await asyncio.to_thread(loaded, app)
    async with processing(database, *handlers, app=app, attempts_max=10):
        await watch.until("id = $1 AND held_by IS NULL AND attempts = 3 AND reason LIKE 'timed out after 0.3%'", hangs)
        await watch.until("NOT EXISTS (SELECT FROM hookd.events WHERE id <> $1 AND status = 'new')", hangs)
    settled = {each: (await row_of(connection, each))["reason"] for each in (kills, capped, passed, broken, read)}
    assert settled == {
        kills: f"gave up after 3 attempts: {DIED}",
        capped: "web",
        passed: "ignored: no handler for event type None",
        broken: settled[broken],
        read: "the body is not JSON: Expecting value: line 1 column 7 (char 6)",
    }
    assert (settled[broken] or "").startswith("where='payload.ok': the body is not JSON: Expecting property name")


def loaded(app: str) -> list[Any]:
    """Its handlers, as the processor itself has them."""
    from processor.handling.app import load  # noqa: PLC0415 - what it declares is taken away again
    from tests.handling import declared  # noqa: PLC0415

    with declared():
        return list(load(app).handlers)


@pytest.mark.parametrize("payload", [b'{"a": 1}', LARGE], ids=["inline", "fetched"])
@pytest.mark.parametrize("where", [None, "payload.a"], ids=["", "filtered"])
async def test_its_attempts_were_used_up(
    database: Database, connection: Connection, watch: Watch, payload: bytes, where: str | None
) -> None:
    """Claimed when its own handler's attempts were made, it fails without a run; by another's patience it is run."""
    columns: dict[str, Any] = {"held_by": "a dead one", "claims": 2, "attempts": 2, "due": "1 second ago"}
    impatient = await an_event(connection, source="impatient", payload=payload, **columns)
    patient = await an_event(
        connection, source="patient", payload=payload, reason="RuntimeError: x", attempts=7, claims=7
    )
    gate = Gate(is_open=True)
    handlers = [
        handler(hookd.on("impatient", retries=1, where=where), gate.pass_through),
        handler(hookd.on("patient", retries=7, where=where), gate.pass_through),
    ]
    async with processing(database, *handlers, attempts_max=5):
        settled = await watch.settled()
    assert settled == {impatient: ("failed", f"gave up after 2 attempts: {DIED}"), patient: ("processed", None)}
    assert [each for each, _ in gate.ended] == [patient]
    assert (await row_of(connection, impatient))["attempts"] == 2


async def test_a_replayed_event_has_all_its_attempts_again(
    database: Database, connection: Connection, watch: Watch
) -> None:
    """Of an impatient handler too."""
    event_id = await an_event(connection, source="a", attempts=0, claims=7)
    failing = Failing()
    async with processing(database, handler(hookd.on("a", retries=[0.0]), failing)):
        assert await watch.settled() == {event_id: ("failed", "gave up after 2 attempts: RuntimeError: again")}
    assert failing.tried == [("a", 1), ("a", 2)]
