"""What the receiver counts: for Prometheus, and for one line in the log every ten seconds."""

from collections import Counter
from collections.abc import Iterator, Mapping

from chassis.logs import get_logger
from chassis.metrics import Folded, Metric
from ingest.batch import Lane
from ingest.keeping import Outcome
from ingest.refusal import Refusal

log = get_logger()


class Tally:
    """Counts stored and refused requests: plain numbers on the hot path, shown when somebody asks."""

    def __init__(self, lanes: Mapping[str, Lane], outcomes: "Counter[Outcome]") -> None:
        self._lanes = lanes
        self._folded = Folded()
        self._stored: dict[str, int] = {}
        self._bytes = 0
        self._refused = Counter[tuple[str, str]]()
        self._refused_since = Counter[str]()
        self._summarized = 0
        self._handshakes = Counter[tuple[str, str]]()
        self._outcomes = outcomes

    def stored(self, source: str, size: int) -> None:
        label = self._folded(source)
        self._stored[label] = self._stored.get(label, 0) + 1
        self._bytes += size

    def handshake(self, source: str, status: int) -> None:
        self._handshakes[self._folded(source), str(status)] += 1
        if log.debugging:
            log.debug("handshake.answered", source=source, status=status)

    def refused(self, why: Refusal) -> None:
        self._refused[str(why.status), why.slug] += 1
        self._refused_since[why.slug] += 1
        if self._refused_since[why.slug] == 1:  # the first of a kind is told at once, the rest in the summary
            log.warning("webhook.refused", status=why.status, reason=why.message)

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now; may be called from another thread."""
        stored = {(label,): count for label, count in self._stored.copy().items()}
        yield Metric("counter", "hookd_received", "Webhooks committed and answered", stored, ("source",))
        yield Metric("counter", "hookd_received_bytes", "Bytes of their bodies", {(): self._bytes})
        refused = ("status", "reason")
        yield Metric("counter", "hookd_refused", "Requests turned away", self._refused.copy(), refused)
        greeted = ("source", "status")
        yield Metric("counter", "hookd_handshakes", "Handshakes answered", self._handshakes.copy(), greeted)
        outcomes = {(outcome,): count for outcome, count in self._outcomes.copy().items()}
        yield Metric("counter", "hookd_refused_kept", "Refused at the edge: kept, or why not", outcomes, ("outcome",))
        waiting = {(name,): len(lane) for name, lane in self._lanes.items()}
        yield Metric("gauge", "hookd_commit_waiting", "Requests that wait for their commit", waiting, ("lane",))
        batches = {(name,): lane.batches_written for name, lane in self._lanes.items()}
        yield Metric("counter", "hookd_commit_batches", "Batches committed", batches, ("lane",))

    def summarize(self) -> None:
        """Log what happened since the last summary, if anything did."""
        stored = sum(self._stored.values())
        if stored > self._summarized or self._refused_since:
            log.info(
                "ingest.summary",
                stored=stored - self._summarized,
                refused=self._refused_since.total(),
                **self._refused_since,
            )
        self._summarized, self._refused_since = stored, Counter()
