"""What a handler's own transaction costs: its event, and each claim beside the snapshot that it holds."""

import statistics
import time
from datetime import UTC, datetime

from benchmarks.bench import Bench
from benchmarks.drain import MICROSECONDS, Run, drained_by_hookd, unsettled, warm
from benchmarks.growth import from_now_on, snapshot, timed
from benchmarks.report import Figure, Section
from chassis.database import Connection, Database
from processor.claiming.watermark import ALL_SECONDS, Since
from processor.holding.claimed import Claimed
from processor.outcome import PROCESSED
from processor.settling.store import Settlement
from processor.store import Store
from rig import machine, seed
from rig.postgres import connected

CONNECTIONS = 8
SHARE = 5  # of what a drain is measured with: a commit for each event takes longer than one for a thousand
STEPS = 4
FRESH_ROWS = 10
LOOKS = 20
CLAIM_ROWS, BYTES = 1000, 64 * 1024 * 1024
LEDGER = "CREATE TABLE public.ledger (event_id uuid PRIMARY KEY)"
WRITTEN = "SELECT count(*)::int FROM public.ledger"
NOTHING, ITS_OWN, CONNECTED = "nothing written", "a row written apart", "a row written with its event"
HANDLERS = {
    NOTHING: """\
import hookd


@hookd.on("*")
async def handle(event: hookd.Event) -> None:
    pass
""",
    ITS_OWN: f"""\
import os

import asyncpg
import hookd

pool = None


@hookd.on("*")
async def handle(event: hookd.Event) -> None:
    global pool
    if pool is None:
        pool = asyncpg.create_pool(os.environ["HOOKD_DATABASE_URL"], min_size=0, max_size={CONNECTIONS})
    async with (await pool).acquire() as conn:
        await conn.execute("INSERT INTO ledger VALUES ($1)", event.id)
""",
    CONNECTED: """\
import asyncpg
import hookd


@hookd.on("*")
async def handle(event: hookd.Event, conn: asyncpg.Connection) -> None:
    await conn.execute("INSERT INTO ledger VALUES ($1)", event.id)
""",
}
METHOD = (
    "{events:,} stored events of 1 KiB, drained as in Drain by a handler that writes nothing; by one that writes a row"
    " through an asyncpg pool of its own, {connections} connections, and twice if it is killed in between; and by one"
    " that writes it through the connection it is given, in one transaction with the settle of its event,"
    " {connections} at once. Claims: somebody holds a snapshot, meanwhile {step:,} events are settled at a time,"
    " {steps} times; each claim then finds {fresh} events that are just due, and is followed by the look at what is due"
    " next: from the first entry of the index on, as the first claim of each second looks, and from the watermark on,"
    " as all others."
)


async def measure(bench: Bench) -> Section:
    events = bench.scale.events // SHARE
    section = Section(
        "Effects in PostgreSQL",
        METHOD.format(events=events, connections=CONNECTIONS, step=bench.scale.events, steps=STEPS, fresh=FRESH_ROWS),
    )
    await warm(bench)
    runs: dict[str, list[Run]] = {name: [] for name in HANDLERS}
    for name in bench.rounds(list(runs)):
        run = await one_drain(bench, name, events, section)
        runs[name].append(run)
        bench.say(f"effects: {name}: {run.rate:,.0f}/s, {run.python_us:.1f} + {run.postgres_us:.1f} µs")
    for name, each in runs.items():
        section.figures += [
            Figure(f"drain: {name}: events/s", "/s", [run.rate for run in each]),
            Figure(f"drain: {name}: CPU an event, Python's part", "µs", [run.python_us for run in each]),
            Figure(f"drain: {name}: CPU an event, PostgreSQL's part", "µs", [run.postgres_us for run in each]),
        ]
    section.figures += await beside_a_snapshot(bench)
    return section


async def one_drain(bench: Bench, name: str, events: int, section: Section) -> Run:
    async with bench.postgres.fresh() as url:
        await seed.backlog(url, events)
        async with connected(url) as connection:
            await connection.execute(LEDGER)
        await bench.postgres.execute("CHECKPOINT")
        postgres = machine.cpu_seconds(bench.postgres.pid)
        seconds, python = await drained_by_hookd(
            bench, url, events, HANDLERS[name], HOOKD_HANDLER_CONNECTIONS=str(CONNECTIONS)
        )
        postgres = machine.cpu_seconds(bench.postgres.pid) - postgres
        section.wrong += await unsettled(url, name, events)
        async with connected(url) as connection:
            written = await connection.fetchval(WRITTEN)
        if written != (0 if name == NOTHING else events):
            section.wrong.append(f"{name}: {written} rows were written for {events} events")
    each = MICROSECONDS / events
    return Run(events / seconds, python * each, postgres * each)


async def beside_a_snapshot(bench: Bench) -> list[Figure]:
    """Milliseconds of a claim and a look, with ever more that was settled since the snapshot was taken."""
    figures = []
    async with bench.postgres.fresh() as url, connected(url) as connection, snapshot(url, seconds=1):
        store = Store(Database(url), "effects", lease_seconds=60)
        try:
            for step in range(STEPS + 1):
                if step:
                    await settle(url, store, bench.scale.events)
                since = await from_now_on(store)
                taken: dict[str, list[float]] = {"the first entry": [], "the watermark": []}
                for name in list(taken) * LOOKS:
                    await add_fresh(connection)
                    taken[name].append(await timed(claim_and_look(store, since if name == "the watermark" else None)))
                settled = f"beside a snapshot: {step * bench.scale.events:,} settled"
                medians = " and ".join(f"{statistics.median(each):.1f} ms" for each in taken.values())
                bench.say(f"effects: {settled}: {medians}")
                figures += [
                    Figure(f"{settled}: claim and look, from {name} on", "ms", ms) for name, ms in taken.items()
                ]
        finally:
            await store.close()
    return figures


async def settle(url: str, store: Store, events: int) -> None:
    """Have so many events stored and settled."""
    await seed.backlog(url, events)
    while claimed := await claim(store, CLAIM_ROWS, None):
        await store.results.settle([Settlement(each, PROCESSED, False, "effects") for each in claimed])


async def add_fresh(connection: Connection) -> None:
    """Events that are due from now on."""
    rows = list(seed.rows(datetime.now(UTC), 0, FRESH_ROWS))
    await connection.copy_records_to_table("events", schema_name="hookd", columns=seed.COLUMNS, records=rows)


async def claim_and_look(store: Store, since: Since | None) -> None:
    claimed = await claim(store, FRESH_ROWS, since)
    assert len(claimed) == FRESH_ROWS, f"claimed {len(claimed)} of {FRESH_ROWS}"
    await store.queue.next_due(since, None if since is None else ALL_SECONDS)


async def claim(store: Store, rows: int, since: Since | None) -> list[Claimed]:
    return await store.queue.claim(rows, BYTES, None, time.monotonic, 0, since)
