"""The receiver, broken on purpose."""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from uuid_utils import uuid7

from chassis.lifeline import Lifeline
from chassis.process import Stop
from faults.sabotage import sabotage
from ingest import budget, connection, server
from ingest.batch import Lane
from ingest.connection import Accepted, Server
from ingest.receiver import Receiver
from ingest.refusal import Refusal
from ingest.store import Writer
from ingest.terms import Terms


@sabotage
def answer_before_commit() -> None:
    """A webhook is answered when it is queued, not when it is committed."""

    async def save(
        self: Receiver, row: Any, size: int, timeout_seconds: float | None = None, until: float | None = None
    ) -> None:
        (self.large if size > 1024 * 1024 else self.small).put(row, size, timeout_seconds).add_done_callback(
            lambda done: done.exception()
        )

    Receiver.save = save  # type: ignore[method-assign]


@sabotage
def forget_what_was_answered() -> None:
    """A batch whose write failed is answered as if it had been written."""

    def accept(self: Lane, batch: Any, why: str) -> None:
        self._accept(batch)

    Lane._refuse = accept  # type: ignore[assignment, method-assign]


@sabotage
def new_ids_when_tried_again() -> None:
    """A batch whose outcome is unknown is sent again with new ids, as if it were new."""
    write = Writer.write

    async def write_anew(self: Writer, rows: Sequence[Any], timeout: float) -> None:
        await write(self, [(uuid7(), *row[1:]) for row in rows], timeout)

    Writer.write = write_anew  # type: ignore[method-assign]


@sabotage
def tidy_bodies() -> None:
    """A body is stored as text would be: what is not UTF-8 is replaced."""
    row_of = Receiver.row_of

    def tidied(self: Receiver, request: Any, source: str, body: Any, arrived: int, terms: Any) -> Any:
        return row_of(self, request, source, bytes(body).decode(errors="replace").encode(), arrived, terms)

    Receiver.row_of = tidied  # type: ignore[method-assign]


def _relaxed(**settings: float) -> None:
    """Whatever was set, a receiver has these settings."""
    prepare = Receiver.__post_init__

    def prepared(self: Receiver) -> None:
        self.settings = self.settings.model_copy(update=settings)
        prepare(self)

    Receiver.__post_init__ = prepared  # type: ignore[method-assign]


@sabotage
def no_body_limit() -> None:
    """A body may be as large as it likes."""
    read = Receiver.read

    async def read_all(self: Receiver, request: Any, charged: Any, bytes_max: int) -> Any:
        return await read(self, request, charged, sys.maxsize)

    Receiver.read = read_all  # type: ignore[method-assign]


@sabotage
def no_body_timeout() -> None:
    """A body may take as long as it likes."""
    _relaxed(body_timeout_seconds=1_000_000)


@sabotage
def no_inflight_budget() -> None:
    """Any number of bodies may be in memory at once."""
    _relaxed(inflight_bytes_max=sys.maxsize)


@sabotage
def no_share_for_small_bodies() -> None:
    """Large bodies may use the whole in-flight budget."""
    budget.SMALL_BODY_BYTES = sys.maxsize


@sabotage
def no_head_limit() -> None:
    """A head may be as large as it likes."""
    connection.HEAD_BYTES_MAX = 1 << 30


@sabotage
def no_head_timeout() -> None:
    """A head may take as long as it likes."""

    def sweep(self: Server, head_seconds_max: float, still_seconds_max: float = 0.0) -> None:
        pass

    Server.sweep = sweep  # type: ignore[method-assign]


@sabotage
def no_connection_limit() -> None:
    """Any number of connections may be open."""
    prepare = Server.__init__

    def prepared(self: Server, handler: Any, *, connections_max: int, refused: Any) -> None:
        prepare(self, handler, connections_max=sys.maxsize, refused=refused)

    Server.__init__ = prepared  # type: ignore[method-assign]


@sabotage
def leave_at_once() -> None:
    """SIGTERM ends a receiver without any grace."""

    async def leave(*_: object) -> None:
        os._exit(0)

    server._drain = leave  # type: ignore[assignment]


@sabotage
def outlive_the_supervisor() -> None:
    """A worker does not care whether its supervisor lives."""

    async def watch(self: Stop, lifeline: Lifeline | None) -> None:
        if lifeline is not None:
            await lifeline.watch()

    Stop.watch = watch  # type: ignore[method-assign]


@sabotage
def store_4xx() -> None:
    """What is refused with a 4xx is stored all the same, as far as it has come."""
    receive = Receiver.receive

    async def receive_all(self: Receiver, request: Any) -> Any:
        answer = await receive(self, request)
        if not isinstance(answer, Accepted) and request.content.exception() is None:
            body = request.content.read_nowait(-1)
            row = self.row_of(request, "load", body, time.time_ns(), Terms(sys.maxsize))[1]
            await self.save(row, len(body))
        return answer

    Receiver.receive = receive_all  # type: ignore[method-assign]


@sabotage
def store_what_was_cut() -> None:
    """A sender that leaves in the middle of its body leaves a row behind."""
    read = Receiver.read_slowly

    async def read_some(self: Receiver, request: Any, charged: Any, bytes_max: int) -> bytearray:
        try:
            return await read(self, request, charged, bytes_max)
        except Refusal as why:
            if why.slug != "aborted":
                raise
            return bytearray(b"cut")

    Receiver.read_slowly = read_some  # type: ignore[method-assign]


@sabotage
def forget_who_left() -> None:
    """A sender that leaves before its answer takes its webhook along."""
    prepare = Server.__init__

    def prepared(self: Server, *given: Any, **named: Any) -> None:
        prepare(self, *given, **named)
        self.handler_cancellation = True

    Server.__init__ = prepared  # type: ignore[method-assign]
