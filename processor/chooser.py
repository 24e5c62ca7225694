"""Which handler a held event has, and what that says of its attempts and its time."""

from collections.abc import Mapping
from typing import Any

from processor import outcome
from processor.handling.dispatch import UNDECIDED, Choice, Dispatch, Undecided
from processor.handling.event import Event
from processor.handling.handler import Handler
from processor.holding.claimed import Claimed
from processor.outcome import PROCESSED, RETURNED, WAITS, Ending, Outcome
from processor.settings import ProcessorSettings


class Chooser:
    """Decides for each event once, as soon as all is there that its filters ask for."""

    def __init__(self, dispatch: Dispatch, settings: ProcessorSettings) -> None:
        self._dispatch = dispatch
        self._settings = settings
        self.attempts_most = max(settings.attempts_max, dispatch.attempts_max)
        timeouts = (self._timeout_seconds(each) for each in dispatch.handlers)
        self.timeout_seconds_min = min(timeouts, default=settings.handler_timeout_seconds)

    def outlook(self, claimed: Claimed) -> Choice | Undecided | None:
        """Its handler, as far as its row tells: None where it has none, UNDECIDED while a filter is to be asked.

        No body is looked into, so that a thousand rows can be looked at in a row.
        """
        if claimed.choice is UNDECIDED and not claimed.unsifted:
            claimed.choice = self._dispatch.choose(claimed.row, None)
        return claimed.choice

    def choice(self, claimed: Claimed) -> Choice | None:
        """The handler of one whose event is there; None where it has none."""
        if isinstance(claimed.choice, Undecided):
            assert claimed.event is not None
            claimed.choice = self._dispatch.choose(claimed.row, claimed.event)
        assert not isinstance(claimed.choice, Undecided)
        return claimed.choice

    def complete(self, claimed: Claimed, body: bytes) -> Event:
        """The event of a row that all is known of."""
        claimed.event = Event(claimed.row, body, self._settings.content_bytes_max)
        return claimed.event

    def attempts_max(self, claimed: Claimed) -> int:
        """How often it may be tried; while its handler is not known, as often as the most patient one's events."""
        choice = self.outlook(claimed)
        if isinstance(choice, Undecided):
            return self.attempts_most
        if choice is None or choice.handler.attempts_max is None:
            return self._settings.attempts_max
        return choice.handler.attempts_max

    def is_used_up(self, claimed: Claimed) -> bool:
        """Whether it was tried often enough before it was claimed this time."""
        attempts: int = claimed.row["attempts"]
        return attempts > 1 and attempts > self.attempts_max(claimed)

    def timeout_seconds(self, choice: Choice) -> float:
        return self._timeout_seconds(choice.handler)

    def _timeout_seconds(self, handler: Handler) -> float:
        if handler.timeout_seconds is not None:
            return handler.timeout_seconds
        settings = self._settings
        return settings.transaction_timeout_seconds if handler.wants_connection else settings.handler_timeout_seconds

    def conclude(self, claimed: Claimed, ending: Ending) -> Outcome:
        """What becomes of it after a run that ended so."""
        if ending is RETURNED:
            return PROCESSED
        choice = claimed.choice
        waits = choice.handler.waits if isinstance(choice, Choice) else None
        return outcome.conclude(ending, claimed.row["attempts"], self.attempts_max(claimed), waits=waits or WAITS)

    def unhandled(self, claimed: Claimed) -> Outcome:
        """What becomes of it when nobody takes it."""
        row: Mapping[str, Any] = claimed.row
        return outcome.unhandled(
            row["source"],
            row["event_type"],
            row["age_seconds"],
            source_is_known=self._dispatch.knows(row["source"]),
            kept_seconds=self._settings.unhandled_seconds,
        )
