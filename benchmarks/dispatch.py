"""What it costs an event to find its handler among many."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from benchmarks.bench import Bench
from benchmarks.drain import MICROSECONDS
from benchmarks.report import Figure, Section, Target
from hookd.testing import id_at
from processor.handling import declare
from processor.handling.declare import on, webhook
from processor.handling.dispatch import Dispatch
from processor.handling.event import Event
from processor.handling.handler import made

HANDLERS = 200
TIMES = 2000
BODY_BYTES = 1024
TEN_FILTERS = "the last of ten filters of a source"
METHOD = (
    "An app of {handlers} handlers of that kind, and an event of 1 KiB that one of them takes; each found {times:,}"
    " times, in CPU time. Another path each time: one that was never seen before. What a filter asks for is decoded for"
    " it, which the handler then need not do again."
)

Row = dict[str, Any]


async def measure(bench: Bench) -> Section:
    section = Section("Dispatch", METHOD.format(handlers=HANDLERS, times=TIMES))
    for name, (dispatch, targets) in kinds().items():
        values = [cost_us(dispatch, targets) for _ in range(bench.scale.rounds)]
        section.figures.append(Figure(name, "µs", values, None if name == TEN_FILTERS else Target("≤", 25)))
        bench.say(f"dispatch: {name}: {min(values):.1f} µs")
    return section


def kinds() -> dict[str, tuple[Dispatch, Iterator[str]]]:
    """An app of each kind, and the targets of the events that it is asked about."""
    last, names = HANDLERS - 1, range(HANDLERS)
    by_source = [on(f"source-{each % 20}", event=f"type-{each}") for each in names]
    by_pattern = [on("source-0", event=f"type-{each}*") for each in names]
    fixed = [webhook(f"/source-{each % 20}/hooks/{each}") for each in names]
    variable = [webhook(f"/source-{each % 20}/hooks-{each}/<name>/<int:number>") for each in names]
    filters = [on(f"source-{each}", where="payload.kind == 'wanted' && headers.\"x-kind\"") for each in names]
    in_turn = [on("source-0", where=f"payload.number == `{each}`") for each in range(10)]
    again = f"/source-{last % 20}/hooks-{last}/some-name/1"
    another = (f"/source-{last % 20}/hooks-{last}/some-name/{number}" for number in itertools.count())
    return {
        "by source and type": (app(by_source), itertools.repeat(f"/source-{last % 20}")),
        "by source and a pattern of types": (app(by_pattern), itertools.repeat("/source-0")),
        "by a rule": (app(fixed), itertools.repeat(f"/source-{last % 20}/hooks/{last}")),
        "by a rule with variables": (app(variable), itertools.repeat(again)),
        "by a rule with variables, another path each time": (app(variable), another),
        "by source, with a filter": (app(filters), itertools.repeat(f"/source-{last}")),
        TEN_FILTERS: (app(in_turn), itertools.repeat("/source-0")),
    }


def app(decorators: list[Callable[..., Any]]) -> Dispatch:
    before = len(declare.declared)
    for decorator in decorators:
        decorator(taken)
    handlers, faults = made(declare.declared[before:])
    del declare.declared[before:]
    if faults:
        raise ValueError(faults[0])
    return Dispatch(handlers)


async def taken(event: Event, **variables: Any) -> None: ...


def cost_us(dispatch: Dispatch, targets: Iterator[str]) -> float:
    """Raises ValueError where nobody takes an event."""
    rows = [row_of(target) for target, _ in zip(targets, range(TIMES), strict=False)]
    events = [Event(row, BODY) for row in rows]
    began = time.process_time()
    for row, event in zip(rows, events, strict=True):
        if dispatch.choose(row, event) is None:
            raise ValueError(f"nobody takes {row['target']}")
    return (time.process_time() - began) / TIMES * MICROSECONDS


BODY = json.dumps({"kind": "wanted", "number": 9, "more": ["0123456789"] * 70}).encode().ljust(BODY_BYTES)
NOW = datetime.now(UTC)


def row_of(target: str) -> Row:
    return {
        "id": id_at(NOW),
        "source": target.split("/")[1],
        "event_type": f"type-{HANDLERS - 1}",
        "delivery_id": None,
        "received_epoch": NOW.timestamp(),
        "attempts": 1,
        "method": "POST",
        "target": target,
        "headers": json.dumps([["Host", "hookd"], ["Content-Type", "application/json"], ["X-Kind", "some"]]),
    }
