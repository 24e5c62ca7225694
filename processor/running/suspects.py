"""Rows whose holder died twice: each runs alone, in a child process, where a payload that kills is alone."""

import asyncio
import base64
import os
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from typing import IO, Any, NoReturn
from uuid import UUID

import orjson

from chassis.database import Database, Unavailable
from chassis.logs import get_logger
from processor.effects.store import Seal, Transactions
from processor.handling.app import AppError, load
from processor.handling.dispatch import Choice
from processor.handling.event import Event
from processor.holding.claimed import Claimed
from processor.outcome import (
    HOLDER_DIED,
    Cut,
    Ending,
    Outcome,
    Saved,
    ended_by,
    ended_with,
    rejected,
    timed_out,
)
from processor.running.workers import call

START_SECONDS = 30.0  # importing the app counts neither for nor against the handler
LATE_SECONDS = 1.0  # between the cancelling of a handler and the end of a child whose handler goes on
FIELDS = ("source", "event_type", "delivery_id", "attempts", "received_epoch", "method", "target", "headers")

log = get_logger()


class Suspects:
    """One at a time, beside the workers."""

    def __init__(
        self,
        app: str,
        database: Database,
        *,
        content_bytes_max: int,
        timeout_seconds: Callable[[Choice], float],
        ready: Callable[[Claimed], Awaitable[Choice | Outcome]],
        finish: Callable[[Claimed, Outcome], None],
        conclude: Callable[[Claimed, Ending | Cut | Saved], None],
        seal: Callable[[Claimed], Seal],
    ) -> None:
        self._app = app
        self._database = database
        self._content_bytes_max = content_bytes_max
        self._timeout_seconds = timeout_seconds
        self._ready = ready
        self._finish = finish
        self._conclude = conclude
        self._seal = seal
        self._queue: deque[Claimed] = deque()
        self._arrived = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._current: Claimed | None = None
        self._cut: Cut | None = None

    def put(self, claimed: Claimed) -> None:
        self._queue.append(claimed)
        self._arrived.set()

    def take_back(self) -> list[Claimed]:
        rest = list(self._queue)
        self._queue.clear()
        return rest

    @property
    def running(self) -> bool:
        return self._current is not None

    def lose(self) -> None:
        if self._current is not None and self._current.lost:
            self._end("lost")

    def kill(self) -> None:
        self._end("stopping")

    def _end(self, why: Cut) -> None:
        self._cut = why
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def keep_trying(self) -> None:
        """Try whoever arrives; never returns."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                self._current, self._cut = self._queue.popleft(), None
                ended = await self._try(self._current)
                claimed, self._current = self._current, None
                if isinstance(ended, Outcome):
                    self._finish(claimed, ended)
                else:
                    self._conclude(claimed, self._cut or ended)

    async def _try(self, claimed: Claimed) -> Ending | Cut | Saved | Outcome:
        """How its run ended, or what became of it without one."""
        try:
            ready = await self._ready(claimed)
            if isinstance(ready, Outcome):
                return ready
            if ready.fault is not None:
                return rejected(ready.fault)
            log.warning("suspect.tried_alone", id=str(claimed.id), attempt=claimed.row["attempts"])
            ended = await self.alone(claimed, self._told(claimed, ready))
        except (Unavailable, OSError) as error:
            log.warning("suspect.untried", id=str(claimed.id), reason=str(error))
            return "unready"
        if ended == "unready":
            log.warning("suspect.untried", id=str(claimed.id), reason="no connection for its handler")
        return ended

    def _told(self, claimed: Claimed, choice: Choice) -> dict[str, Any]:
        """What its child is told beside the event: for a handler with a connection, the way to the database."""
        told: dict[str, Any] = {
            "timeout_seconds": self._timeout_seconds(choice), "content_bytes_max": self._content_bytes_max,
        }  # fmt: skip
        if choice.handler.wants_connection:
            told |= {"database": self._database.url, "allow_unsafe": self._database.allow_unsafe}
            told["seal"] = self._seal(claimed)._asdict() | {"event_id": str(claimed.id)}
        return told

    async def alone(self, claimed: Claimed, told: dict[str, Any]) -> Ending | Cut | Saved:
        """Run it in a child process of its own. Raises OSError where none can be started."""
        timeout_seconds = told["timeout_seconds"]
        # A file, not a pipe: all of it is there when the child has ended, whoever else has it open.
        with tempfile.TemporaryFile() as answer:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "processor.running.suspects", self._app, str(answer.fileno()),
                stdin=asyncio.subprocess.PIPE, stdout=sys.stderr, pass_fds=[answer.fileno()], start_new_session=True,
            )  # fmt: skip
            try:
                async with asyncio.timeout(0 if self._cut else START_SECONDS + timeout_seconds + LATE_SECONDS):
                    await self._process.communicate(_packed(claimed, told))
            except TimeoutError:
                return timed_out(timeout_seconds)
            finally:
                if self._process.returncode is None:
                    self._process.kill()
                    await self._process.wait()
            return _unpacked(answer)


def _packed(claimed: Claimed, told: Mapping[str, Any]) -> bytes:
    row, body = claimed.row, claimed.event.body if claimed.event is not None else b""
    shown = {name: row[name] for name in FIELDS} | {"id": str(claimed.id), "body": base64.b64encode(body).decode()}
    return orjson.dumps(shown | dict(told))


def _unpacked(answer: IO[bytes]) -> Ending | Cut | Saved:
    answer.seek(0)
    try:
        told = orjson.loads(answer.read())
    except orjson.JSONDecodeError:  # it died before it had said all
        return HOLDER_DIED
    if isinstance(told, dict):
        return Ending(**told)
    word: Cut | Saved = told
    return word


def main(app: str, answer_fd: int) -> None:
    """The child: one event from stdin, what became of its run to `answer_fd`."""
    os.set_inheritable(answer_fd, False)
    told = orjson.loads(sys.stdin.buffer.read())
    row = {name: told[name] for name in FIELDS} | {"id": UUID(told["id"])}
    event = Event(row, base64.b64decode(told["body"]), told["content_bytes_max"])
    timeout_seconds = told["timeout_seconds"]
    turn = threading.Lock()

    def answer(became: Ending | Cut | Saved) -> NoReturn:
        turn.acquire()  # never given back: the first to come ends the process
        with os.fdopen(answer_fd, "wb") as file:
            said = became if isinstance(became, str) else asdict(replace(became, answer=None))
            file.write(orjson.dumps(said))
        os._exit(0)

    try:
        choice = load(app).find(event)
    except AppError as error:
        answer(ended_with(error))
    if choice is None:
        answer(Ending("raised", "its handler is gone from the app"))
    if choice.fault is not None:
        answer(rejected(choice.fault))
    if choice.handler.wants_connection != ("seal" in told):
        answer(Ending("raised", "its handler has changed in the app"))
    # For a thread that nothing can cancel, and a coroutine that goes on after it was.
    late = threading.Timer(timeout_seconds + LATE_SECONDS, answer, [timed_out(timeout_seconds)])
    if choice.handler.wants_connection:
        asyncio.run(_run_connected(choice, event, told, late, answer))
    late.start()
    answer(_run(choice, event, timeout_seconds))


def _run(choice: Choice, event: Event, timeout_seconds: float) -> Ending:
    if not choice.handler.is_async:
        return call(choice, event)
    return asyncio.run(_run_async(choice, event, timeout_seconds, None))


async def _run_connected(
    choice: Choice, event: Event, told: dict[str, Any], late: threading.Timer, answer: Callable[..., NoReturn]
) -> None:
    """In a transaction that settles the event, as in the processor."""
    transactions = Transactions(Database(told["database"], allow_unsafe=told["allow_unsafe"]), 1)
    try:
        transaction = await transactions.begin(told["timeout_seconds"])
    except Unavailable:
        answer("unready")
    late.start()
    ended = await _run_async(choice, event, told["timeout_seconds"], transaction.connection)
    late.cancel()
    answer(await transaction.end(ended, Seal(**told["seal"])._replace(event_id=event.id)))


async def _run_async(choice: Choice, event: Event, timeout_seconds: float, connection: Any) -> Ending:
    limit = asyncio.timeout(timeout_seconds)
    try:
        async with limit:
            ending = ended_by(await choice.handler.call(event, choice.variables, connection))
    except BaseException as error:  # noqa: BLE001 - whatever user code raises is that event's failure
        ending = ended_with(error)
    return timed_out(timeout_seconds) if limit.expired() else ending


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
