"""Which handler takes an event: exactly one, the most specific."""

from collections.abc import Iterable

from processor.handlers import ANY, Handler


class DispatchError(Exception):
    """Handlers that contradict each other; one line for each pair."""


class Dispatch:
    """The handlers of an app, by what they take."""

    def __init__(self, handlers: Iterable[Handler]) -> None:
        """Raises DispatchError where two handlers take exactly the same events."""
        self.handlers = tuple(handlers)
        self._by_interest: dict[tuple[str, str | None], Handler] = {}
        clashes = []
        for handler in self.handlers:
            first = self._by_interest.setdefault((handler.source, handler.event_type), handler)
            if first is not handler:
                clashes.append(f"{first.place} and {handler.place} both take {_interest(handler)}")
        if clashes:
            raise DispatchError("\n".join(clashes))
        self._sources = {handler.source for handler in self.handlers}

    def find(self, source: str, event_type: str | None) -> Handler | None:
        """The handler of an event: the source by name before any source, its type by name before any type."""
        get = self._by_interest.get
        return get((source, event_type)) or get((source, None)) or get((ANY, event_type)) or get((ANY, None))

    def knows(self, source: str) -> bool:
        """Whether some handler takes events of this source, be it of another type."""
        return source in self._sources or ANY in self._sources


def _interest(handler: Handler) -> str:
    what = f"event {handler.event_type!r}" if handler.event_type else "every event"
    return f"{what} of {'every source' if handler.source == ANY else repr(handler.source)}"
