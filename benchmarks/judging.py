"""What verification, naming and the decision about duplicates cost the processor."""

import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from benchmarks.bench import Bench
from benchmarks.drain import MICROSECONDS, Run, drained_by_hookd, unsettled, warm
from benchmarks.report import Figure, Section, Target
from chassis.vault import Vault
from processor.sifting.sieve import found_in, request_of
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.samples import credentials, sample_delivery
from protocol.schemes.keyed import Hmac
from protocol.schemes.standard import StandardWebhooks
from protocol.schemes.websub import WebSub
from protocol.source import Secret, Source
from rig import machine, seed
from rig.postgres import connected

KEY = "YmVuY2htYXJrcy1zZWFsLXdpdGgtdGhpcy1rZXktMzI="  # seals nothing that is secret
NOBODY, OTHERS, REGISTERED = "no source registered", "50 others registered", "verified, and compared by delivery"
OTHERS_COUNT = 50
HMACS = [name for name, provider in PROVIDERS.items() if isinstance(provider.scheme, Hmac | StandardWebhooks | WebSub)]
TIMES = 500
BODY_BYTES = 1024
METHOD = (
    "A body of 1 KiB verified, of every sender that signs it by an HMAC; one event: its headers parsed, its names taken"
    " and its body verified; each {times:,} times before each drain, in CPU time. Drain: {events:,} events as GitHub"
    " signs them, each a delivery of its own, drained as in Drain; ratios are to a drain of the same rows with no"
    " source registered, where nothing of this is done."
)
COLUMNS = (*seed.COLUMNS, "event_type", "delivery_id")
ADD_SOURCE = "INSERT INTO hookd.sources (name, provider, mode) VALUES ($1, 'github', 'deferred')"
ADD_SECRET = "INSERT INTO hookd.secrets (source, sealed) VALUES ($1, $2)"


async def measure(bench: Bench) -> Section:
    events = bench.scale.events
    section = Section("Judging", METHOD.format(times=TIMES, events=events))
    await warm(bench)
    runs: dict[str, list[Run]] = {NOBODY: [], OTHERS: [], REGISTERED: []}
    costs: dict[str, list[tuple[float, float]]] = {sender: [] for sender in HMACS}
    hashes: list[float] = []
    for name in bench.rounds(list(runs)):
        # All of them by turns, between the drains: a machine's clock may be another a second later.
        hashes.append(hash_us())
        for sender in HMACS:
            costs[sender].append(costs_us(sender))
        run = await one_drain(bench, name, section)
        runs[name].append(run)
        bench.say(f"judging: {name}: {run.rate:,.0f}/s, {run.python_us:.1f} + {run.postgres_us:.1f} µs")
    section.figures += figures(costs)
    section.figures.append(Figure("HMAC-SHA256 of a kilobyte alone: the verification alone", "µs", hashes))
    for name in (OTHERS, REGISTERED):
        ratios = [with_them.rate / without.rate for with_them, without in zip(runs[name], runs[NOBODY], strict=True)]
        section.figures.append(Figure(f"drain, {name} ÷ {NOBODY}", "×", ratios))
    for name, each in runs.items():
        section.figures += [
            Figure(f"drain: {name}: CPU an event, Python's part", "µs", [run.python_us for run in each]),
            Figure(f"drain: {name}: CPU an event, PostgreSQL's part", "µs", [run.postgres_us for run in each]),
        ]
    return section


def figures(costs: Mapping[str, Sequence[tuple[float, float]]]) -> Iterator[Figure]:
    """The aim is every sender's, so that it is that of the slowest."""
    slowest = max(costs, key=lambda name: median(verified for verified, _ in costs[name]))
    values = [verified for verified, _ in costs[slowest]]
    yield Figure(f"verification by HMAC, the slowest of {len(costs)} ({slowest})", "µs", values, Target("≤", 10))
    for name, each in costs.items():
        yield Figure(f"{name}: the verification alone", "µs", [verified for verified, _ in each])
        yield Figure(f"{name}: an event", "µs", [judged for _, judged in each])


def padded(request: Request) -> Request:
    """With a body of a kilobyte."""
    return replace(request, body=request.body.ljust(BODY_BYTES))


def costs_us(name: str) -> tuple[float, float]:
    """The verification, and all of one event, its body padded to a kilobyte. Raises ValueError if it is refused."""
    provider, at = PROVIDERS[name], time.time()
    known = credentials(provider, at)
    request = sample_delivery(provider, known.key, at)
    request = provider.scheme.sign(padded(request), known.key, at, {})
    source = Source(name, provider, "deferred", secrets=(Secret(known.secret.encode()),))
    row = {
        "method": "POST",
        "target": request.target,
        "headers": json.dumps([list(header) for header in request.headers]),
        "event_type": None,
        "delivery_id": None,
        "verdict": None,
        "received_epoch": at,
    }
    if (verdict := found_in(source, row, request_of(row, request.body)).verdict) != "verified":
        raise ValueError(f"{name}: {verdict}")
    asked = request_of(row, request.body)
    return (
        cost_us(lambda: source.judge(asked, at)),
        cost_us(lambda: found_in(source, row, request_of(row, request.body))),
    )


def hash_us() -> float:
    """What Python takes to compute one, the key given anew: what a second of this machine is worth just now."""
    key, body = bytes(32), bytes(BODY_BYTES)
    return cost_us(lambda: hmac.digest(key, body, "sha256"))


def cost_us(work: Callable[[], object]) -> float:
    began = time.process_time()
    for _ in range(TIMES):
        work()
    return (time.process_time() - began) / TIMES * MICROSECONDS


async def one_drain(bench: Bench, name: str, section: Section) -> Run:
    events = bench.scale.events
    async with bench.postgres.fresh() as url:
        await deliveries(url, events)
        await register(url, name)
        await bench.postgres.execute("CHECKPOINT")
        postgres = machine.cpu_seconds(bench.postgres.pid)
        seconds, python = await drained_by_hookd(bench, url, events, HOOKD_SECRET_KEY=KEY)
        postgres = machine.cpu_seconds(bench.postgres.pid) - postgres
        section.wrong += await unsettled(url, name, events)
    each = MICROSECONDS / events
    return Run(events / seconds, python * each, postgres * each)


async def deliveries(url: str, events: int) -> None:
    """A backlog as GitHub would have left it."""
    provider = PROVIDERS["github"]
    key = credentials(provider, 0).key
    request = sample_delivery(provider, key, 0, delivery="{delivery}")
    request = provider.scheme.sign(padded(request), key, 0, {})
    headers = json.dumps([list(header) for header in request.headers])
    event_type = request.header(provider.event_type or "")
    began = datetime.now(UTC) - timedelta(seconds=events / seed.BATCH_ROWS * seed.BATCH_SECONDS)
    async with connected(url) as connection:
        await connection.fetchval(seed.ENSURE_DAY, began)
        records = []
        for event_id, _, received_at, due_at, *_ in seed.rows(began, 0, events):
            told = headers.replace("{delivery}", str(event_id))
            row = (event_id, "github", received_at, due_at, "POST", "/github", told, "127.0.0.1", request.body)
            records.append((*row, event_type, str(event_id)))
        await connection.copy_records_to_table("events", schema_name="hookd", columns=COLUMNS, records=records)
        await connection.execute("ANALYZE hookd.events")


async def register(url: str, name: str) -> None:
    names = {NOBODY: [], OTHERS: [f"other-{n}" for n in range(OTHERS_COUNT)], REGISTERED: ["github"]}[name]
    sealed = Vault(KEY, Path("/nowhere")).seal(credentials(PROVIDERS["github"], 0).secret.encode())
    async with connected(url) as connection, connection.transaction():
        for each in names:
            await connection.execute(ADD_SOURCE, each)
            await connection.execute(ADD_SECRET, each, sealed)
