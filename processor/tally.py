"""What the processor counts: for Prometheus, and for one line in the log every ten seconds."""

from collections import Counter as Counted
from collections.abc import Sequence

from structlog import get_logger

from chassis.metrics import CollectorRegistry, Counter, Folded, Gauge
from processor.outcome import Outcome
from processor.store import Claimed, Settlement

LINES_MAX = 20  # failures told one by one between two summaries; a flood of them is a number

log = get_logger()


class Tally:
    """Counts settled events."""

    def __init__(self, registry: CollectorRegistry, folded: Folded) -> None:
        self.folded = folded
        self._registry = registry
        self._settled = Counter(
            "hookd_settled", "Events by what became of them", ["source", "outcome"], registry=registry
        )
        self.since = Counted[str]()
        self.total = Counted[str]()
        self._lines = 0

    def watch(self, name: str, meaning: str, function: object) -> None:
        """Show a figure that is read when asked for."""
        Gauge(name, meaning, registry=self._registry).set_function(function)  # type: ignore[arg-type]

    def settled(self, settlements: Sequence[Settlement]) -> None:
        for (label, kind), count in Counted((each.label, kind_of(each.outcome)) for each in settlements).items():
            self._settled.labels(label, kind).inc(count)
            self.since[kind] += count
            self.total[kind] += count
        for each in settlements:
            if (kind := kind_of(each.outcome)) in ("failed", "retried"):
                self._tell(each.claimed, each.outcome, kind)

    def _tell(self, claimed: Claimed, outcome: Outcome, kind: str) -> None:
        self._lines += 1
        if self._lines > LINES_MAX:
            return
        row = claimed.row
        facts = {"id": str(claimed.id), "source": row["source"], "attempt": row["attempts"], "reason": outcome.reason}
        if kind == "failed":
            log.error("event.failed", **facts)
        else:
            log.warning("event.retried", **facts, again_in_seconds=round(outcome.delay))

    def summarize(self) -> None:
        """Log what happened since the last summary, if anything did."""
        if self.since:
            log.info("processor.summary", **self.since)
        self.since, self._lines = Counted(), 0


def kind_of(outcome: Outcome) -> str:
    """What became of an event, in a word."""
    if outcome.status != "new":
        return outcome.status
    return "retried" if outcome.attempted else "handed_back"
