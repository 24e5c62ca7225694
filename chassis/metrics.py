"""Prometheus, on loopback; and the rule that keeps labels few."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from chassis.logs import get_logger

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

NAMES_MAX = 100  # anyone may invent source names: labels and counters beyond these are one, `other`
OTHER = "other"

TRY_SECONDS = 5.0

log = get_logger()


@dataclass(frozen=True)
class Metric:
    """A figure and its values, one for each combination of `labels`; a Prometheus counter's name gains `_total`."""

    kind: Literal["counter", "gauge"]
    name: str
    meaning: str
    values: Mapping[Any, float]  # keyed by tuples of the labels' values
    labels: tuple[str, ...] = ()


Collect: TypeAlias = Callable[[], Iterable[Metric]]


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


async def publish(first_port: int, slot: int, collect: Collect, *, try_seconds: float = TRY_SECONDS) -> None:
    """Answer scrapes on 127.0.0.1:(first_port + slot) from a thread of its own; 0 as first port: nowhere.

    `collect` is called in that thread. While the port is taken (by the worker this one replaces, say) it is tried
    again: metrics are no reason to stop.
    """
    if not first_port:
        return
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 - `--once` publishes nothing

    registry = CollectorRegistry()
    registry.register(_Collector(collect))
    told = False
    while True:
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


class _Collector:
    def __init__(self, collect: Collect) -> None:
        self._collect = collect

    def collect(self) -> "Iterator[Family]":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - as above

        families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for metric in self._collect():
            family = families[metric.kind](metric.name, metric.meaning, labels=metric.labels)
            for labels, value in metric.values.items():
                family.add_metric(labels, value)
            yield family
