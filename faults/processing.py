"""Processors die, are told to leave, freeze, hang, leak, and work beside each other."""

import asyncio
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from uuid_utils import uuid7

from faults.case import case
from faults.scene import Scene
from rig import sample, seed
from rig.hookd import Hookd
from rig.postgres import connected
from rig.server import on

# What every app of these cases begins with. A line in `handled` is a start, one in `ended` the end of a run.
PREAMBLE = """\
import asyncio, ctypes, os, signal, time, zlib
import hookd

HERE = os.path.dirname(os.path.abspath(__file__))


def noted(event, name="handled"):
    with open(os.path.join(HERE, name), "ab", buffering=0) as file:
        file.write(f"{event.id} {event.attempt} {time.monotonic()}\\n".encode())


def chance(event):
    return zlib.crc32(f"{event.id} {event.attempt}".encode()) / 2**32

"""
SHOP = "shop"
KILLED = "a process was killed"
PATIENCE_SECONDS = 60.0
LINES_SECONDS_MAX = ENDED_SECONDS_MAX = 30.0
ROWS = "SELECT id::text, source, status, reason, attempts, claims, held_by FROM hookd.events"
UNSETTLED = "SELECT EXISTS (SELECT FROM hookd.events WHERE status = 'new')"
HELD = "SELECT count(*) FROM hookd.events WHERE status = 'new' AND held_by IS NOT NULL"
LEASE_LEFT = "SELECT extract(epoch FROM min(due_at) - now())::float8 FROM hookd.events WHERE held_by IS NOT NULL"
HURRY = "UPDATE hookd.events SET due_at = now() WHERE status = 'new' AND held_by IS NULL AND due_at > now()"
MISCOUNTED = """
SELECT count(*)
  FROM (SELECT (received_at AT TIME ZONE 'UTC')::date AS day, source, status, count(*) AS events
          FROM hookd.events WHERE status <> 'new' GROUP BY 1, 2, 3) AS r
  FULL JOIN (SELECT * FROM hookd.counts WHERE events <> 0) AS c USING (day, source, status)
 WHERE r.events IS DISTINCT FROM c.events
"""


def app_of(scene: Scene, code: str) -> str:
    """The path of an app with that code after the preamble."""
    path = scene.folder / "handlers.py"
    path.write_text(PREAMBLE + code)
    return str(path)


async def stored(scene: Scene, count: int, *sources: str) -> list[str]:
    """The ids of so many new rows, due in this order; of several sources, by turns."""
    now, sources = datetime.now(UTC), sources or (SHOP,)
    records = []
    for number in range(count):
        at, source = now + timedelta(microseconds=number), sources[number % len(sources)]
        records.append((uuid7(), source, at, at, "POST", f"/{source}", sample.HEADERS, None, sample.BODY))
    async with connected(scene.url) as connection:
        await connection.copy_records_to_table("events", schema_name="hookd", columns=seed.COLUMNS, records=records)
    return [str(record[0]) for record in records]


def lines(scene: Scene, name: str = "handled") -> list[tuple[str, int, float]]:
    """(id, attempt, monotonic time) of each line that handlers wrote into that file."""
    path = scene.folder / name
    words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(each[0], int(each[1]), float(each[2])) for each in words]


async def until_lines(scene: Scene, count: int, name: str = "handled") -> None:
    async with asyncio.timeout(LINES_SECONDS_MAX):
        while len(lines(scene, name)) < count:
            await asyncio.sleep(0.02)


async def until_settled(scene: Scene, *processors: Hookd, seconds_max: float = PATIENCE_SECONDS) -> None:
    """Return once no row is new. Fails as soon as one of those that should be at work has ended."""
    async with connected(scene.url) as connection, asyncio.timeout(seconds_max):
        while await connection.fetchval(UNSETTLED):
            for each in processors:
                assert each.process.returncode is None, f"the processor ended with {each.process.returncode}"
            await asyncio.sleep(0.1)


async def require_ended(processor: Hookd, exit_code: int) -> None:
    """It ends by itself, and so."""
    async with asyncio.timeout(ENDED_SECONDS_MAX):
        ended = await processor.process.wait()
    assert ended == exit_code, f"the processor ended with {ended} instead of {exit_code}"


async def rows(scene: Scene) -> dict[str, Any]:
    async with connected(scene.url) as connection:
        return {row["id"]: row for row in await connection.fetch(ROWS)}


async def require_counted(scene: Scene) -> None:
    """The counters say what the table says."""
    assert await on(scene.server, MISCOUNTED) == 0, "hookd.counts differ from the rows"


async def require_handed_back(scene: Scene) -> None:
    """What was not run to its end waits for anybody; no attempt of it counts, but of what was over its time."""
    left = [row for row in (await rows(scene)).values() if row["status"] == "new"]
    assert not any(row["held_by"] for row in left), "a row is still held by a processor that has left"
    unfinished = [row for row in left if not (row["reason"] or "").startswith("timed out")]
    assert not any(row["attempts"] for row in unfinished), "an attempt was counted that was handed back"


@asynccontextmanager
async def hurried(scene: Scene) -> AsyncIterator[None]:
    """No back-off lasts; leases are left alone."""

    async def hurry() -> None:
        async with connected(scene.url) as connection:
            while True:
                await connection.execute(HURRY)
                await asyncio.sleep(0.2)

    hurrying = asyncio.create_task(hurry())
    try:
        yield
    finally:
        hurrying.cancel()
        await asyncio.wait([hurrying])


def total(processor: Hookd, kind: str = "processed") -> int:
    """How many events the processor says it has settled so."""
    return sum(line.get(kind, 0) for line in processor.lines if line["event"] == "processor.summary")


def logged_rows(processors: Sequence[Hookd], event: str) -> int:
    return sum(line["rows"] for each in processors for line in each.lines if line["event"] == event)


TAKES_A_WHILE = """\
@hookd.on("*")
async def work(event):
    noted(event)
    await asyncio.sleep(0.2)
    noted(event, "ended")
"""


@case(
    "A processor is killed with -9 in mid-handler, three times",
    caught=("no-attempts", "leave-the-dead", "process-without-handling"),
    twice=KILLED,
    is_short=True,
)
async def processor_killed(scene: Scene) -> None:
    app, cut = app_of(scene, TAKES_A_WHILE), 0
    await stored(scene, 120)
    for _ in range(3):
        async with scene.processor("--app", app, "--concurrency", "8", lease_seconds="1") as processor:
            await until_lines(scene, len(lines(scene)) + scene.random.randint(9, 20))
            processor.kill()
            await processor.ended()
        cut = len(lines(scene)) - len(lines(scene, "ended"))
    async with scene.processor("--app", app, "--concurrency", "8", lease_seconds="1") as processor:
        await until_settled(scene, processor, seconds_max=30)
        assert await processor.stop() == 0
    await require_attempts(scene)
    scene.note("cut off in mid-handler", cut)


async def require_attempts(scene: Scene) -> None:
    """Where nothing was handed back, each claim is an attempt, and no run is without one."""
    starts = scene.starts()
    for each, row in (await rows(scene)).items():
        assert row["attempts"] == row["claims"], f"{row['claims']} claims and {row['attempts']} attempts"
        assert starts[each] <= row["attempts"], f"{starts[each]} runs in {row['attempts']} attempts"


AS_LONG_AS_TOLD = """\
SECONDS = float(os.environ["SECONDS"])


@hookd.on("*")
async def work(event):
    noted(event)
    await asyncio.sleep(SECONDS)
    noted(event, "ended")


@hookd.on("thread")
def work_in_a_thread(event):
    noted(event)
    time.sleep(SECONDS)
    noted(event, "ended")
"""


@case(
    "A processor gets SIGTERM: idle, while handlers run that end within the grace, that do not, and twice",
    caught=("forget-to-hand-back", "count-what-is-handed-back"),
    twice="a run was cut off by a shutdown",
)
async def processor_terminated(scene: Scene) -> None:
    app = app_of(scene, AS_LONG_AS_TOLD)

    def processor(seconds: float, grace_seconds: float) -> Any:
        options, environment = ("--app", app, "--concurrency", "8"), {"SECONDS": str(seconds)}
        return scene.processor(*options, environment=environment, grace_seconds=str(grace_seconds))

    async with processor(0, 20) as idle:
        assert await idle.stop() == 0, "idle"
    await stored(scene, 24, SHOP, "thread")
    async with processor(2, 20) as patient:
        await until_lines(scene, 8)
        assert await patient.stop() == 0, "within the grace"
    assert len(lines(scene)) == len(lines(scene, "ended")) == total(patient), "a handler was cut off within the grace"
    await require_handed_back(scene)
    async with processor(600, 0.5) as hasty:
        await until_lines(scene, len(lines(scene)) + 8)
        assert await hasty.stop() == 0, "beyond the grace"
    await require_handed_back(scene)
    async with processor(600, 600) as told_twice:
        await until_lines(scene, len(lines(scene)) + 8)
        told_twice.process.terminate()
        await told_twice.logged("processor.stopping")
        assert await told_twice.stop() == 0, "told twice"
    await require_handed_back(scene)
    async with processor(0, 20) as last:
        await until_settled(scene, last)
        assert await last.stop() == 0
    await require_counted(scene)
    scene.note("handed back", sum(total(each, "handed_back") for each in (patient, hasty, told_twice)))


KILLS = """\
@hookd.on("*")
async def work(event):
    noted(event)


@hookd.on("killer")
async def kill(event):
    noted(event)
    await asyncio.sleep(1)  # its neighbours are settled meanwhile
    os.kill(os.getpid(), signal.SIGKILL) if event.attempt % 2 else os._exit(7)
"""


@case(
    "A payload kills its processor each time, by a signal and by an exit, until its five attempts are used up",
    caught=("no-suspects", "no-attempts"),
    twice=KILLED,
    seconds_max=90,
)
async def payload_that_kills(scene: Scene) -> None:
    app = app_of(scene, KILLS)
    (killer,) = await stored(scene, 1, "killer")
    await stored(scene, 10)
    for exit_code in (-9, 7):
        async with scene.processor("--app", app, lease_seconds="2", attempts_max="5") as processor:
            await require_ended(processor, exit_code)
    async with scene.processor("--app", app, lease_seconds="2", attempts_max="5") as processor, hurried(scene):
        await until_settled(scene, processor)
        assert await processor.stop() == 0
    row, starts = (await rows(scene))[killer], scene.starts()
    assert row["reason"] == "gave up after 5 attempts: the processor died while handling it", row["reason"]
    assert (row["status"], row["attempts"], starts.pop(killer)) == ("failed", 5, 5), "not after five attempts"
    assert set(starts.values()) == {1}, "a neighbour was handled twice"
    scene.note("tried alone", sum(line["event"] == "suspect.tried_alone" for line in processor.lines))


KILLS_AMONG_MANY = """\
@hookd.on("*")
async def work(event):
    noted(event)
    await asyncio.sleep(1 + chance(event))


@hookd.on("killer")
async def kill(event):
    noted(event)
    await asyncio.sleep(1.9)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@case(
    "500 rows are claimed together with one that kills, while a tenth of the others are still run",
    caught=("no-suspects",),
    twice=KILLED,
    seconds_max=120,
)
async def one_killer_among_500(scene: Scene) -> None:
    app, place = app_of(scene, KILLS_AMONG_MANY), scene.random.randrange(500)
    await stored(scene, place)
    (killer,) = await stored(scene, 1, "killer")
    await stored(scene, 499 - place)
    options = ("--app", app, "--concurrency", "500")
    async with scene.processor(*options, lease_seconds="3", attempts_max="4") as processor:
        await until_lines(scene, 500)
        scene.note("held together", await on(scene.server, HELD))
        await require_ended(processor, -9)
    async with scene.processor(*options, lease_seconds="3", attempts_max="4") as processor:
        await require_ended(processor, -9)
    async with scene.processor(*options, lease_seconds="3", attempts_max="4") as processor, hurried(scene):
        await until_settled(scene, processor)
        assert await processor.stop() == 0
    found = await rows(scene)
    assert Counter(row["status"] for row in found.values()) == {"processed": 499, "failed": 1}, "a neighbour failed"
    reason = found[killer]["reason"]
    assert reason == "gave up after 4 attempts: the processor died while handling it", reason
    scene.note("tried alone", sum(line["event"] == "suspect.tried_alone" for line in processor.lines))


HANGS = """\
@hookd.on("*")
async def work(event):
    noted(event)


@hookd.on("hangs")
async def hang(event):
    noted(event)
    await asyncio.sleep(3600)


@hookd.on("thread")
def hang_in_a_thread(event):
    noted(event)
    time.sleep(5)
    noted(event, "ended")
"""


@case(
    "Handlers hang: coroutines for an hour, threads for longer than their time-out and their lease together",
    caught=("ignore-timeouts", "no-renewal"),
    twice="a run was cut off by its time-out",
)
async def handler_hangs(scene: Scene) -> None:
    app = app_of(scene, HANGS)
    await stored(scene, 9, "hangs", "thread", SHOP)
    limits: Any = {"handler_timeout_seconds": "1", "lease_seconds": "2", "attempts_max": "2"}
    async with scene.processor("--app", app, **limits) as processor, hurried(scene):
        await until_settled(scene, processor, seconds_max=30)
        assert await processor.stop() == 0
    for row in (await rows(scene)).values():
        reason = "" if row["source"] == SHOP else row["reason"]
        assert re.fullmatch(r"|gave up after 2 attempts: timed out after [\d.]+ s", reason), reason
        assert row["attempts"] == (1 if row["source"] == SHOP else 2), f"{row['attempts']} attempts"
    ended = {(each, attempt): at for each, attempt, at in lines(scene, "ended")}
    begun = {(each, attempt): at for each, attempt, at in lines(scene) if attempt == 2 and (each, 1) in ended}
    assert len(begun) == 3, "a thread was not tried again"
    assert all(at >= ended[each, 1] for (each, _), at in begun.items()), "a thread ran beside its own retry"
    scene.note("shortest time from a thread's end to its retry", f"{min(_gaps(begun, ended)):.2f} s")


def _gaps(begun: dict[tuple[str, int], float], ended: dict[tuple[str, int], float]) -> list[float]:
    return [at - ended[each, 1] for (each, _), at in begun.items()]


LEAKS = """\
@hookd.on("*")
async def work(event):
    noted(event)


@hookd.on("leak")
def leak(event):
    noted(event)
    while not os.path.exists(os.path.join(HERE, "healed")):
        time.sleep(0.2)
"""


@case(
    "Eight handlers never end, each in a thread that nothing can cancel; four are more than may be stuck",
    caught=("ignore-timeouts", "never-stuck"),
    twice="a run was cut off by a shutdown",
    seconds_max=90,
)
async def threads_leak(scene: Scene) -> None:
    app = app_of(scene, LEAKS)
    await stored(scene, 8, "leak")
    await stored(scene, 200)
    limits: Any = {"handler_timeout_seconds": "1", "stuck_threads_max": "4"}
    for _ in range(2):
        async with scene.processor("--app", app, "--concurrency", "8", **limits) as leaking:
            await require_ended(leaking, 1)
            await leaking.logged("processor.stuck")
        await require_handed_back(scene)
    async with scene.processor("--app", app, "--concurrency", "16", stuck_threads_max="16") as patient:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while total_of(await rows(scene), SHOP, "processed") < 200:
                await asyncio.sleep(0.1)
        (scene.folder / "healed").touch()
        await until_settled(scene, patient)
        assert await patient.stop() == 0
    scene.note("ended with 1 and were started again", 2)


def total_of(found: dict[str, Any], source: str, status: str) -> int:
    return sum(row["source"] == source and row["status"] == status for row in found.values())


HOLDS_THE_GIL = """\
@hookd.on("*")
async def work(event):
    noted(event)
    await asyncio.sleep(1)


@hookd.on("gil")
def hold(event):
    noted(event)
    if event.attempt == 1:
        ctypes.PyDLL(None).sleep(10)  # unlike CDLL it keeps the GIL
"""


@case(
    "A handler holds the GIL for 10 s: with a lease of 60 s, with one of 3 s, and with one of 3 s beside a processor",
    caught=("no-lease", "no-fence"),
    twice="a lease was lost: the GIL was held for longer than it",
    seconds_max=120,
)
async def gil_held_10_s(scene: Scene) -> None:
    app = app_of(scene, HOLDS_THE_GIL)

    def processor(lease_seconds: str) -> Any:
        return scene.processor("--app", app, poll_seconds="0.2", lease_seconds=lease_seconds)

    async with processor("60") as unhurried:
        await hold_the_gil(scene, "60 s", unhurried)
    assert set(scene.starts().values()) == {1}, "handled twice in spite of a lease of 60 s"
    assert not logged_rows([unhurried], "lease.lost"), "a lease of 60 s was lost"
    async with processor("3") as alone:
        await hold_the_gil(scene, "3 s", alone)
    async with processor("3") as one, processor("3") as other:
        await hold_the_gil(scene, "3 s beside another", one, other)
    assert max(scene.starts().values()) <= 2, "handled more than twice"
    await require_counted(scene)


async def hold_the_gil(scene: Scene, name: str, *processors: Hookd) -> None:
    """41 events for these processors, one of which holds its GIL as soon as the others are under way."""
    ids = [*await stored(scene, 40), *await stored(scene, 1, "gil")]
    async with lease_watched(scene, f"lease of {name}: least left"):
        await until_settled(scene, *processors)
    for each in processors:
        assert await each.stop() == 0, "it should stop once the GIL is free"
    starts = scene.starts()
    assert sum(map(total, processors)) == 41, "a late settle was counted"
    scene.note(f"lease of {name}: handled twice", sum(starts[each] > 1 for each in ids))


@asynccontextmanager
async def lease_watched(scene: Scene, name: str) -> AsyncIterator[None]:
    """Note how many seconds the lease nearest to its end had left; below nothing: how late it was renewed or taken."""
    least = float("inf")

    async def watch() -> None:
        nonlocal least
        async with connected(scene.url) as connection:
            while True:
                left = await connection.fetchval(LEASE_LEFT)
                least = least if left is None else min(least, left)
                await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        scene.note(name, f"{least:.1f} s")


@case(
    "Two processors share 100,000 events",
    caught=("no-lease", "no-skip-locked"),
    seconds_max=180,
)
async def two_processors(scene: Scene) -> None:
    await seed.backlog(scene.url, 100_000)
    async with scene.processor() as one, scene.processor() as other:
        began = time.monotonic()
        await until_settled(scene, one, other, seconds_max=150)
        seconds = time.monotonic() - began
        assert (await one.stop(), await other.stop()) == (0, 0)
    shares = total(one), total(other)
    assert sum(shares) == 100_000, f"settled by their own account: {shares}"
    assert min(shares) > 0, "one of them did nothing"
    assert {row["claims"] for row in (await rows(scene)).values()} == {1}, "claimed twice"
    await require_counted(scene)
    scene.note("rate", f"{100_000 / seconds:,.0f} events/s")
    scene.note("shares", " and ".join(f"{share:,}" for share in shares))


HALF_DONE = """\
@hookd.on("*")
async def work(event):
    noted(event)
    if event.attempt == 1:
        await asyncio.sleep(3)
        if chance(event) < 0.5:
            raise RuntimeError("too late to fail")
"""


@case(
    "A processor is frozen with its handlers half done; another takes over when the leases end; then it thaws",
    caught=("no-fence",),
    twice="a lease was lost: its holder was frozen for longer",
)
async def zombie(scene: Scene) -> None:
    app = app_of(scene, HALF_DONE)
    await stored(scene, 20)
    async with (
        scene.processor("--app", app, lease_seconds="2") as frozen,
        scene.processor("--app", app, lease_seconds="2", poll_seconds="3600") as heir,
    ):
        await until_lines(scene, 20)
        frozen.process.send_signal(signal.SIGSTOP)
        await until_settled(scene, heir)
        before = await rows(scene)
        frozen.process.send_signal(signal.SIGCONT)
        assert (await frozen.stop(), await heir.stop()) == (0, 0)
    assert await rows(scene) == before, "a late settle changed a row"
    await require_counted(scene)
    assert (total(frozen), total(heir)) == (0, 20), "a late settle was counted"


# An app that settles by itself while it is imported: so it runs in a hookd that may be sabotaged.
DRIVES_THE_STORE = """\
import subprocess, sys
from chassis.database import Database
from processor.outcome import PROCESSED, Outcome
from processor.store import Renewer, Settlement, Store

OUTCOMES = (PROCESSED, Outcome("failed", "rejected"), Outcome("new", "again", 3600))
MIB = 1024 * 1024


def settlements(held):
    return [Settlement(each, OUTCOMES[n % 3], n % 3 > 0, "shop") for n, each in enumerate(held)]


async def drive():
    database = Database(os.environ["HOOKD_DATABASE_URL"])
    store, renewer = Store(database, "driver", lease_seconds=60), Renewer(database, lease_seconds=60)

    async def claim(count):
        held = await store.claim(count, 64 * MIB, None, time.monotonic)
        with open(os.path.join(HERE, "handled"), "a") as file:
            file.writelines(f"{each.id} {each.row['attempts']} 0\\n" for each in held)
        return held

    async def settles(held, count, when):
        settled = len(await store.settle(settlements(held), lane=count % 2))
        assert settled == count, f"{when}: {settled} rows settled instead of {count}"

    held = await claim(10)
    await settles(held, 10, "the first time")
    await settles(held, 0, "sent twice")

    held = await claim(10)
    assert len(await renewer.renew(held)) == 10, "not renewed"
    await settles(held, 10, "after a renewal")
    await settles(held, 0, "sent twice after a renewal")
    assert not await renewer.renew(held), "renewed after the settle"

    held = await claim(10)
    await settles(held, 10, "the first time")
    command = [sys.executable, "-P", "-m", "hookd", "replay", *(str(each.id) for each in held)]
    subprocess.run(command, check=True, capture_output=True)
    await settles(held, 0, "after a replay")
    again = await claim(10)
    assert len(again) == 7, f"{len(again)} were replayed"
    await settles(held, 0, "after a replay and a claim")
    await settles(again, 7, "by its new holder")
    await settles(held, 0, "after its new holder")
    await renewer.close()
    await store.close()


@hookd.on("*")
async def work(event):
    noted(event)


asyncio.run(drive())
"""


@case(
    "A settle is sent twice, after a renewal, after a replay, and after its row was claimed anew",
    caught=("no-fence",),
    twice="it was replayed, or another attempt was asked for",
)
async def settle_sent_twice(scene: Scene) -> None:
    app = app_of(scene, DRIVES_THE_STORE)
    await stored(scene, 30)
    async with scene.hookd("processor", "--app", app, "--once") as driver:
        code = await driver.ended()
        assert code == 0, [line.get("text") for line in driver.lines][-1:]
    await require_counted(scene)
    await scene.settle_all()
    await require_counted(scene)


TAKES_LONGER = TAKES_A_WHILE.replace("0.2", "0.4")


@case(
    "A processor is killed with -9 half a second after each of ten starts, with 2,000 events to do",
    caught=("no-attempts",),
    twice=KILLED,
    seconds_max=150,
)
async def crash_loops(scene: Scene) -> None:
    app = app_of(scene, TAKES_LONGER)
    await stored(scene, 2_000)
    for _ in range(10):
        async with scene.processor("--app", app, lease_seconds="2") as processor:
            await asyncio.sleep(0.5)
            processor.kill()
            await processor.ended()
    async with scene.processor("--app", app, lease_seconds="2") as processor:
        await until_settled(scene, processor, seconds_max=90)
        assert await processor.stop() == 0
    await require_attempts(scene)
    found = await rows(scene)
    assert total_of(found, SHOP, "processed") == 2_000, "an event was given up that killed nobody"
    scene.note("most attempts", max(row["attempts"] for row in found.values()))
    scene.note("tried alone in the end", sum(line["event"] == "suspect.tried_alone" for line in processor.lines))


TAKES_TWO_SECONDS = TAKES_A_WHILE.replace("0.2", "2")


@case(
    "PostgreSQL is frozen, then stopped, for longer than the lease while handlers run; then for less",
    caught=("drop-failed-settles",),
    twice="a lease was lost: the database was away",
    seconds_max=150,
)
async def database_away_while_handlers_run(scene: Scene) -> None:
    app = app_of(scene, TAKES_TWO_SECONDS)
    async with scene.processor("--app", app, lease_seconds="2", poll_seconds="0.5") as processor:
        await stored(scene, 60)
        await until_lines(scene, 60)
        scene.server.freeze()
        try:
            await asyncio.sleep(5)
        finally:
            scene.server.thaw()
        await until_settled(scene, processor)
        begun = len(lines(scene))
        await stored(scene, 60)
        await until_lines(scene, begun + 60)
        await stop_for(scene, 5)
        await until_settled(scene, processor)
        assert await processor.stop() == 0
    await require_counted(scene)
    scene.note("leases lost", logged_rows([processor], "lease.lost"))
    begun, ended = len(lines(scene)), len(lines(scene, "ended"))
    async with scene.processor("--app", app, lease_seconds="60", poll_seconds="0.5") as processor:
        patient = await stored(scene, 60)
        await until_lines(scene, begun + 60)
        await scene.server.stop()
        await until_lines(scene, ended + 60, "ended")
        await scene.server.start()
        await until_settled(scene, processor, seconds_max=20)
        assert await processor.stop() == 0
    starts = scene.starts()
    assert {starts[each] for each in patient} == {1}, "handled twice within its lease"
    await require_counted(scene)


async def stop_for(scene: Scene, seconds: float) -> None:
    await scene.server.stop()
    await asyncio.sleep(seconds)
    await scene.server.start()


TAKES_A_MOMENT = TAKES_A_WHILE.replace("0.2", "0.1")
CRON_RUNS = 5


@case(
    "Two crons start `hookd processor --once` each second beside a daemon that is too slow for the load",
    caught=("no-lease", "no-skip-locked"),
    seconds_max=120,
)
async def once_beside_daemon(scene: Scene) -> None:
    app = app_of(scene, TAKES_A_MOMENT)
    async with scene.ingest() as receiver, scene.processor("--app", app, "--concurrency", "4") as daemon:
        load = await scene.load(receiver, senders=4, pause_seconds=0.02)
        async with load.running(), asyncio.TaskGroup() as table:
            crons = [table.create_task(cron(scene, app)) for _ in range(2)]
        await until_settled(scene, daemon)
        assert await daemon.stop() == 0
    summaries = [words for each in crons for words in each.result()]
    by_cron = sum(int(found[1]) for words in summaries if (found := re.search(r"processed=(\d+)", words)))
    settled = by_cron + total(daemon)
    assert settled == len(load.answered), f"{settled} settled by their own account, of {len(load.answered)}"
    await require_counted(scene)
    scene.note("by the daemon", total(daemon))
    scene.note("by cron", by_cron)
    scene.note("skipped", sum("skipped" in words for words in summaries))


async def cron(scene: Scene, app: str) -> list[str]:
    """What each run printed."""
    summaries = []
    for _ in range(CRON_RUNS):
        async with asyncio.TaskGroup() as second:
            second.create_task(asyncio.sleep(1))
            summaries.append(await second.create_task(once(scene, app)))
    return summaries


async def once(scene: Scene, app: str) -> str:
    async with scene.hookd("processor", "--app", app, "--once") as process:
        await require_ended(process, 0)
        assert process.process.stdout is not None
        return (await process.process.stdout.read()).decode()


CASES = (
    processor_killed,
    processor_terminated,
    payload_that_kills,
    one_killer_among_500,
    handler_hangs,
    threads_leak,
    gil_held_10_s,
    two_processors,
    zombie,
    settle_sent_twice,
    crash_loops,
    database_away_while_handlers_run,
    once_beside_daemon,
)
