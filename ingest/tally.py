"""What the receiver counts: for Prometheus, and for one line in the log every ten seconds."""

from functools import partial

from structlog import get_logger

from chassis.metrics import CollectorRegistry, Counter, Folded, Gauge
from ingest.batch import Lane
from ingest.refusal import Refusal

log = get_logger()


class Tally:
    """Counts stored and refused requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._folded = Folded()
        self._stored = Counter("hookd_received", "Webhooks committed and answered", ["source"], registry=registry)
        self._bytes = Counter("hookd_received_bytes", "Bytes of their bodies", registry=registry)
        self._refused = Counter("hookd_refused", "Requests turned away", ["status", "reason"], registry=registry)
        self._registry = registry
        self._new: dict[str, int] = {}
        self._new_bytes = 0
        self._stored_since = 0
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
        # Plain numbers here, on the hot path; Prometheus gets them once a second.
        label = self._folded(source)
        self._new[label] = self._new.get(label, 0) + 1
        self._new_bytes += size

    def publish(self) -> None:
        """Hand what was counted to Prometheus. To be called every second or so."""
        for label, count in self._new.items():
            self._stored.labels(label).inc(count)
            self._stored_since += count
        self._bytes.inc(self._new_bytes)
        self._new, self._new_bytes = {}, 0

    def refused(self, why: Refusal) -> None:
        self._refused.labels(str(why.status), why.slug).inc()
        self._refused_since[why.slug] = self._refused_since.get(why.slug, 0) + 1
        if self._refused_since[why.slug] == 1:  # the first of a kind is told at once, the rest in the summary
            log.warning("webhook.refused", status=why.status, reason=why.message)

    def summarize(self) -> None:
        """Log what happened since the last summary, if anything did."""
        self.publish()
        if self._stored_since or self._refused_since:
            log.info(
                "ingest.summary",
                stored=self._stored_since,
                refused=sum(self._refused_since.values()),
                **self._refused_since,
            )
        self._stored_since, self._refused_since = 0, {}
