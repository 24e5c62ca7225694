"""The processor's process: its signals, its end, and one drain for cron."""

import asyncio
import time
from contextlib import suppress

from chassis import metrics
from chassis.database import Database, DatabaseError, Unavailable
from chassis.lifeline import Lifeline
from chassis.logs import get_logger
from chassis.process import Stop, every
from chassis.settings import CommonSettings
from chassis.vault import open_vault
from processor.claiming.store import listen
from processor.handling.dispatch import Dispatch
from processor.parts import Parts
from processor.running.watchdog import Watchdog
from processor.settings import ProcessorSettings
from processor.store import Store
from processor.upkeep.maintenance import EVERY_SECONDS

SUMMARY_SECONDS = 10.0
IDLE_LOOK_SECONDS = 0.02

log = get_logger()


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

    schedule = Schedule(poll_seconds=settings.poll_seconds, drain=parts.claimer.ring, maintain=parts.maintenance.ring)
    others = (
        parts.maintenance.keep_up(),
        listen(database, parts.claimer.ring),
        every(SUMMARY_SECONDS, parts.tally.summarize),
        metrics.publish(common.metrics_port, 0, parts.tally.collect),
        stop.watch(lifeline),
        _until_stuck(parts.watchdog, stop),
    )
    async with parts.at_work(*others):
        schedule.start()
        log.info("processor.started", app=app, handlers=len(dispatch.handlers), concurrency=settings.concurrency)
        await stop.asked.wait()
        schedule.stop()
        log.info("processor.stopping", running=parts.runner.running, grace_seconds=common.grace_seconds)
        await parts.drain.stop(0 if parts.watchdog.stuck.is_set() else common.grace_seconds, stop.hurry)
    parts.tally.summarize()
    await parts.store.close()
    log.info("processor.stopped")
    return 1 if parts.watchdog.stuck.is_set() else 0


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
    parts.claimer.due_until = await parts.store.queue.now()
    async with parts.at_work():
        with suppress(TimeoutError):
            async with asyncio.timeout(for_seconds):
                await _until_drained(parts, stop)
        await parts.drain.stop(common.grace_seconds, stop.hurry)
    if parts.claimer.failure is not None:
        raise parts.claimer.failure
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
    while not stop.asked.is_set() and parts.claimer.failure is None:
        if parts.claimer.exhausted and parts.drain.is_idle:
            return
        await asyncio.sleep(IDLE_LOOK_SECONDS)


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


async def _until_stuck(watchdog: Watchdog, stop: Stop) -> None:
    await watchdog.stuck.wait()
    log.error(
        "processor.stuck", hint="too many handlers are over their time-out: handing the rest over, to be started again"
    )
    stop.asked.set()
