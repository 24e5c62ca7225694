"""Prometheus, on loopback; and the rule that keeps labels few."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

NAMES_MAX = 100  # anyone may invent source names: labels and counters beyond these are one, `other`
OTHER = "other"

__all__ = ["CollectorRegistry", "Counter", "Folded", "Gauge", "Histogram", "serve"]


class Folded:
    """The first hundred names as they are, every later one as `other`."""

    def __init__(self, names: Iterable[str] = (), names_max: int = NAMES_MAX) -> None:
        self.names_max = names_max
        self._names = set(list(names)[:names_max])

    def __call__(self, name: str) -> str:
        if name in self._names:
            return name
        if len(self._names) >= self.names_max:
            return OTHER
        self._names.add(name)
        return name


def serve(port: int, registry: CollectorRegistry) -> None:
    """Answer scrapes on 127.0.0.1:port from a thread of its own. Raises OSError where the port is taken."""
    start_http_server(port, addr="127.0.0.1", registry=registry)
