"""PostgreSQL dies, vanishes, is slow, full, read-only or far away; its table changes underneath."""

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import asyncpg

from faults.case import case
from faults.scene import APP, Scene
from rig.hookd import Hookd
from rig.interpose import Disk, wrong_clock
from rig.load import Load
from rig.postgres import connected
from rig.proxy import Proxy, proxying
from rig.server import on

BACK_SECONDS_MAX = 15  # the contract says 5, of a machine with nothing else to do
SETTLED_SECONDS_MAX = 40  # the processor waits 10 s for each answer, and a claim comes before a settle
AWAY = "a lease was lost: the database was away"
TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'hookd %'"
UNSETTLED = "SELECT count(*) FROM hookd.events WHERE status = 'new' AND id = ANY($1::uuid[])"
SEGMENTS = 20  # of PostgreSQL's log: more than it has made ahead
COPY_DONE = b"c\0\0\0\4"  # CopyDone of PostgreSQL's protocol: what follows is the commit's answer


@asynccontextmanager
async def at_work(
    scene: Scene, *, url: str = "", senders: int = 8, pause_seconds: float = 0.05, commit_timeout_seconds: float = 2.0
) -> AsyncIterator[tuple[Load, Hookd, Hookd]]:
    """A load, its receiver and a processor; in the end the processor leaves in peace, and all is settled."""
    async with (
        scene.ingest(url=url, commit_timeout_seconds=str(commit_timeout_seconds)) as receiver,
        scene.processor(url=url) as processor,
    ):
        load = await scene.load(receiver, senders=senders, pause_seconds=pause_seconds, timeout_seconds=20)
        async with load.running():
            await load.more(50)
            yield load, receiver, processor
        note_answers(scene, load)
        assert await processor.stop() == 0
    await scene.settle_all()


def note_answers(scene: Scene, load: Load) -> None:
    assert set(load.statuses) <= {200, 503}, load.statuses
    assert not load.cut, f"{load.cut} connections were cut"
    scene.note("answered with 503", load.statuses[503])
    scene.note("slowest 200", f"{max(load.seconds) * 1000:,.0f} ms")


async def until_back(scene: Scene, load: Load, after: str = "") -> None:
    """The database is there again: so must hookd be, receiver and processor, and all that was handled be settled."""
    began, before = time.monotonic(), scene.starts()
    await load.more(1, BACK_SECONDS_MAX)
    scene.note(f"received again{after} after", f"{time.monotonic() - began:.1f} s")
    await load.more(50)
    async with asyncio.timeout(SETTLED_SECONDS_MAX), connected(scene.url) as connection:
        while (started := scene.starts()) == before:
            await asyncio.sleep(0.05)
        while await connection.fetchval(UNSETTLED, list(started)):
            await asyncio.sleep(0.05)
    scene.note(f"all handled settled{after} after", f"{time.monotonic() - began:.1f} s")


def refuses(load: Load, count: int) -> None:
    assert load.statuses[503] >= count, f"only {load.statuses[503]} were answered with 503"


def slow_handlers(scene: Scene, seconds: float) -> None:
    """So that some always run."""
    scene.app.write_text(f"import asyncio\n{APP}    await asyncio.sleep({seconds})\n")


@case(
    "PostgreSQL is killed with -9 under load, three times, and recovers from its crash",
    caught=("answer-before-commit", "never-connect-again"),
    twice=AWAY,
    is_short=True,
)
async def postgres_killed(scene: Scene) -> None:
    async with scene.ingest() as receiver, scene.processor(lease_seconds="3"):
        load = await scene.load(receiver)
        async with load.running():
            for _ in range(3):
                await load.more(300)
                scene.server.kill()
                await asyncio.sleep(scene.random.uniform(0, 1))
                await scene.server.start()
            await load.more(300)
    await scene.settle_all()


@case(
    "PostgreSQL is stopped for 10 s and started again",
    caught=("forget-what-was-answered",),
    seconds_max=90,
)
async def postgres_stopped(scene: Scene) -> None:
    slow_handlers(scene, 0.3)
    async with at_work(scene) as (load, _, _):
        await scene.server.stop()
        await asyncio.sleep(10)
        await scene.server.start()
        refuses(load, 8)
        await until_back(scene, load)


@case(
    "PostgreSQL is restarted every second, six times",
    caught=("drop-failed-settles",),
    seconds_max=90,
)
async def postgres_restarted_every_second(scene: Scene) -> None:
    slow_handlers(scene, 0.3)
    async with at_work(scene) as (load, _, _):
        for _ in range(6):
            await asyncio.sleep(1)
            await scene.server.stop()
            await scene.server.start()
        await until_back(scene, load)


@case(
    "others hold all connections PostgreSQL allows, and hookd's are ended; 4 s later they are free again",
    caught=("forget-what-was-answered",),
    seconds_max=90,
)
async def refusing_connections(scene: Scene) -> None:
    allowed = 20
    await scene.server.stop()
    await scene.server.start(max_connections=str(allowed), superuser_reserved_connections="0")
    async with at_work(scene) as (load, _, _):
        async with AsyncExitStack() as others:
            first = await others.enter_async_context(connected(scene.url))
            held = 1
            while held < allowed:
                await first.fetchval(TERMINATE)
                with suppress(asyncpg.TooManyConnectionsError):  # hookd was quicker: it is ended again
                    await others.enter_async_context(connected(scene.url))
                    held += 1
            await asyncio.sleep(4)
        refuses(load, 8)
        await until_back(scene, load)


@case(
    "PostgreSQL becomes read-only, as a standby after a fail-over, and 4 s later writable again",
    caught=("forget-what-was-answered", "ready-whatever-happens"),
    seconds_max=90,
)
async def read_only(scene: Scene) -> None:
    async with at_work(scene) as (load, receiver, _):
        url = (await receiver.logged("ingest.listening"))["url"]
        assert await status_of(f"{url}/-/ready") == 200
        await let_write(scene, False)
        await asyncio.sleep(4)
        assert await status_of(f"{url}/-/ready") == 503, "it says it is ready, and cannot write"
        await let_write(scene, True)
        refuses(load, 8)
        await until_back(scene, load)
        async with asyncio.timeout(BACK_SECONDS_MAX):
            while await status_of(f"{url}/-/ready") != 200:
                await asyncio.sleep(0.1)


async def let_write(scene: Scene, may: bool) -> None:
    async with connected(scene.url, default_transaction_read_only="off") as connection:
        await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'off' if may else 'on'}")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute("SELECT pg_sleep(0.2)")
        await connection.fetchval(TERMINATE)


async def status_of(url: str) -> int:
    def get() -> int:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                status: int = answer.status
                return status
        except urllib.error.HTTPError as error:
            return error.code

    return await asyncio.to_thread(get)


@case(
    "PostgreSQL's disk is full, first for its tables, then for its log too (it ends itself), and has room again",
    caught=("forget-what-was-answered",),
    seconds_max=120,
)
async def disk_full(scene: Scene) -> None:
    disk = disk_of(scene)
    async with at_work(scene) as (load, _, _):
        disk.full()
        async with asyncio.timeout(30):
            while load.statuses[503] < 16:
                await asyncio.sleep(0.05)
        disk.full(False)
        await until_back(scene, load, " (with room for tables)")
        disk.full()
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            for _ in range(SEGMENTS):
                await on(scene.server, "SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal()")
        await asyncio.sleep(4)
        scene.note("PostgreSQL ended itself", not scene.server.runs)
        disk.full(False)
        await revive(scene)
        await until_back(scene, load, " (with room for its log)")


async def revive(scene: Scene) -> None:
    """PostgreSQL, whether it has ended, is about to, or recovers by itself."""
    try:
        await scene.server.until_ready()
    except RuntimeError:
        await scene.server.start()


def disk_of(scene: Scene) -> Disk:
    assert scene.server.disk is not None, "there is no C compiler"
    return scene.server.disk


async def on_a_slow_disk(scene: Scene, seconds: float, count: int) -> Load:
    """So many events received while each fsync takes so much longer, and some after it."""
    disk = disk_of(scene)
    async with at_work(scene) as (load, _, _):
        disk.slow(seconds)
        began, answered = time.monotonic(), len(load.answered)
        while len(load.answered) < answered + count and time.monotonic() < began + 15:
            await asyncio.sleep(0.05)
        scene.note("received slowly", f"{len(load.answered) - answered:,} in {time.monotonic() - began:.1f} s")
        disk.slow(0)
        await until_back(scene, load)
    return load


@case("each fsync takes 2 ms longer", caught=("tidy-bodies",))
async def slow_disk_2ms(scene: Scene) -> None:
    await on_a_slow_disk(scene, 0.002, 500)


@case("each fsync takes 50 ms longer", caught=("tidy-bodies",))
async def slow_disk_50ms(scene: Scene) -> None:
    await on_a_slow_disk(scene, 0.05, 300)


@case("each fsync takes 2 s longer: as long as a commit may", caught=("forget-what-was-answered",), seconds_max=120)
async def slow_disk_2s(scene: Scene) -> None:
    refuses(await on_a_slow_disk(scene, 2, 300), 8)


@case(
    "every backend of hookd's is terminated, every quarter of a second, twenty times",
    caught=("never-connect-again",),
    is_short=True,
)
async def backends_terminated(scene: Scene) -> None:
    slow_handlers(scene, 0.3)
    ended = 0
    async with at_work(scene) as (load, _, _), connected(scene.url) as connection:
        for _ in range(20):
            await asyncio.sleep(0.25)
            ended += await connection.fetchval(TERMINATE)
        await until_back(scene, load)
    scene.note("backends terminated", ended)


@asynccontextmanager
async def through_a_proxy(scene: Scene) -> AsyncIterator[tuple[Proxy, Load, Hookd]]:
    async with proxying(scene.server.socket) as proxy:
        async with at_work(scene, url=proxy.url(scene.url)) as (load, _, processor):
            yield proxy, load, processor
        scene.note("connections to PostgreSQL", proxy.connections)


@case(
    "each connection to PostgreSQL goes half-open: nothing comes any more, nothing is closed",
    caught=("no-time-outs",),
    seconds_max=90,
)
async def half_open(scene: Scene) -> None:
    async with through_a_proxy(scene) as (proxy, load, _):
        proxy.half_open()
        await until_back(scene, load)
        refuses(load, 1)


@case("each connection to PostgreSQL is reset, ten times", caught=("never-connect-again",))
async def resets(scene: Scene) -> None:
    async with through_a_proxy(scene) as (proxy, load, _):
        for _ in range(10):
            await asyncio.sleep(scene.random.uniform(0, 0.6))
            proxy.reset()
        await until_back(scene, load)


@case("PostgreSQL is 200 ms away, each way", caught=("answer-before-commit",))
async def delays(scene: Scene) -> None:
    async with through_a_proxy(scene) as (proxy, load, _):
        proxy.delay_seconds = 0.2
        await load.more(16)  # and with them whoever was answered while it was near
        far = len(load.seconds)
        await load.more(100)
        fastest = min(load.seconds[far:])
        proxy.delay_seconds = 0
        assert fastest > 0.4, f"answered after {fastest:.2f} s: no commit can have been heard of"
        await until_back(scene, load)


@case("PostgreSQL is 150 ms away, each way, and every connection is lost", caught=("open-in-a-senders-patience",))
async def reconnecting_from_afar(scene: Scene) -> None:
    async with through_a_proxy(scene) as (proxy, load, _):
        proxy.delay_seconds = 0.15
        proxy.reset()
        await load.more(20, 60)
        proxy.delay_seconds = 0
        await until_back(scene, load)


@case(
    "nothing that hookd says reaches PostgreSQL for 5 s, while it hears what PostgreSQL says",
    caught=("forget-what-was-answered",),
    seconds_max=90,
)
async def cut_towards_postgres(scene: Scene) -> None:
    async with through_a_proxy(scene) as (proxy, load, _):
        proxy.to_server.clear()
        await asyncio.sleep(5)
        proxy.heal()
        refuses(load, 8)
        await until_back(scene, load)


@case(
    "nothing that PostgreSQL says reaches hookd for 5 s, while it hears what hookd says",
    caught=("forget-what-was-answered",),
    seconds_max=90,
)
async def cut_towards_hookd(scene: Scene) -> None:
    async with through_a_proxy(scene) as (proxy, load, _):
        proxy.to_client.clear()
        await asyncio.sleep(5)
        proxy.heal()
        refuses(load, 8)
        await until_back(scene, load)


@case(
    "the answer to a COPY's commit is lost with its connection, ten times",
    caught=("new-ids-when-tried-again",),
    is_short=True,
)
async def commit_answer_lost(scene: Scene) -> None:
    async with proxying(scene.server.socket) as proxy:
        async with scene.ingest(url=proxy.url(scene.url)) as receiver, scene.processor() as processor:
            load = await scene.load(receiver, pause_seconds=0.02)
            async with load.running():
                for _ in range(10):
                    await load.more(20)
                    await swallow_a_commit(proxy)
                await load.more(50)
            note_answers(scene, load)
            assert await processor.stop() == 0
        scene.note("answers swallowed", proxy.swallowed)
    await scene.settle_all()


async def swallow_a_commit(proxy: Proxy) -> None:
    swallowed, proxy.swallow_answer_to = proxy.swallowed, COPY_DONE
    async with asyncio.timeout(10):
        while proxy.swallowed == swallowed:
            await asyncio.sleep(0.005)


@case(
    "PostgreSQL refuses some rows of the batches they travel in",
    caught=("refuse-whole-batches", "forget-what-was-answered"),
    is_short=True,
)
async def refused_row_in_copy(scene: Scene) -> None:
    await on(
        scene.server,
        "ALTER TABLE hookd.events ADD CONSTRAINT unwanted CHECK (target NOT LIKE '%unwanted') NOT VALID",
    )
    async with at_work(scene, senders=16, pause_seconds=0, commit_timeout_seconds=10) as (load, receiver, _):
        unwanted = Load(load.url, senders=2, source="marked/unwanted", pause_seconds=0.02, timeout_seconds=20)
        async with unwanted.running():
            await load.more(500)
    assert set(unwanted.statuses) == {503}, f"the refused: {unwanted.statuses}"
    assert set(load.statuses) == {200}, f"their neighbours: {load.statuses}"
    assert [line for line in receiver.lines if line["event"] == "batch.refused" and line["rows"] > 1]
    scene.note("rows refused", unwanted.statuses[503])


@case(
    "PostgreSQL refuses to record how some events ended, in the batches they are settled in",
    caught=("condemn-whole-batches",),
    is_short=True,
)
async def refused_row_in_settle(scene: Scene) -> None:
    await on(
        scene.server,
        "CREATE FUNCTION hookd.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE check_violation USING MESSAGE = 'refused'; END $$",
    )
    async with connected(scene.url) as connection:
        await connection.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON hookd.events FOR EACH ROW "
            "WHEN (NEW.status = 'processed' AND NEW.target LIKE '%unrecordable') EXECUTE FUNCTION hookd.refuse()"
        )
    async with scene.ingest() as receiver:
        load = await scene.load(receiver)
        unrecordable = Load(load.url, senders=1, source="marked/unrecordable", pause_seconds=0.02)
        async with load.running(), unrecordable.running():
            await load.more(300)
            await unrecordable.more(3)
    await scene.settle_all()
    async with connected(scene.url) as connection:
        endings = await connection.fetch(
            "SELECT target LIKE '%unrecordable' AS refused, status, count(*), min(reason) AS reason "
            "FROM hookd.events GROUP BY 1, 2 ORDER BY 1"
        )
    assert [(row["refused"], row["status"]) for row in endings] == [(False, "processed"), (True, "failed")], endings
    assert endings[1]["count"] >= len(unrecordable.answered)
    assert endings[1]["reason"].startswith("could not be recorded: "), endings[1]["reason"]
    scene.note("could not be recorded", endings[1]["count"])
    scene.note("their neighbours processed", endings[0]["count"])


@case(
    "the partitions of today and tomorrow vanish under load",
    caught=("never-make-a-day",),
)
async def no_partition_for_today_or_tomorrow(scene: Scene) -> None:
    """What was in today's is put back before the check: it was the operator who took it away."""
    today, tomorrow = [await day_name(scene, ahead) for ahead in (0, 1)]
    async with scene.ingest() as receiver:
        load = await scene.load(receiver, pause_seconds=0.02)
        async with load.running():
            await load.more(100)
            await patiently(
                scene,
                f"ALTER TABLE hookd.events DETACH PARTITION hookd.events_{today}",
                f"ALTER TABLE hookd.events_{today} RENAME TO set_aside",
                f"DROP TABLE hookd.attempts_{today}, hookd.events_{tomorrow}, hookd.attempts_{tomorrow}",
            )
            await until_received_again(scene, load)
        note_answers(scene, load)
        made = await receiver.logged("day.made")
    scene.note("made by the receiver", made["day"])
    async with connected(scene.url) as connection:
        await connection.execute("INSERT INTO hookd.events SELECT * FROM hookd.set_aside; DROP TABLE hookd.set_aside")
    await scene.settle_all()
    assert await has_day(scene, tomorrow), "the processor did not make tomorrow"


async def until_received_again(scene: Scene, load: Load) -> None:
    began = time.monotonic()
    await load.more(1, BACK_SECONDS_MAX)
    scene.note("received again after", f"{time.monotonic() - began:.1f} s")
    await load.more(100)


async def day_name(scene: Scene, days_ahead: int) -> str:
    day = await on(scene.server, "SELECT to_char((now() AT TIME ZONE 'UTC')::date + $1::int, 'YYYYMMDD')", days_ahead)
    return str(day)


async def has_day(scene: Scene, name: str) -> bool:
    return bool(await on(scene.server, "SELECT hookd.has_day('hookd.events', 'events_' || $1)", name))


async def patiently(scene: Scene, *statements: str) -> None:
    """In one transaction; as a careful operator, who rather tries again than makes everybody wait."""
    async with connected(scene.url, lock_timeout="100ms") as connection:
        while True:
            try:
                async with connection.transaction():
                    for sql in statements:
                        await connection.execute(sql)
                return
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                await asyncio.sleep(0.1)


@case(
    "midnight comes, to a partition that was analysed while it was empty: no statement may scan it",
    caught=("let-the-planner-choose",),
    seconds_max=90,
)
async def midnight_with_an_empty_analysed_partition(scene: Scene) -> None:
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    await scene.server.stop()
    scene.server.environment = wrong_clock(scene.folder, (midnight - now).total_seconds() - 12)
    await scene.server.start()
    part = f"events_{await day_name(scene, 1)}"
    async with connected(scene.url) as connection:
        await connection.execute(f"ANALYZE hookd.{part}")
    before = await scans_of(scene, part)
    async with scene.ingest() as receiver, scene.processor() as processor:
        load = await scene.load(receiver, pause_seconds=0.05)
        async with load.running():
            await load.more(100)
            async with asyncio.timeout(30), connected(scene.url) as connection:
                while await connection.fetchval("SELECT now() <= $1", midnight):
                    await asyncio.sleep(0.1)
            await load.more(500)
        note_answers(scene, load)
        assert await processor.stop() == 0
    after = await scans_of(scene, part)
    scene.note("sequential scans of the new day", after["seq_scan"] - before["seq_scan"])
    scene.note("index scans of it", f"{after['idx_scan'] - before['idx_scan']:,}")
    scene.note("rows in it", f"{after['n_tup_ins']:,}")
    assert after["n_tup_ins"] >= 100
    assert after["seq_scan"] == before["seq_scan"], "the new day was scanned"
    await scene.settle_all()


async def scans_of(scene: Scene, part: str) -> asyncpg.Record:
    await asyncio.sleep(1)  # backends that have just left still write their numbers
    async with connected(scene.url) as connection:
        (record,) = await connection.fetch(
            "SELECT seq_scan, coalesce(idx_scan, 0) AS idx_scan, n_tup_ins FROM pg_stat_user_tables "
            "WHERE schemaname = 'hookd' AND relname = $1",
            part,
        )
    return record


@case(
    "a reader holds its snapshot, and with it a lock on every day, while days are made and dropped",
    caught=("wait-for-locks",),
    seconds_max=90,
)
async def reader_holds_its_snapshot(scene: Scene) -> None:
    old, ahead = await day_name(scene, -40), await day_name(scene, 13)
    await add_old_day(scene, 40)
    await patiently(scene, f"DROP TABLE hookd.events_{ahead}, hookd.attempts_{ahead}")
    async with connected(scene.url) as reader:
        reading = reader.transaction(isolation="repeatable_read")
        await reading.start()
        await reader.fetchval("SELECT count(*) FROM hookd.events")
        async with at_work(scene, commit_timeout_seconds=5) as (load, _, processor):
            assert not load.statuses[503], "requests waited behind the reader"
            await processor.logged("maintenance.blocked")
            assert await has_day(scene, old), "a day was dropped under its reader"
            assert await has_day(scene, ahead), "no day was made"
            await reading.rollback()
            await load.more(100)
        assert not load.statuses[503], "requests waited behind the reader"
    await until_dropped(scene, old)


async def until_dropped(scene: Scene, *days: str) -> None:
    """By the maintenance that a processor begins with."""
    async with scene.processor():
        async with asyncio.timeout(30):
            while any([await has_day(scene, day) for day in days]):
                await asyncio.sleep(0.1)


async def add_old_day(scene: Scene, days_ago: int, *, status: str = "processed") -> None:
    """With one event, which is settled or (parked) new."""
    async with connected(scene.url, timezone="UTC") as connection:
        await connection.execute("SELECT hookd.add_day(current_date - $1::int)", days_ago)
        await connection.execute(
            "INSERT INTO hookd.events (id, status, source, received_at, finished_at, due_at, reason,"
            " method, target, headers, payload) "
            "SELECT hookd.uuid_at(at), $2, 'old', at, CASE WHEN $2 <> 'new' THEN at END, 'infinity', 'made so',"
            " 'POST', '/old', '[]', '' FROM (SELECT current_date - $1::int + interval '12 hours') AS days(at)",
            days_ago,
            status,
        )


@case(
    "five days that are over are dropped under full load, and one is kept that holds an event still new",
    caught=("drop-days-with-new-events",),
    seconds_max=120,
)
async def retention_under_full_load(scene: Scene) -> None:
    for days_ago in range(41, 46):
        await add_old_day(scene, days_ago)
    await add_old_day(scene, 40, status="new")
    over = [await day_name(scene, -days_ago) for days_ago in range(41, 46)]
    async with scene.ingest(commit_timeout_seconds="5") as receiver, scene.processor() as processor:
        load = await scene.load(receiver, senders=16, timeout_seconds=20)
        async with load.running():
            began = time.monotonic()
            async with asyncio.timeout(60):
                while any([await has_day(scene, day) for day in over]):
                    await asyncio.sleep(0.1)
            scene.note("five days dropped after", f"{time.monotonic() - began:.1f} s")
            await load.more(200)
        note_answers(scene, load)
        assert not load.statuses[503], "requests waited for the days to be dropped"
        await on(scene.server, "UPDATE hookd.events SET due_at = now() WHERE status = 'new' AND source = 'old'")
        await scene.until_settled()
        assert await processor.stop() == 0
    assert await on(scene.server, "SELECT status FROM hookd.events WHERE source = 'old'") == "processed"


@case(
    "hookd migrate is run five times, and a column added to the table as a later revision might, under load",
    caught=("migrate-under-a-lock",),
    seconds_max=120,
)
async def migration_under_load(scene: Scene) -> None:
    async with at_work(scene, senders=16, commit_timeout_seconds=5) as (load, _, _):
        for number in range(5):
            async with scene.hookd("migrate") as migrating:
                assert await migrating.ended() == 0
            await patiently(scene, f"ALTER TABLE hookd.events ADD COLUMN later_{number} text")
            await load.more(50)
            assert not load.statuses[503], "requests waited for a migration"


@case(
    "the receiver's clock is an hour fast and the processor's an hour slow",
    caught=("trust-the-own-clock", "no-lease"),
)
async def clocks_an_hour_apart(scene: Scene) -> None:
    slow_handlers(scene, 0.5)
    began = await on(scene.server, "SELECT now()")
    fast, slow = wrong_clock(scene.folder, 3600), wrong_clock(scene.folder, -3600)
    async with scene.ingest(environment=fast) as receiver, scene.processor(environment=slow) as processor:
        load = await scene.load(receiver, pause_seconds=0.05)
        async with load.running():
            await load.more(500)
        note_answers(scene, load)
        assert await processor.stop() == 0
    await scene.settle_all()
    wrong = await on(
        scene.server,
        "SELECT count(*) FROM hookd.events WHERE received_at NOT BETWEEN $1 AND now()"
        " OR left(id::text, 13) <> left(hookd.uuid_at(received_at)::text, 13)",
        began,
    )
    assert not wrong, f"{wrong} events were received at a time that never was"


CASES = (
    postgres_killed,
    postgres_stopped,
    postgres_restarted_every_second,
    refusing_connections,
    read_only,
    disk_full,
    slow_disk_2ms,
    slow_disk_50ms,
    slow_disk_2s,
    backends_terminated,
    half_open,
    resets,
    delays,
    reconnecting_from_afar,
    cut_towards_postgres,
    cut_towards_hookd,
    commit_answer_lost,
    refused_row_in_copy,
    refused_row_in_settle,
    no_partition_for_today_or_tomorrow,
    midnight_with_an_empty_analysed_partition,
    reader_holds_its_snapshot,
    retention_under_full_load,
    migration_under_load,
    clocks_an_hour_apart,
)
