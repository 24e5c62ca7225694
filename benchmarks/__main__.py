"""`python -m benchmarks`: take the figures of docs/benchmarks.md, all of them or those that are named."""

import argparse
import asyncio
import dataclasses
import datetime
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from benchmarks import (
    dispatch,
    document,
    drain,
    effects,
    gate,
    growth,
    judging,
    latency,
    memory,
    plots,
    processors,
    profile,
    receiver,
    receivers,
    report,
    schema,
    soak,
    sources,
)
from benchmarks.bench import FULL, QUICK, Bench, Scale
from chassis.embedded import EmbeddedError
from rig import machine
from rig.postgres import Postgres, private_server
from rig.processes import BenchmarkError

Measure: TypeAlias = Callable[[Bench], Awaitable[report.Section]]
FIGURES: dict[str, Measure] = {
    "receiver": receiver.measure,
    "drain": drain.measure,
    "latency": latency.measure,
    "memory": memory.measure,
    "receivers": receivers.measure,
    "processors": processors.measure,
}
# Each an hour's part of its own, or asked for another purpose: taken when named.
OTHERS: dict[str, Measure] = {
    "growth": growth.measure,
    "soak": soak.measure,
    "profile": profile.measure,
    "schema": schema.measure,
    "gate": gate.measure,
    "judging": judging.measure,
    "dispatch": dispatch.measure,
    "sources": sources.measure,
    "effects": effects.measure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    if unknown := set(given.figures) - {*FIGURES, *OTHERS}:
        parser().error(f"no such figure: {', '.join(unknown)}")
    if sys.platform != "linux":
        print("the benchmarks read CPU time and memory from /proc: they run on Linux", file=sys.stderr)
        return 2
    for name in (signal.SIGINT, signal.SIGTERM):  # a shell's job in the background is born with SIGINT ignored
        signal.signal(name, signal.default_int_handler)
    try:
        with private_server(given.folder) as postgres:
            settings, sections = asyncio.run(take(postgres, scale_of(given), given.figures or list(FIGURES)))
    except (BenchmarkError, EmbeddedError) as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return publish(given, settings, sections)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = [*FIGURES, *OTHERS]
    parser.add_argument(
        "figures", nargs="*", metavar="FIGURE", help=f"{', '.join(names)}; default: {', '.join(FIGURES)}"
    )
    parser.add_argument("--quick", action="store_true", help="shorter runs, fewer rounds: to look, not to quote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument(
        "--folder", type=Path, help="where the private PostgreSQL writes; default: the temporary folder"
    )
    for field in dataclasses.fields(Scale):
        kind = float if field.type is float else int
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, help=argparse.SUPPRESS)
    return parser


def scale_of(given: argparse.Namespace) -> Scale:
    chosen = {field.name: getattr(given, field.name) for field in dataclasses.fields(Scale)}
    given_ones = {name: value for name, value in chosen.items() if value is not None}
    return dataclasses.replace(QUICK if given.quick else FULL, **given_ones)


async def take(postgres: Postgres, scale: Scale, names: Sequence[str]) -> tuple[dict[str, str], list[report.Section]]:
    """The machine, and a section for each name."""
    settings = {"date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"}
    settings |= {"load average at the start": machine.load_average()} | machine.settings(postgres.folder)
    settings["PostgreSQL"] = await postgres.prepare(scale.wal_segments)
    settings["rounds"] = f"{scale.rounds}, of {scale.seconds:g} s under load each"
    bench = Bench(postgres, scale)
    return settings, [await _section(bench, (FIGURES | OTHERS)[name]) for name in names]


async def _section(bench: Bench, measure: Measure) -> report.Section:
    others = machine.Others(os.getpid(), bench.postgres.pid)
    section = await measure(bench)
    section.notes.append(f"meanwhile other programs used {others.percent():.0f} % of the machine's processors")
    section.notes.append(f"taken at {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC")
    return section


def publish(given: argparse.Namespace, settings: dict[str, str], sections: Sequence[report.Section]) -> int:
    """Print, and write where asked to; the exit code: 1 when anything was wrong, or a figure of record was missed."""
    table = report.markdown(settings, sections)
    print(table)
    if given.json:
        given.json.write_text(json.dumps(report.as_json(settings, sections), indent=2) + "\n")
    if given.write:
        pictures = plots.draw(sections, document.FILE.parent)
        bodies = {each.title: report.body(each, pictures[each.title]) for each in sections}
        document.write(report.about(settings), bodies)
    wrong = any(section.wrong for section in sections)
    missed = any(section.missed for section in sections if section.title == gate.TITLE or scale_of(given) == FULL)
    return 1 if wrong or missed else 0


if __name__ == "__main__":
    sys.exit(main())
