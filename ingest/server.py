"""The receiver's process: its socket, its signals, its end."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial

from chassis import collector, metrics
from chassis.database import Database, Unavailable
from chassis.lifeline import Lifeline
from chassis.logs import get_logger
from chassis.process import Stop, every
from chassis.settings import CommonSettings
from chassis.vault import open_vault
from ingest.batch import Lane
from ingest.connection import Server, require_c_parser
from ingest.keeping import Keeping
from ingest.knowledge import NO_METHODS, Knowledge
from ingest.receiver import Receiver
from ingest.replying import Make, Replying
from ingest.settings import IngestSettings
from ingest.store import Keeper, Side, Writer
from ingest.tally import Tally

EXPIRE_SECONDS = 0.1
SWEEP_SECONDS = 1.0
SUMMARY_SECONDS = 10.0
BACKLOG = 1024

log = get_logger()


async def serve(
    common: CommonSettings,
    settings: IngestSettings,
    database: Database,
    listeners: Sequence[socket.socket],
    *,
    slot: int = 1,
    lifeline: Lifeline | None = None,
    make_replying: Make | None = None,
) -> None:
    """Receive on `listeners` until SIGTERM or SIGINT, then let open connections end.

    `make_replying`: who answers senders in their request, if anybody does; it is given how processors are hinted.
    Raises DatabaseError for a database that cannot be used as it is.
    """
    require_c_parser()
    side = Side(database, f"receiver {slot} side")
    await side.check()
    writers = {name: Writer(database, f"receiver {slot} {name}") for name in ("small", "large")}
    lanes = {
        name: Lane(writer.write, timeout_seconds=settings.commit_timeout_seconds) for name, writer in writers.items()
    }
    keeper = Keeper(database, f"receiver {slot} refused")
    keeping = Keeping(keeper.keep, settings.refused_rows_max)
    tally = Tally(lanes, keeping.outcomes)
    replying = make_replying(side.hint) if make_replying is not None else None
    methods = replying.methods if replying is not None else NO_METHODS
    knowledge = Knowledge(side, settings.unknown_sources, settings.body_bytes_max, open_vault(common).unseal, methods)
    with contextlib.suppress(Unavailable):  # else the first requests would be told that nobody knows yet
        await knowledge.refresh(clock=True)
    knowledge.require_usable()
    receiver = Receiver(settings, lanes["small"], lanes["large"], side, knowledge, keeping, tally, replying)
    server = Server(receiver.receive, connections_max=settings.connections_max, refused=tally.refused)
    stop = Stop().hear_signals()
    async with replying.at_work() if replying is not None else nullcontext(), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(work)
            for work in (
                *(lane.run() for lane in lanes.values()),
                knowledge.run(),
                side.send_hints(),
                keeping.run(),
                metrics.publish(common.metrics_port, slot, partial(_collected, tally, replying)),
                every(EXPIRE_SECONDS, *(lane.expire for lane in lanes.values())),
                every(SWEEP_SECONDS, partial(server.sweep, settings.head_timeout_seconds)),
                every(SUMMARY_SECONDS, tally.summarize),
                stop.watch(lifeline),
                _until_stuck(replying, stop, lifeline),
            )
        ]
        grace_left = await _listen_until(stop, server, receiver, listeners, common.grace_seconds)
        if replying is not None:
            await replying.stop(grace_left, stop.hurry)
        await keeping.finish()
        for task in tasks:
            task.cancel()
    tally.summarize()
    for close in (side.close, keeper.close, *(writer.close for writer in writers.values())):
        await close()
    log.info("ingest.stopped", slot=slot)


def _collected(tally: Tally, replying: Replying | None) -> Iterator[metrics.Metric]:
    yield from tally.collect()
    if replying is not None:
        yield from replying.collect()


async def _until_stuck(replying: Replying | None, stop: Stop, lifeline: Lifeline | None) -> None:
    """Let a supervisor start another in time; without one, storing goes on, and nothing is replied to any more."""
    if replying is not None:
        await replying.until_stuck()
        log.error("replies.stuck", hint="too many threads are over their time-out: this receiver has to be restarted")
        if lifeline is not None:
            stop.asked.set()


async def _listen_until(
    stop: Stop, server: Server, receiver: Receiver, listeners: Sequence[socket.socket], grace_seconds: float
) -> float:
    """Serve until told to stop and the connections have ended; the seconds that are left of the grace."""
    loop = asyncio.get_running_loop()
    listening = [await loop.create_server(server, sock=listener, backlog=BACKLOG) for listener in listeners]
    for listener in listeners:
        host, port = listener.getsockname()[:2]
        log.info("ingest.listening", url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
    collector.spare()
    await stop.asked.wait()
    receiver.stopping = server.stopping = True
    for each in listening:
        each.close()
    began = loop.time()
    await _drain(server, stop, grace_seconds)
    return max(began + grace_seconds - loop.time(), 0.0)


async def _drain(server: Server, stop: Stop, grace_seconds: float) -> None:
    """Serve open connections on, each answer with Connection: close, until none is left or the grace ends."""
    if server.connections:
        log.info("ingest.stopping", connections=len(server.connections), grace_seconds=grace_seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_seconds):
            while server.connections and not stop.hurry.is_set():  # noqa: ASYNC110 - aiohttp tells nobody
                await asyncio.sleep(0.02)
    await server.shutdown(0.5)
