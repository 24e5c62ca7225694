"""Prometheus, on loopback; and the rule that keeps labels few."""

import asyncio
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from structlog import get_logger

NAMES_MAX = 100  # anyone may invent source names: labels and counters beyond these are one, `other`
OTHER = "other"

TRY_SECONDS = 5.0

__all__ = ["Collector", "CollectorRegistry", "Counter", "CounterMetricFamily", "Folded", "Gauge", "publish"]

log = get_logger()


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


async def publish(first_port: int, slot: int, registry: CollectorRegistry, *, try_seconds: float = TRY_SECONDS) -> None:
    """Answer scrapes on 127.0.0.1:(first_port + slot) from a thread of its own; 0 as first port: nowhere.

    While the port is taken (by the worker this one replaces, say) it is tried again: metrics are no reason to stop.
    """
    told = False
    while first_port:
        try:
            server, thread = start_http_server(first_port + slot, addr="127.0.0.1", registry=registry)
        except OSError as error:
            if not told:
                log.warning("metrics.unavailable", port=first_port + slot, reason=str(error))
            told = True
            await asyncio.sleep(try_seconds)
            continue
        try:
            await asyncio.Event().wait()
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
