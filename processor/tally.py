"""What the processor counts: for Prometheus, and for one line in the log every ten seconds."""

from structlog import get_logger

from chassis.metrics import CollectorRegistry, Counter, Folded, Gauge
from processor.outcome import Outcome
from processor.store import Claimed

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
        self._children: dict[tuple[str, str], Counter] = {}
        self.since: dict[str, int] = {}
        self.total: dict[str, int] = {}
        self._lines = 0

    def watch(self, name: str, meaning: str, function: object) -> None:
        """Show a figure that is read when asked for."""
        Gauge(name, meaning, registry=self._registry).set_function(function)  # type: ignore[arg-type]

    def settled(self, claimed: Claimed, outcome: Outcome) -> None:
        kind = outcome.status if outcome.status != "new" else "retried" if outcome.attempted else "handed_back"
        label = self.folded(claimed.row["source"])
        child = self._children.get((label, kind))
        if child is None:
            child = self._children[label, kind] = self._settled.labels(label, kind)
        child.inc()
        self.since[kind] = self.since.get(kind, 0) + 1
        self.total[kind] = self.total.get(kind, 0) + 1
        if kind in ("failed", "retried"):
            self._tell(claimed, outcome, kind)

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
        self.since, self._lines = {}, 0
