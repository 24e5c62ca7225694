"""Which handler takes an event: exactly one, the most specific."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from processor.handling.body import BodyError
from processor.handling.declare import ANY
from processor.handling.event import Event
from processor.handling.filters import FilterError
from processor.handling.handler import Handler, WrongHandlers
from processor.handling.rules import Rules

KNOWN_MAX = 10_000  # event types are the senders' words: what was found for them is forgotten beyond so many

Row = Mapping[str, Any]


class Choice(NamedTuple):
    """A handler, with the values of its rule's variables. `fault`: why its filter could not be asked."""

    handler: Handler
    variables: Mapping[str, Any]
    fault: str | None = None


class Route(NamedTuple):
    """What a handler takes: its rule's paths, or its source's events of one type (a pattern; None: of all)."""

    handler: Handler
    event_type: str | None = None


class Undecided:
    """A filter asks for the body, which is not there yet."""


UNDECIDED: Final = Undecided()
NOTHING: Mapping[str, Any] = {}


class Dispatch:
    """The handlers of an app, by what they take."""

    def __init__(self, handlers: Iterable[Handler]) -> None:
        """Raises WrongHandlers where two handlers take exactly the same events."""
        self.handlers = tuple(handlers)
        if clashes := list(_clashes(self.handlers)):
            raise WrongHandlers(clashes)
        self._rules = Rules(self.handlers)
        self._order = {handler: number for number, handler in enumerate(self.handlers)}
        self._by_source: dict[str, list[Handler]] = defaultdict(list)
        for handler in self.handlers:
            if handler.rule is None:
                self._by_source[handler.source].append(handler)
        self._known: dict[tuple[str, str | None], tuple[Choice, ...]] = {}
        self._sources = {handler.source for handler in self.handlers}
        self.attempts_max = max((handler.attempts_max or 0 for handler in self.handlers), default=0)
        self.has_replies = any(handler.replies for handler in self.handlers)

    def choose(self, row: Row, event: Event | None) -> Choice | Undecided | None:
        """Who takes it: a rule's handler first, then by source and type, of each those with a filter first.

        `event`: the row with its body, where it is there.
        """
        for choice in self.candidates(row["source"], row["event_type"], row["method"], row["target"]):
            if choice.handler.where is None:
                return choice
            if event is None:
                return UNDECIDED
            try:
                if choice.handler.where.takes(event):
                    return choice
            except (BodyError, FilterError) as error:
                return choice._replace(fault=f"where={choice.handler.where.expression!r}: {error}")
        return None

    def find(self, event: Event) -> Choice | None:
        """Who takes an event that is all there."""
        found = self.choose(
            {"source": event.source, "event_type": event.event_type, "method": event.method, "target": event.target},
            event,
        )
        assert not isinstance(found, Undecided)
        return found

    def candidates(self, source: str, event_type: str | None, method: str, target: str) -> Sequence[Choice]:
        """Whose it is, but for their filters; the most specific first."""
        known = self._known.get((source, event_type))
        if known is None:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            known = self._known[source, event_type] = self._declared_for(source, event_type)
        matches = self._rules.match(source, method, target)
        return (*(Choice(*match) for match in matches), *known) if matches else known

    def knows(self, source: str) -> bool:
        """Whether some handler takes events of this source, be it of another type."""
        return source in self._sources or ANY in self._sources

    def routes(self) -> list[Route]:
        """Who takes what; of those that would take the same event, the one that has it comes first."""
        return sorted(
            (Route(handler, each) for handler in self.handlers for each in handler.event_types or (None,)),
            key=self._precedence,
        )

    def _precedence(self, route: Route) -> tuple[Any, ...]:
        """Smaller is asked first; those that never meet are told apart by their names, for people's eyes."""
        handler, event_type = route
        path = self._rules.precedence(handler.rule) if handler.rule else []
        rank = self._rank(handler, -1 if event_type is None else _letters(event_type))
        return handler.rule is None, path, handler.source == ANY, handler.source, *rank

    def _declared_for(self, source: str, event_type: str | None) -> tuple[Choice, ...]:
        found = [
            (self._rank(handler, letters), handler)
            for handler in (*self._by_source.get(source, ()), *self._by_source.get(ANY, ()))
            if (letters := specificity(handler, event_type)) is not None
        ]
        found.sort(key=lambda each: each[0])
        return tuple(Choice(handler, NOTHING) for _, handler in found)

    def _rank(self, handler: Handler, letters: int) -> tuple[bool, int, bool, int]:
        """Smaller is more specific: the source by its name, the type by most letters, a filter, what came first."""
        return handler.source == ANY, -letters, handler.where is None, self._order[handler]


def specificity(handler: Handler, event_type: str | None) -> int | None:
    """How much of the type the handler names: all, some letters of it, nothing (-1); None: it takes others."""
    if not handler.event_types:
        return -1
    return max(
        (
            _letters(pattern)
            for pattern in handler.event_types
            if event_type is not None
            and (fnmatchcase(event_type, pattern) if is_pattern(pattern) else event_type == pattern)
        ),
        default=None,
    )


def _letters(pattern: str) -> int:
    return len(pattern) + (0 if is_pattern(pattern) else KNOWN_MAX)


def is_pattern(event_type: str) -> bool:
    return any(sign in event_type for sign in "*?[")


def _clashes(handlers: Sequence[Handler]) -> Iterable[str]:
    """Pairs that take exactly the same events, neither with a filter."""
    first: dict[object, Handler] = {}
    shared: dict[tuple[Handler, Handler], list[str | None]] = defaultdict(list)
    for handler in handlers:
        for interest in _interests(handler) if handler.where is None else ():
            other = first.setdefault(interest, handler)
            if other is not handler:
                shared[other, handler].append(interest[1])
    for (other, handler), what in shared.items():
        yield f"{other.place} and {handler.place} both take {_said(handler, what)}"


def _interests(handler: Handler) -> Iterable[tuple[str, str | None]]:
    if handler.rule is not None:
        return ((handler.rule.shape, method) for method in sorted(handler.rule.methods))
    return ((handler.source, each) for each in handler.event_types or (None,))


def _said(handler: Handler, what: Sequence[str | None]) -> str:
    """What both take: methods of a rule, or events of a source."""
    if handler.rule is not None:
        return f"{' and '.join(map(str, what))} {handler.rule.text}"
    events = " and ".join(f"event {each!r}" if each else "every event" for each in what)
    return f"{events} of {'every source' if handler.source == ANY else repr(handler.source)}"
