"""What becomes of an event when its run has ended: processed, failed, again later, or handed back."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from processor.handling.declare import RETRY_SECONDS_MAX, Reject, Retry
from processor.outcome import (
    CLAIMS_MAX,
    DIED,
    HANDED_BACK_SECONDS,
    HOLDER_DIED,
    JITTER,
    PROCESSED,
    RETURNED,
    UNREADY_SECONDS,
    WAITS,
    Ending,
    Outcome,
    back_off,
    conclude,
    ended_with,
    gave_up,
    handed_back,
    interrupted,
    timed_out,
    unhandled,
    unready,
)
from protocol.storable import REASON_CHARACTERS_MAX, TRACEBACK_CHARACTERS_MAX

ATTEMPTS_MAX = 10


def exactly(low: float, high: float) -> float:
    return (low + high) / 2


def least(low: float, high: float) -> float:
    return low


def most(low: float, high: float) -> float:
    return high


def raised(error: BaseException) -> Ending:
    """How a run ends that raises this."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - as a run would
        return ended_with(caught)


def is_storable(text: str, characters_max: int) -> bool:
    return len(text) <= characters_max and "\0" not in text and text == text.encode(errors="replace").decode()


def test_a_handler_that_returned_processed_its_event() -> None:
    """Return = processed, whatever the attempt, and without a reason."""
    for attempts in (1, ATTEMPTS_MAX, ATTEMPTS_MAX + 1):
        assert conclude(RETURNED, attempts, ATTEMPTS_MAX) == PROCESSED
    assert (PROCESSED.status, PROCESSED.reason, PROCESSED.refund) == ("processed", None, 0)


def test_the_schedule_of_retries() -> None:
    """Ten attempts, with waits of about 0, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h before each."""
    minute, hour = 60, 3600
    waits = [back_off(attempts, exactly) for attempts in range(ATTEMPTS_MAX)]
    assert waits == [
        0, 5, 5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour
    ]  # fmt: skip


@pytest.mark.parametrize("attempts", range(len(WAITS)))
def test_jitter_is_a_fifth_either_way(attempts: int) -> None:
    """Each wait varies by up to 20 %, so that what failed together does not come again together."""
    assert back_off(attempts, least) == pytest.approx(WAITS[attempts] * 0.8)
    assert back_off(attempts, most) == pytest.approx(WAITS[attempts] * 1.2)
    assert WAITS[attempts] * 0.8 <= back_off(attempts) <= WAITS[attempts] * 1.2


@given(st.integers(0, 10_000))
def test_waits_end_at_a_day(attempts: int) -> None:
    """However many attempts are allowed, no wait is longer than a day and its jitter."""
    assert 0 <= back_off(attempts) <= 24 * 3600 * 1.2


@pytest.mark.parametrize("attempts", [1, ATTEMPTS_MAX - 1])
def test_any_other_exception_is_tried_again(attempts: int) -> None:
    """Any other exception is a failed attempt: again by the schedule, with the failure's last line as the reason."""
    outcome = conclude(raised(KeyError("repository")), attempts, ATTEMPTS_MAX, exactly)
    assert (outcome.status, outcome.reason) == ("new", "KeyError: 'repository'")
    assert (outcome.delay, outcome.refund) == (WAITS[attempts], 0)
    assert outcome.traceback is not None
    assert outcome.traceback.startswith("Traceback (most recent call last):")


def test_the_last_attempt_fails_the_event() -> None:
    """With the last attempt the event has failed; its reason says after how many, and why."""
    outcome = conclude(raised(RuntimeError("broken")), ATTEMPTS_MAX, ATTEMPTS_MAX)
    assert (outcome.status, outcome.reason) == ("failed", "gave up after 10 attempts: RuntimeError: broken")
    assert outcome.refund == 0


@pytest.mark.parametrize(("after", "waits"), [(30, 30.0), (0, 0.0), (0.5, 0.5), (RETRY_SECONDS_MAX, 604_800.0)])
def test_retry_sets_its_own_wait(after: float, waits: float) -> None:
    """`raise hookd.Retry("why", after=30)` = again in 30 seconds, without jitter; it counts as an attempt."""
    outcome = conclude(raised(Retry("not yet", after=after)), 1, ATTEMPTS_MAX)
    assert (outcome.status, outcome.reason, outcome.delay, outcome.refund) == ("new", "not yet", waits, 0)


@given(st.floats(allow_nan=False) | st.integers(-(10**300), 10**300))
@example(math.inf)
@example(-math.inf)
@example(-0.001)
@example(RETRY_SECONDS_MAX + 0.001)
def test_a_wait_is_cut_to_a_week(after: float) -> None:
    """What a handler asks for is cut to 0 … 7 days: a time that has passed is now, and infinity is a week."""
    outcome = conclude(raised(Retry(after=after)), 1, ATTEMPTS_MAX)
    assert 0 <= outcome.delay <= 7 * 86_400
    if 0 <= after <= 7 * 86_400:
        assert outcome.delay == after


def test_not_a_number_is_refused() -> None:
    """A wait that is not a number is refused where it is written."""
    with pytest.raises(ValueError, match="expected seconds"):
        Retry("why", after=math.nan)


def test_retry_without_a_time_goes_by_the_schedule() -> None:
    """`raise hookd.Retry("why")` waits as any failure does; without words it gets some."""
    outcome = conclude(raised(Retry("not yet")), 2, ATTEMPTS_MAX, exactly)
    assert (outcome.reason, outcome.delay) == ("not yet", WAITS[2])
    assert conclude(raised(Retry()), 1, ATTEMPTS_MAX).reason == "asked for another attempt"


def test_retry_on_the_last_attempt_fails() -> None:
    """A retry counts as an attempt: after the last one the event has failed."""
    outcome = conclude(raised(Retry("not yet", after=5)), ATTEMPTS_MAX, ATTEMPTS_MAX)
    assert (outcome.status, outcome.reason) == ("failed", "gave up after 10 attempts: not yet")


@pytest.mark.parametrize("attempts", [1, ATTEMPTS_MAX])
def test_reject_fails_at_once(attempts: int) -> None:
    """`raise hookd.Reject("why")` = failed now, at the first attempt as at the last, for that reason."""
    outcome = conclude(raised(Reject("no such customer")), attempts, ATTEMPTS_MAX)
    assert (outcome.status, outcome.reason) == ("failed", "no such customer")
    assert conclude(raised(Reject()), attempts, ATTEMPTS_MAX).reason == "rejected by its handler"


def test_a_run_that_was_cut_off_for_its_time_is_a_failed_attempt() -> None:
    """A time-out counts as any failed attempt does."""
    outcome = conclude(timed_out(30.0004), 1, ATTEMPTS_MAX, exactly)
    assert (outcome.status, outcome.reason, outcome.delay) == ("new", "timed out after 30 s", WAITS[1])


def test_a_child_that_died_is_a_failed_attempt() -> None:
    """A suspect that killed its child is tried again until its attempts are used up; then the reason says so."""
    assert conclude(HOLDER_DIED, 3, ATTEMPTS_MAX).reason == DIED
    outcome = conclude(HOLDER_DIED, ATTEMPTS_MAX, ATTEMPTS_MAX)
    assert outcome.reason == "gave up after 10 attempts: the processor died while handling it"


def test_gave_up() -> None:
    """A claim that finds the attempts used up settles without running, and gives back the attempt it counted."""
    outcome = gave_up(11, DIED)
    assert outcome.status == "failed"
    assert outcome.reason == "gave up after 10 attempts: the processor died while handling it"
    assert (outcome.refund, outcome.attempted) == (1, True)


def test_gave_up_for_fewer_attempts_are_allowed_now() -> None:
    """Where the attempts were lowered meanwhile, the reason is the last failure: no death is made up."""
    outcome = gave_up(8, "KeyError: 'repository'")
    assert (outcome.reason, outcome.attempted) == ("gave up after 7 attempts: KeyError: 'repository'", False)
    assert gave_up(8, None).reason == "gave up after 7 attempts: handed over too often"


@pytest.mark.parametrize(("claims", "refund"), [(1, 1), (CLAIMS_MAX - 1, 1), (CLAIMS_MAX, 0), (CLAIMS_MAX + 1, 0)])
def test_handed_back_with_its_attempt(claims: int, refund: int) -> None:
    """A run that is cut off gets its attempt back, up to a hundred claims: nothing loops for ever."""
    outcome = interrupted(claims)
    assert (outcome.status, outcome.refund, outcome.delay, outcome.attempted) == ("new", refund, 0.0, False)


def test_handed_back_without_a_run() -> None:
    """What was not begun gets its attempt back, however often it is handed over."""
    assert handed_back(2.0) == Outcome("new", None, 2.0, refund=1, attempted=False)


@pytest.mark.parametrize("claims", [1, CLAIMS_MAX - 1])
def test_not_ready(claims: int) -> None:
    """Where what a run needs is not to be had, it is tried again in a second, and no attempt counts."""
    assert unready(claims, 1) == handed_back(UNREADY_SECONDS)


def test_not_ready_for_long() -> None:
    """After a hundred claims each is an attempt, by the schedule: it fails after days, not after minutes."""
    outcomes = [unready(CLAIMS_MAX + attempt, attempt) for attempt in range(1, ATTEMPTS_MAX)]
    assert {(each.status, each.refund, each.attempted) for each in outcomes} == {("new", 0, False)}
    assert sum(each.delay for each in outcomes) >= sum(WAITS) * (1 - JITTER) > 2 * 24 * 3600


def test_no_handler_for_its_type() -> None:
    """Handlers for the source but none for this type: processed, and the reason tells which type was ignored."""
    outcome = unhandled("github", "star", 0.0, source_is_known=True, kept_seconds=600)
    assert (outcome.status, outcome.reason) == ("processed", "ignored: no handler for event type 'star'")
    assert not outcome.attempted


def test_no_handler_for_its_source_yet() -> None:
    """No handler for the source at all: handed back for half a minute until it is ten minutes old, then failed."""
    young = unhandled("stripe", None, 599.9, source_is_known=False, kept_seconds=600)
    assert young == handed_back(HANDED_BACK_SECONDS)
    old = unhandled("stripe", None, 600.0, source_is_known=False, kept_seconds=600)
    assert (old.status, old.reason) == ("failed", "no handler for source 'stripe'")


@given(st.text(st.characters()), st.integers(1, ATTEMPTS_MAX), st.sampled_from([ValueError, Retry, Reject, OSError]))
@example("\0", 1, ValueError)
@example("\ud800", ATTEMPTS_MAX, Retry)
@example("a" * (REASON_CHARACTERS_MAX - 1) + "\U0001f600", 1, Reject)
@example("x" * 1_000_000, 1, ValueError)
@example("\ud83d\ude00" * REASON_CHARACTERS_MAX, ATTEMPTS_MAX, ValueError)
def test_whatever_is_raised_can_be_stored(text: str, attempts: int, kind: type[Exception]) -> None:
    """Whatever a handler raises, the reason is storable and at most 500 characters, the traceback at most 16 Ki."""
    outcome = conclude(raised(kind(text)), attempts, ATTEMPTS_MAX)
    assert outcome.reason is not None
    assert is_storable(outcome.reason, REASON_CHARACTERS_MAX)
    assert is_storable(outcome.traceback or "", TRACEBACK_CHARACTERS_MAX)


@given(st.text(st.characters(), max_size=300), st.floats(0, 1200), st.booleans())
def test_whatever_is_unhandled_can_be_stored(name: str, age_seconds: float, known: bool) -> None:
    """Also the names a sender chose are cut and cleaned in a reason."""
    outcome = unhandled(name, name, age_seconds, source_is_known=known, kept_seconds=600)
    assert is_storable(outcome.reason or "", REASON_CHARACTERS_MAX)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class MuteRetry(Retry):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class HastyRetry(Retry):
    def __init__(self) -> None:  # leaves out Retry's own
        pass


@pytest.mark.parametrize("kind", [Mute, MuteRetry, HastyRetry])
def test_an_exception_that_cannot_be_told(kind: type[Exception]) -> None:
    """An exception whose own words fail, or that was made badly, is a failed attempt like any other."""
    outcome = conclude(raised(kind()), 1, ATTEMPTS_MAX)
    assert outcome.status == "new"
    assert outcome.reason is not None
    assert kind.__name__ in outcome.reason
