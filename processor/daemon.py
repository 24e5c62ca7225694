"""The processor's process: its parts put together, its signals, its end."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack, asynccontextmanager, suppress

from chassis import collector, metrics
from chassis.database import Database, DatabaseError, Unavailable
from chassis.lifeline import Lifeline
from chassis.logs import get_logger
from chassis.process import Stop, every
from chassis.settings import CommonSettings
from chassis.vault import Vault, open_vault
from processor.chooser import Chooser
from processor.claiming.store import listen
from processor.drain import Drain
from processor.effects.store import Seal, Transactions
from processor.handling.dispatch import Choice, Dispatch
from processor.holding.claimed import Claimed
from processor.holding.lease import Leases
from processor.links import LANES
from processor.outcome import Cut, Ending, Outcome, Saved
from processor.running.suspects import Suspects
from processor.settings import ProcessorSettings
from processor.settling.tally import Tally
from processor.sifting.certificates import Amazon
from processor.sifting.registry import Registry
from processor.sifting.sieve import Sieve
from processor.store import Store
from processor.upkeep.maintenance import EVERY_SECONDS, Maintenance

SUMMARY_SECONDS = 10.0
IDLE_LOOK_SECONDS = 0.02
LEAVE_SECONDS = 2.0  # for coroutines to end when they are cancelled

log = get_logger()


class Parts:
    """A processor's parts, each handed what it needs. `name`: of whoever is one."""

    def __init__(
        self,
        settings: ProcessorSettings,
        database: Database,
        dispatch: Dispatch,
        app: str,
        vault: Vault,
        amazon: Amazon | None = None,
        *,
        name: str = "processor",
    ) -> None:
        self.folded = metrics.Folded()
        self.tally = Tally(self.folded, name)
        self.holder = f"{socket.gethostname()} {os.getpid()}"
        self.store = Store(database, self.holder, lease_seconds=settings.lease_seconds, name=name)
        self.leases = Leases(database, lease_seconds=settings.lease_seconds, lost=self._lose, name=name)
        self.transactions = Transactions(database, settings.handler_connections)
        chooser = Chooser(dispatch, settings)
        self.suspects = Suspects(
            app,
            database,
            content_bytes_max=settings.content_bytes_max,
            timeout_seconds=chooser.timeout_seconds,
            ready=self._ready,
            finish=self._finish,
            conclude=self._conclude,
            seal=self._seal,
        )
        self.registry = Registry(self.store.sources, vault)
        sieve = Sieve(self.registry, self.store.deliveries, chooser, amazon or Amazon(), settings)
        self.drain = Drain(
            self.store, self.leases, chooser, self.suspects, self.tally, settings, sieve, self.transactions
        )
        self.maintenance = Maintenance(
            self.store.upkeep, retention_days=settings.retention_days, refused_hours=settings.refused_hours
        )
        drain, leases = self.drain, self.leases
        self.tally.watch("hookd_running", "Handlers that run", lambda: drain.running)
        self.tally.watch(
            "hookd_transactions", "Of these, handlers with a transaction of their own", lambda: drain.connected.running
        )
        self.tally.watch("hookd_held", "Rows this process holds", lambda: len(leases))
        self.tally.watch(
            "hookd_lag_seconds", "How long the oldest due event waited for a claim", lambda: drain.lag_seconds
        )

    def _lose(self) -> None:
        self.drain.lose()

    async def _ready(self, claimed: Claimed) -> Choice | Outcome:
        return await self.drain.ready(claimed)

    def _finish(self, claimed: Claimed, outcome: Outcome) -> None:
        self.drain.finish(claimed, outcome)

    def _conclude(self, claimed: Claimed, ending: Ending | Cut | Saved) -> None:
        self.drain.conclude(claimed, ending)

    def _seal(self, claimed: Claimed) -> Seal:
        return self.drain.seal(claimed)

    @asynccontextmanager
    async def at_work(self, *others: Awaitable[None], claims: bool = True) -> AsyncIterator[None]:
        """Claiming (unless told not to), running, settling, renewing, and `others` beside, until the block ends."""
        collector.spare()
        self.leases.start()
        claiming = (self.drain.keep_claiming(), self.drain.keep_claiming_beside()) if claims else ()
        with ExitStack() as left:
            async with asyncio.TaskGroup() as group:
                for crew in self.drain.crews:
                    crew.start(group)
                tasks = [
                    group.create_task(_run(work))
                    for work in (
                        *claiming,
                        *(self.drain.keep_settling(lane) for lane in LANES),
                        self.drain.keep_watch(),
                        self.suspects.keep_trying(),
                        *others,
                    )
                ]
                try:
                    yield
                finally:
                    self.leases.end()
                    for crew in self.drain.crews:
                        crew.end()
                    for task in tasks:
                        task.cancel()
                    left.callback(asyncio.get_running_loop().call_later(LEAVE_SECONDS, _leave).cancel)
            await self.transactions.close()


async def run(
    common: CommonSettings,
    settings: ProcessorSettings,
    database: Database,
    dispatch: Dispatch,
    app: str,
    lifeline: Lifeline | None = None,
) -> int:
    """Process until SIGTERM or SIGINT; the exit code.

    Raises DatabaseError for a database that cannot be used as it is, Unjudgeable for sources that cannot be verified.
    """
    parts = Parts(settings, database, dispatch, app, open_vault(common))
    await _until_reachable(parts.store)
    await parts.registry.open()
    await _know_counted_sources(parts)
    stop = Stop().hear_signals()
    from processor.schedule import Schedule  # noqa: PLC0415 - cron starts `--once` often, which has no use for it

    schedule = Schedule(poll_seconds=settings.poll_seconds, drain=parts.drain.ring, maintain=parts.maintenance.ring)
    others = (
        parts.maintenance.keep_up(),
        listen(database, parts.drain.ring),
        every(SUMMARY_SECONDS, parts.tally.summarize),
        metrics.publish(common.metrics_port, 0, parts.tally.collect),
        stop.watch(lifeline),
        _until_stuck(parts.drain, stop),
    )
    async with parts.at_work(*others):
        schedule.start()
        log.info("processor.started", app=app, handlers=len(dispatch.handlers), concurrency=settings.concurrency)
        await stop.asked.wait()
        schedule.stop()
        log.info("processor.stopping", running=parts.drain.running, grace_seconds=common.grace_seconds)
        await parts.drain.stop(0 if parts.drain.stuck.is_set() else common.grace_seconds, stop.hurry)
    parts.tally.summarize()
    await parts.store.close()
    log.info("processor.stopped")
    return 1 if parts.drain.stuck.is_set() else 0


async def once(
    common: CommonSettings,
    settings: ProcessorSettings,
    database: Database,
    dispatch: Dispatch,
    app: str,
    for_seconds: float,
) -> tuple[int, dict[str, object]]:
    """Drain what is due now, for `for_seconds` at most. Returns the exit code and the summary.

    Raises Unavailable, and Unjudgeable for sources that cannot be verified.
    """
    parts = Parts(settings, database, dispatch, app, open_vault(common))
    await parts.store.check()
    if not await parts.store.queue.only_drain():
        return 0, {"skipped": "another hookd processor --once is at work"}
    await parts.registry.open()
    await _know_counted_sources(parts)
    began, stop = time.monotonic(), Stop().hear_signals()
    parts.drain.due_until = await parts.store.queue.now()
    async with parts.at_work():
        with suppress(TimeoutError):
            async with asyncio.timeout(for_seconds):
                await _until_drained(parts, stop)
        await parts.drain.stop(common.grace_seconds, stop.hurry)
    if parts.drain.failure is not None:
        raise parts.drain.failure
    since = await parts.store.upkeep.seconds_since_maintenance()
    if since is None or since > EVERY_SECONDS:
        await parts.maintenance.run()
    left = await parts.store.queue.seconds_until_due()
    await parts.store.close()
    kinds = ("processed", "failed", "retried", "handed_back")
    summary: dict[str, object] = {kind: parts.tally.total.get(kind, 0) for kind in kinds}
    summary |= {"seconds": round(time.monotonic() - began, 2), "left_due": left is not None and left <= 0}
    return 0, summary


async def _until_drained(parts: Parts, stop: Stop) -> None:
    """Nothing that was due at the start is waiting or held; or the database is away."""
    while not stop.asked.is_set() and parts.drain.failure is None:
        if parts.drain.exhausted and parts.drain.idle:
            return
        await asyncio.sleep(IDLE_LOOK_SECONDS)


def _leave() -> None:
    log.error("processor.left", hint="a handler would not be cancelled; the lease of its event runs out")
    os._exit(1)


async def _until_reachable(store: Store) -> None:
    told = False
    while True:
        try:
            return await store.check()
        except DatabaseError:
            raise
        except Unavailable as error:
            if not told:
                log.error("database.lost", reason=str(error))
            told = True
            await asyncio.sleep(1.0)


async def _know_counted_sources(parts: Parts) -> None:
    for name in await parts.store.results.counted_sources():
        parts.folded(name)


async def _run(work: Awaitable[None]) -> None:
    await work


async def _until_stuck(drain: Drain, stop: Stop) -> None:
    await drain.stuck.wait()
    log.error(
        "processor.stuck", hint="too many threads are over their time-out: handing the rest over, to be started again"
    )
    stop.asked.set()
