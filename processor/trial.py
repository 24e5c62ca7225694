"""One run of a handler beside every queue, as a worker would: what would become of the event is told, not done."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from processor.chooser import Chooser
from processor.handling.dispatch import Choice, Dispatch
from processor.handling.event import Event
from processor.handling.handler import Handler
from processor.outcome import RETURNED, WAITS, Ending, Outcome, conclude, ended_by, ended_with, timed_out
from processor.settings import ProcessorSettings


class Terms(NamedTuple):
    """What a handler says of its runs, else the settings."""

    timeout_seconds: float
    attempts_max: int
    waits: tuple[float, ...]

    @classmethod
    def of(cls, handler: Handler, settings: ProcessorSettings) -> "Terms":
        timeout_seconds = Chooser(Dispatch(()), settings).timeout_seconds(Choice(handler, {}))
        return cls(timeout_seconds, handler.attempts_max or settings.attempts_max, handler.waits or WAITS)


@dataclass(frozen=True, slots=True)
class Trial:
    """What would become of the event, and what the handler returned or raised."""

    outcome: Outcome
    value: Any = None
    error: BaseException | None = None
    ending = RETURNED


async def run(
    choice: Choice,
    event: Event,
    terms: Terms,
    connection: Any = None,
    transaction: AbstractAsyncContextManager[Any] | None = None,
) -> Trial:
    """Run the handler to its end, or to its time-out; a thread is not waited for any longer.

    `transaction`: entered before the handler is called, left before its run is judged.
    """
    if choice.fault is not None:
        return _judged(event, terms, Ending("reject", choice.fault))
    value: Any = None
    error: BaseException | None = None
    began, limit = time.monotonic(), asyncio.timeout(terms.timeout_seconds)
    try:
        async with limit, transaction or nullcontext():
            if choice.handler.is_async:
                value = await choice.handler.call(event, choice.variables, connection)
            else:
                value, error = await _in_thread(lambda: choice.handler.call_in_thread(event, choice.variables))
            ending = ended_by(value)
    except asyncio.CancelledError as why:
        if _is_cancelled():
            raise
        error = why  # it cancelled itself
    except BaseException as why:  # noqa: BLE001 - whatever user code raises is that event's failure
        error = why
    if limit.expired():
        return _judged(event, terms, timed_out(time.monotonic() - began), error=error)
    if error is not None:
        return _judged(event, terms, ended_with(error), error=error)
    return _judged(event, terms, ending, value)


def _judged(event: Event, terms: Terms, ending: Ending, value: Any = None, error: BaseException | None = None) -> Trial:
    outcome = conclude(ending, event.attempt, terms.attempts_max, _middle, terms.waits)
    return Trial(outcome, value, error)


def _middle(low: float, high: float) -> float:
    """No jitter: who tries twice is told the same twice."""
    return (low + high) / 2


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _in_thread(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What it returned, or raised, in a thread that a process need not wait for when it ends."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def tell(told: tuple[Any, BaseException | None]) -> None:
        if not ended.done():
            ended.set_result(told)

    def run() -> None:
        told: tuple[Any, BaseException | None]
        try:
            told = work(), None
        except BaseException as error:  # noqa: BLE001 - whatever user code raises is that event's failure
            told = None, error
        with contextlib.suppress(RuntimeError):  # nobody waits for it any more, and the loop is closed
            loop.call_soon_threadsafe(tell, told)

    threading.Thread(target=run, name="handler", daemon=True).start()
    return await ended
