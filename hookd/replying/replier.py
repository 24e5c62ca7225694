"""Reply: commit → sift → run → answer → settle. A processor's own parts, at work in a receiver."""

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeAlias
from uuid import UUID

from chassis.database import Database, DatabaseError, Unavailable
from chassis.logs import get_logger
from chassis.metrics import Metric
from chassis.process import every
from chassis.vault import open_vault
from hookd.configuration import Configuration
from hookd.replying.store import Births, check, greet
from ingest.batch import Lane, Row
from ingest.receiver import LARGE_LANE_BYTES
from ingest.replying import Hint
from ingest.server import EXPIRE_SECONDS, SUMMARY_SECONDS
from ingest.store import COLUMNS, Writer, head_size
from processor.handling.declare import ANY
from processor.handling.dispatch import Dispatch
from processor.handling.handler import Handler
from processor.handling.rules import Rules
from processor.holding.claimed import Claimed
from processor.parts import Parts
from processor.sifting.registry import cannot_judge
from processor.waiter import Waiter
from protocol.challenge import Answer

Outcome: TypeAlias = Literal["answered", "late", "unanswered"]

BORN = {"claims": 1, "attempts": 1, "died": False, "reason": None, "replayed": False}

log = get_logger()


class Replier:
    """The door of what is replied to: a lane of its own for small bodies and for large ones, a drain without claims."""

    def __init__(
        self, configuration: Configuration, database: Database, dispatch: Dispatch, slot: int, hint: Hint
    ) -> None:
        app, settings = configuration.processor.app or "", configuration.processor
        name = f"replier {slot}"  # of connections
        self._database = database
        self._hint = hint
        self._lease_seconds = settings.lease_seconds
        self._parts = Parts(settings, database, dispatch, app, open_vault(configuration.common), name="replier")
        self._births = {size: Births(self._parts.holder, self._lease_seconds) for size in ("small", "large")}
        self._writers = {
            size: Writer(database, f"{name} {size}", births.bear, greet) for size, births in self._births.items()
        }
        self._lanes = {
            size: Lane(writer.write, timeout_seconds=configuration.ingest.commit_timeout_seconds)
            for size, writer in self._writers.items()
        }
        self._born: list[Claimed] = []
        self._arrived = asyncio.Event()
        self._outcomes = Counter[tuple[str, Outcome]]()
        replying = [handler for handler in dispatch.handlers if handler.replies]
        self._sources = {handler.source for handler in replying if handler.rule is None}
        self._rules = Rules(replying)
        self.methods = methods_of(replying)

    def replies(self, source: str, method: str, target: str) -> bool:
        """Whether such a request may be replied to, as far as its head tells."""
        if source in self._sources or ANY in self._sources:
            return True
        return bool(self._rules.match(source, method, target))

    async def reply(self, row: Row, size: int, timeout_seconds: float | None, until: float) -> Answer | None:
        """Commit the row, then its handler's answer; None: the source's usual one. Raises Refusal."""
        lease_until = time.monotonic() + self._lease_seconds  # before the first try at it, for that may succeed unseen
        lane = "large" if size > LARGE_LANE_BYTES else "small"
        await self._lanes[lane].put(row, size + head_size(row), timeout_seconds)
        if lease_until <= time.monotonic():
            return None  # and a processor has it
        claimed = Claimed(born(row, self._births[lane].revision), lease_until, waiter=Waiter(until))
        self._born.append(claimed)
        self._arrived.set()
        return await self._answer(claimed, until)

    async def _answer(self, claimed: Claimed, until: float) -> Answer | None:
        assert claimed.waiter is not None
        outcome: Outcome = "late"
        answer = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                answer = await claimed.waiter.told
                outcome = "answered" if answer is not None else "unanswered"
        source = claimed.row["source"]
        self._outcomes[self._parts.folded(source), outcome] += 1
        if log.debugging:
            log.debug(f"reply.{outcome}", id=str(claimed.id), source=source, status=answer and answer.status)
        return answer

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Replies while the block lasts. Raises DatabaseError for a database that cannot be used as it is."""
        await self._open()
        others = (
            *(lane.run() for lane in self._lanes.values()),
            every(EXPIRE_SECONDS, self._parts.intake.withdraw, *(lane.expire for lane in self._lanes.values())),
            every(SUMMARY_SECONDS, self._parts.tally.summarize),
            self._keep_handing_over(),
            self._keep_hinting(),
        )
        async with self._parts.at_work(*others, claims=False):
            yield
        self._parts.tally.summarize()
        await self._parts.store.close()
        for writer in self._writers.values():
            await writer.close()

    async def _open(self) -> None:
        """Look at the database; one that is away may come back."""
        try:
            await check(self._database)
            await self._parts.registry.read()
            for name in await self._parts.store.results.counted_sources():
                self._parts.folded(name)
        except DatabaseError:
            raise
        except Unavailable as error:
            log.error("database.lost", reason=str(error))
        for source in self._parts.registry.sources.values():
            if cannot_judge(source) and (source.name in self.methods or ANY in self.methods):
                raise DatabaseError(
                    f"source {source.name!r}: {source.fault}. A receiver judges what it replies to: give it the key "
                    "that sealed the secrets, HOOKD_SECRET_KEY"
                )

    async def _keep_handing_over(self) -> None:
        """What was committed while the one before was looked into goes on together; never returns."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            arrived, self._born = self._born, []
            arrived.sort(key=_revision, reverse=True)  # all are judged by what the first one asks to be known
            with contextlib.suppress(Unavailable):  # then they are handed back
                await self._parts.intake.take(arrived)

    async def _keep_hinting(self) -> None:
        """Tell the processors of what is handed back to them; never returns."""
        while True:
            await self._parts.claimer.rung()
            self._hint()

    async def stop(self, grace_seconds: float, hurry: asyncio.Event) -> None:
        """Let what runs end, for so long unless somebody is in a hurry; hand the rest back."""
        await self._parts.drain.stop(0 if self._parts.watchdog.stuck.is_set() else grace_seconds, hurry)

    async def until_stuck(self) -> None:
        """Return when so many threads are over their time that it had better be started again."""
        await self._parts.watchdog.stuck.wait()

    @property
    def failing(self) -> str | None:
        """Why the last write failed."""
        return next((lane.failing for lane in self._lanes.values() if lane.failing), None)

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now; may be called from another thread."""
        meaning = "Requests that may be replied to: answered by a handler, late, or unanswered"
        yield Metric("counter", "hookd_replies", meaning, self._outcomes.copy(), ("source", "outcome"))
        yield from self._parts.tally.collect()


def _revision(claimed: Claimed) -> int:
    revision: int = claimed.row["revision"]
    return revision


def methods_of(handlers: Iterable[Handler]) -> dict[str, tuple[str, ...]]:
    """What may be replied to: sources by their names, or `*`, with their methods."""
    methods = defaultdict[str, set[str]](set)
    for handler in handlers:
        methods[handler.source] |= handler.rule.methods if handler.rule is not None else {"POST"}
    return {source: tuple(sorted(found)) for source, found in methods.items()}


def born(row: Row, revision: int) -> dict[str, Any]:
    """The row as a claim would have brought it."""
    named: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    payload = bytes(named["payload"])
    return {
        **named,
        **BORN,
        "id": UUID(bytes=named["id"].bytes),
        "payload": payload,
        "bytes": len(payload),
        "revision": revision,
        "received_epoch": named["received_at"].timestamp(),
        "age_seconds": 0.0,
        "waited_seconds": 0.0,
    }
