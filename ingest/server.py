"""The receiver's process: its socket, its signals, its end."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any

from chassis import collector, metrics
from chassis.database import Database, Unavailable
from chassis.lifeline import Lifeline
from chassis.logs import get_logger
from chassis.process import Stop, every
from chassis.settings import CommonSettings
from chassis.sockets import url_of
from chassis.tls import Identity
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
from ingest.tls import Door, Listening

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
    identity: Identity | None = None,
    slot: int = 1,
    lifeline: Lifeline | None = None,
    make_replying: Make | None = None,
) -> None:
    """Receive on `listeners` until SIGTERM or SIGINT, then let open connections end.

    With an identity it speaks TLS, and SIGHUP has it read its files again. `make_replying`: who answers senders in
    their request, if anybody does; it is given how processors are hinted.

    Raises DatabaseError for a database that cannot be used as it is, and OtherParser.
    """
    require_c_parser()
    if identity is not None:
        identity.tell()
    parts = Parts(common, settings, database, identity, slot, make_replying)
    await parts.look_around()
    stop = Stop().hear_signals(identity.load_again if identity else None)
    async with parts.at_work(stop, lifeline):
        grace_left = await _listen_until(stop, parts, listeners, common.grace_seconds)
        if parts.replying is not None:
            await parts.replying.stop(grace_left, stop.hurry)
    await parts.close()
    log.info("ingest.stopped", slot=slot)


class Parts:
    """A receiver's parts, each handed what it needs."""

    def __init__(
        self,
        common: CommonSettings,
        settings: IngestSettings,
        database: Database,
        identity: Identity | None,
        slot: int,
        make_replying: Make | None,
    ) -> None:
        self._common, self._settings, self._slot = common, settings, slot
        self._side = Side(database, f"receiver {slot} side")
        self._keeper = Keeper(database, f"receiver {slot} refused")
        self._writers = {name: Writer(database, f"receiver {slot} {name}") for name in ("small", "large")}
        self._lanes = {
            name: Lane(writer.write, timeout_seconds=settings.commit_timeout_seconds)
            for name, writer in self._writers.items()
        }
        self._keeping = Keeping(self._keeper.keep, settings.refused_rows_max)
        self._tally = Tally(self._lanes, self._keeping.outcomes)
        self.replying = make_replying(self._side.hint) if make_replying is not None else None
        methods = self.replying.methods if self.replying is not None else NO_METHODS
        self._knowledge = Knowledge(
            self._side, settings.unknown_sources, settings.body_bytes_max, open_vault(common).unseal, methods
        )
        small, large = self._lanes["small"], self._lanes["large"]
        self.receiver = Receiver(
            settings, small, large, self._side, self._knowledge, self._keeping, self._tally, self.replying
        )
        self.server = Server(
            self.receiver.receive, connections_max=settings.connections_max, refused=self._tally.refused
        )
        self.door = Door(self.server, identity, settings.head_timeout_seconds) if identity else None

    async def look_around(self) -> None:
        """See whether the database will do, and what is registered there. Raises DatabaseError."""
        await self._side.check()
        with contextlib.suppress(Unavailable):  # else the first requests would be told that nobody knows yet
            await self._knowledge.refresh(clock=True)
        self._knowledge.require_usable()

    @asynccontextmanager
    async def at_work(self, stop: Stop, lifeline: Lifeline | None) -> AsyncIterator[None]:
        """Writing, learning, hinting and counting, and hearing when to stop, until the block ends."""
        replies = self.replying.at_work() if self.replying is not None else nullcontext()
        async with replies, asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in self._chores(stop, lifeline)]
            yield
            await self._keeping.finish()
            for task in tasks:
                task.cancel()
        self._tally.summarize()

    def _chores(self, stop: Stop, lifeline: Lifeline | None) -> Iterator[Coroutine[Any, Any, None]]:
        lanes = self._lanes.values()
        yield stop.watch(lifeline)
        yield _until_stuck(self.replying, stop, lifeline)
        yield from (lane.run() for lane in lanes)
        yield self._knowledge.run()
        yield self._side.send_hints()
        yield self._keeping.run()
        yield metrics.publish(self._common.metrics_port, self._slot, self._collected)
        yield every(EXPIRE_SECONDS, *(lane.expire for lane in lanes))
        yield every(SWEEP_SECONDS, partial(self.server.sweep, self._settings.head_timeout_seconds))
        yield every(SUMMARY_SECONDS, self._tally.summarize)

    def _collected(self) -> Iterator[metrics.Metric]:
        yield from self._tally.collect()
        if self.replying is not None:
            yield from self.replying.collect()

    async def listen(self, listener: socket.socket) -> Listening | asyncio.Server:
        if self.door is not None:
            return self.door.listen(listener)
        return await asyncio.get_running_loop().create_server(self.server, sock=listener, backlog=BACKLOG)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.server.connections) + (self.door.agreeing if self.door else 0)

    async def close(self) -> None:
        for close in (self._side.close, self._keeper.close, *(writer.close for writer in self._writers.values())):
            await close()


async def _until_stuck(replying: Replying | None, stop: Stop, lifeline: Lifeline | None) -> None:
    """Let a supervisor start another in time; without one, storing goes on, and nothing is replied to any more."""
    if replying is not None:
        await replying.until_stuck()
        log.error("replies.stuck", hint="too many handlers are over their time-out: this receiver has to be restarted")
        if lifeline is not None:
            stop.asked.set()


async def _listen_until(stop: Stop, parts: Parts, listeners: Sequence[socket.socket], grace_seconds: float) -> float:
    """Serve until told to stop and the connections have ended; the seconds that are left of the grace."""
    listening = [await parts.listen(listener) for listener in listeners]
    for listener in listeners:
        log.info("ingest.listening", url=url_of(listener, https=parts.door is not None))
    collector.spare()
    await stop.asked.wait()
    parts.receiver.stopping = parts.server.stopping = True
    for each in listening:
        each.close()
    began = time.monotonic()
    await _drain(stop, parts, grace_seconds)
    return max(began + grace_seconds - time.monotonic(), 0.0)


async def _drain(stop: Stop, parts: Parts, grace_seconds: float) -> None:
    """Serve open connections on, each answer with Connection: close, until none is left or the grace ends."""
    if parts.connections:
        log.info("ingest.stopping", connections=parts.connections, grace_seconds=grace_seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_seconds):
            while parts.connections and not stop.hurry.is_set():  # noqa: ASYNC110 - aiohttp tells nobody
                await asyncio.sleep(0.02)
    if parts.door is not None:
        parts.door.end()
    await parts.server.shutdown(0.5)
