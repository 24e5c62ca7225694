"""What becomes of an event when its run has ended. Pure: decided here, done by the store."""

import random
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Literal, NamedTuple, TypeAlias

from processor.handling.declare import Aborted, Reject, Retry
from protocol import storable
from protocol.challenge import Answer

# Waits before each attempt, in seconds: three quick tries for a hiccup, then three days in all, for an outage over a
# weekend. (Standard Webhooks' own schedule, spec/standard-webhooks.md, "Deliverability and reliability".)
WAITS = (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
JITTER = 0.2
HANDED_BACK_SECONDS = 30.0  # until a processor that has the handler looks again
UNREADY_SECONDS = 1.0  # until a row is tried again that could not be made ready
CLAIMS_MAX = 100  # after so many claims what was cut off, or not ready, counts: nothing loops for ever
DIED = "the processor died while handling it"

Jitter: TypeAlias = Callable[[float, float], float]
# Why a run did not come to an end of its own.
Cut: TypeAlias = Literal["timeout", "lost", "stopping", "unready"]
# What became of a run whose transaction settles its event itself: `unknown` whether it is committed.
Saved: TypeAlias = Literal["saved", "lost", "unknown"]


class Outcome(NamedTuple):
    """What the settle writes. `delay` in seconds, for a row that stays new; `refund`: attempts given back."""

    status: Literal["new", "processed", "failed"]
    reason: str | None = None
    delay: float = 0.0
    refund: int = 0
    traceback: str | None = None
    attempted: bool = True


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, in words that PostgreSQL can hold and that cross a process's border.

    `answer`: to its sender, of a handler that replies. (It stays in the process.)
    """

    kind: Literal["returned", "raised", "retry", "reject", "timed out", "died"]
    line: str = ""
    traceback: str = ""
    after: float | None = None
    answer: Answer | None = None


PROCESSED = Outcome("processed")
PROBED = Outcome("processed", "probe: no handler runs", attempted=False)
CONFIRMED = Outcome("processed", "confirmed the subscription", attempted=False)
RETURNED = Ending("returned")
HOLDER_DIED = Ending("died", DIED)


def ended_by(returned: object) -> Ending:
    """The ending of a run that returned. A refusal of the handler's own is told in the event's reason.

    Raises TypeError where the work is not done: what should have been awaited was returned, or a wrapper hid a `yield`.
    """
    if returned is None:
        return RETURNED
    if isinstance(returned, CoroutineType | GeneratorType | AsyncGeneratorType):
        raise _unbegun(returned)
    if not isinstance(returned, Answer):
        return RETURNED
    if returned.status < 400:
        return Ending("returned", answer=returned)
    # Who is told 5xx sends it again: of an event that failed, what comes then is no duplicate.
    return Ending("returned" if returned.status < 500 else "reject", f"answered {returned.status}", answer=returned)


def _unbegun(returned: object) -> TypeError:
    if isinstance(returned, CoroutineType):
        returned.close()  # else Python warns of it, wherever it happens to be found
    what = type(returned).__name__.replace("_", " ")
    return TypeError(f"its handler returned a {what}, which nobody runs")


def ended_with(error: BaseException) -> Ending:
    """The ending of a run that raised, whatever user code made of its exception."""
    try:
        return _ending(error)
    except Exception as worse:  # noqa: BLE001 - its own words raise, or a field is missing
        return Ending("raised", _reason(f"{type(error).__name__} (it cannot be told: {type(worse).__name__})"))


def _ending(error: BaseException) -> Ending:
    if isinstance(error, Retry):
        return Ending("retry", _reason(str(error)) or "asked for another attempt", after=error.after)
    if isinstance(error, Reject | Aborted):
        return Ending("reject", _reason(str(error)) or "rejected by its handler")
    line = traceback.format_exception_only(error)[-1].strip()
    trace = "".join(traceback.format_exception(error))
    return Ending("raised", _reason(line), storable.text(trace, storable.TRACEBACK_CHARACTERS_MAX))


def rejected(why: str) -> Ending:
    """The ending of a run that need not begin."""
    return Ending("reject", _reason(why))


def timed_out(seconds: float) -> Ending:
    return Ending("timed out", f"timed out after {seconds:.3g} s")


def conclude(
    ending: Ending,
    attempts: int,
    attempts_max: int,
    jitter: Jitter = random.uniform,
    waits: Sequence[float] = WAITS,
) -> Outcome:
    """What becomes of an event whose attempt number `attempts` ended so. `waits`: seconds before each attempt."""
    if ending is RETURNED or ending.kind == "returned":
        return PROCESSED if not ending.line else Outcome("processed", ending.line)
    line, trace = ending.line, ending.traceback or None
    if ending.kind == "reject":
        return Outcome("failed", line, traceback=trace)
    if attempts >= attempts_max:
        return Outcome("failed", _reason(f"gave up after {attempts} attempts: {line}"), traceback=trace)
    if ending.after is not None:
        return Outcome("new", line, ending.after, traceback=trace)
    return Outcome("new", line, back_off(attempts, jitter, waits), traceback=trace)


def back_off(attempts: int, jitter: Jitter = random.uniform, waits: Sequence[float] = WAITS) -> float:
    """Seconds to wait before the next attempt, when `attempts` have been made."""
    return waits[min(attempts, len(waits) - 1)] * jitter(1 - JITTER, 1 + JITTER)


def gave_up(attempts: int, reason: str | None) -> Outcome:
    """Claimed when its attempts were used up: its holder died on the last, or fewer are allowed now. Nothing is run."""
    why = reason or "handed over too often"
    return Outcome("failed", _reason(f"gave up after {attempts - 1} attempts: {why}"), refund=1, attempted=why == DIED)


def handed_back(delay: float = 0.0) -> Outcome:
    """Not run: another process may have it. However often that is, no attempt counts."""
    return Outcome("new", None, delay, refund=1, attempted=False)


def interrupted(claims: int) -> Outcome:
    """Its run was cut off by a shutdown: another process may have it, and the attempt does not count."""
    return Outcome("new", None, refund=1 if claims < CLAIMS_MAX else 0, attempted=False)


def unready(claims: int, attempts: int) -> Outcome:
    """What its run needs is not there: again in a second; where that goes on, as what fails is, which takes days."""
    if claims < CLAIMS_MAX:
        return handed_back(UNREADY_SECONDS)
    return Outcome("new", None, back_off(attempts), attempted=False)


def unhandled(
    source: str, event_type: str | None, age_seconds: float, *, source_is_known: bool, kept_seconds: float
) -> Outcome:
    """No handler takes it: not this type, or not this source (perhaps another processor's newer app does)."""
    if source_is_known:
        return Outcome("processed", _reason(f"ignored: no handler for event type {event_type!r}"), attempted=False)
    if age_seconds < kept_seconds:
        return handed_back(HANDED_BACK_SECONDS)
    return Outcome("failed", _reason(f"no handler for source {source!r}"), attempted=False)


def unverified(verdict: str) -> Outcome:
    """It failed a check: no handler is run."""
    return Outcome("failed", _reason(f"unverified: {verdict}"), attempted=False)


def duplicate(of: object) -> Outcome:
    """Another event of the same delivery is handled, or was: no handler is run."""
    return Outcome("processed", f"duplicate of {of}", attempted=False)


def _reason(text: str) -> str:
    return storable.text(text, storable.REASON_CHARACTERS_MAX)
