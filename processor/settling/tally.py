"""What the processor counts: for Prometheus, and for one line in the log every ten seconds."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from chassis.logs import get_logger
from chassis.metrics import Folded, Metric
from processor.holding.claimed import Claimed
from processor.outcome import Outcome
from processor.settling.store import Settlement

LINES_MAX = 20  # failures told one by one between two summaries; a flood of them is a number

log = get_logger()


class Tally:
    """Counts settled events. `name`: of who settles them."""

    def __init__(self, folded: Folded, name: str = "processor") -> None:
        self.folded = folded
        self._name = name
        self.total = Counter[str]()
        self._settled = Counter[tuple[str, str]]()
        self._since = Counter[str]()
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._lines = 0

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Show a figure that is read when asked for."""
        self._gauges.append((name, meaning, value))

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now; may be called from another thread."""
        labels = ("source", "outcome")
        yield Metric("counter", "hookd_settled", "Events by what became of them", self._settled.copy(), labels)
        for name, meaning, value in self._gauges:
            yield Metric("gauge", name, meaning, {(): value()})

    def settled(self, settlements: Sequence[Settlement]) -> None:
        counts = Counter((each.label, kind_of(each.outcome)) for each in settlements)
        self._settled.update(counts)
        for (_, kind), count in counts.items():
            self._since[kind] += count
            self.total[kind] += count
        for each in settlements:
            if each.outcome.reason is not None or log.debugging:
                self._tell(each.claimed, each.outcome)

    def _tell(self, claimed: Claimed, outcome: Outcome) -> None:
        row, kind = claimed.row, kind_of(outcome)
        facts = {"id": str(claimed.id), "source": row["source"], "attempt": row["attempts"], "reason": outcome.reason}
        self._lines += kind in ("failed", "retried")
        if kind not in ("failed", "retried") or self._lines > LINES_MAX:
            if log.debugging:
                log.debug(f"event.{kind}", **facts)
        elif kind == "failed":
            log.error("event.failed", **facts)
        else:
            log.warning("event.retried", **facts, again_in_seconds=round(outcome.delay))

    def summarize(self) -> None:
        """Log what happened since the last summary, if anything did."""
        if self._since:
            log.info(f"{self._name}.summary", **self._since)
        self._since, self._lines = Counter(), 0


def kind_of(outcome: Outcome) -> str:
    """What became of an event, in a word."""
    if outcome.status != "new":
        return outcome.status
    return "retried" if outcome.attempted else "handed_back"
