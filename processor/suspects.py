"""Rows whose holder died twice: each runs alone, in a child process, where a payload that kills is alone."""

import asyncio
import base64
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from structlog import get_logger

from processor.app import load
from processor.event import Event
from processor.handlers import Handler
from processor.outcome import HOLDER_DIED, RETURNED, Ending, ended_with, timed_out
from processor.store import Claimed
from processor.workers import Cut, call

START_SECONDS = 30.0  # importing the app counts neither for nor against the handler
FIELDS = ("source", "event_type", "delivery_id", "attempts", "method", "target", "headers")

log = get_logger()


class Suspects:
    """One at a time, beside the workers."""

    def __init__(
        self,
        app: str,
        *,
        timeout_seconds: float,
        body: Callable[[Claimed], Any],
        conclude: Callable[[Claimed, Ending | Cut], None],
    ) -> None:
        self._app = app
        self._timeout_seconds = timeout_seconds
        self._body = body
        self._conclude = conclude
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

    def lose(self, gone: set[UUID]) -> None:
        if self._current is not None and self._current.id in gone:
            self._end("lost")

    def kill(self) -> None:
        self._end("stopping")

    def _end(self, why: Cut) -> None:
        self._cut = why
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def keep_trying(self) -> None:
        """Try whoever arrives; never returns."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._queue:
                self._current, self._cut = self._queue.popleft(), None
                log.warning("suspect.tried_alone", id=str(self._current.id), attempt=self._current.row["attempts"])
                ending = await self.alone(self._current)
                claimed, self._current = self._current, None
                self._conclude(claimed, self._cut or ending)

    async def alone(self, claimed: Claimed) -> Ending:
        """Run it in a child process of its own."""
        ours, theirs = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "processor.suspects", self._app, str(theirs),
                stdin=asyncio.subprocess.PIPE, stdout=sys.stderr, pass_fds=[theirs], start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(theirs)
        with os.fdopen(ours, "rb") as answer:
            try:
                async with asyncio.timeout(START_SECONDS + self._timeout_seconds):
                    await self._process.communicate(_packed(claimed, await self._body(claimed), self._timeout_seconds))
            except TimeoutError:
                self._end("timeout")
                self._cut = None
                await self._process.wait()
                return timed_out(self._timeout_seconds)
            finally:
                if self._process.returncode is None:
                    self._end("stopping")
                    await self._process.wait()
            said = await asyncio.to_thread(answer.read)
        self._process = None
        return Ending(**orjson.loads(said)) if said else HOLDER_DIED


def _packed(claimed: Claimed, body: bytes, timeout_seconds: float) -> bytes:
    row = claimed.row
    return orjson.dumps(
        {name: row[name] for name in FIELDS}
        | {"id": str(claimed.id), "received_at": row["received_at"], "timeout_seconds": timeout_seconds}
        | {"body": base64.b64encode(body).decode()}
    )


def main(app: str, answer_fd: int) -> None:
    """The child: one event from stdin, its ending to `answer_fd`."""
    told = orjson.loads(sys.stdin.buffer.read())
    row = told | {"id": UUID(told["id"]), "received_at": datetime.fromisoformat(told["received_at"])}
    handler = load(app).find(row["source"], row["event_type"])
    assert handler is not None
    ending = _run(handler, Event(row, base64.b64decode(told["body"])), told["timeout_seconds"])
    with os.fdopen(answer_fd, "wb") as answer:
        answer.write(orjson.dumps(asdict(ending)))
    os._exit(0)


def _run(handler: Handler, event: Event, timeout_seconds: float) -> Ending:
    if not handler.is_async:
        return call(handler, event)

    async def run() -> Ending:
        try:
            async with asyncio.timeout(timeout_seconds):
                await handler.function(event)
        except TimeoutError:
            return timed_out(timeout_seconds)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever user code raises is that event's failure
            return ended_with(error)
        return RETURNED

    return asyncio.run(run())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
