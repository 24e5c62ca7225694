"""What the receiver counts: for Prometheus, and for one line in the log every ten seconds."""

from collections.abc import Iterator
from functools import partial

from structlog import get_logger

from chassis.metrics import Collector, CollectorRegistry, Counter, CounterMetricFamily, Folded, Gauge
from ingest.batch import Lane
from ingest.refusal import Refusal

log = get_logger()


class Tally(Collector):
    """Counts stored and refused requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._folded = Folded()
        # Plain numbers on the hot path; Prometheus reads them when it scrapes.
        self._stored: dict[str, int] = {}
        self._bytes = 0
        registry.register(self)
        self._refused = Counter("hookd_refused", "Requests turned away", ["status", "reason"], registry=registry)
        self._registry = registry
        self._summarized = 0
        self._refused_since: dict[str, int] = {}

    def watch(self, lanes: dict[str, Lane]) -> None:
        """Show the lanes' depth and work."""
        waiting = Gauge(
            "hookd_commit_waiting", "Requests that wait for their commit", ["lane"], registry=self._registry
        )
        batches = Gauge("hookd_commit_batches", "Batches committed since the start", ["lane"], registry=self._registry)
        for name, lane in lanes.items():
            waiting.labels(name).set_function(lane.__len__)
            batches.labels(name).set_function(partial(getattr, lane, "batches_written"))

    def stored(self, source: str, size: int) -> None:
        label = self._folded(source)
        self._stored[label] = self._stored.get(label, 0) + 1
        self._bytes += size

    def collect(self) -> Iterator[CounterMetricFamily]:
        """What prometheus-client asks of a collector, from its own thread."""
        received = CounterMetricFamily("hookd_received", "Webhooks committed and answered", labels=["source"])
        for label, count in self._stored.copy().items():
            received.add_metric([label], count)
        yield received
        yield CounterMetricFamily("hookd_received_bytes", "Bytes of their bodies", self._bytes)

    def refused(self, why: Refusal) -> None:
        self._refused.labels(str(why.status), why.slug).inc()
        self._refused_since[why.slug] = self._refused_since.get(why.slug, 0) + 1
        if self._refused_since[why.slug] == 1:  # the first of a kind is told at once, the rest in the summary
            log.warning("webhook.refused", status=why.status, reason=why.message)

    def summarize(self) -> None:
        """Log what happened since the last summary, if anything did."""
        stored = sum(self._stored.values())
        if stored > self._summarized or self._refused_since:
            log.info(
                "ingest.summary",
                stored=stored - self._summarized,
                refused=sum(self._refused_since.values()),
                **self._refused_since,
            )
        self._summarized, self._refused_since = stored, {}
