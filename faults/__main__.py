"""`python -m faults`: break things, and look whether the promises hold.

Each case has a PostgreSQL and hookd processes of its own and ends with the invariant: every 2xx is in the table exactly
once, byte for byte; every row ends processed or failed; each processed row was handled, or its reason says why not.
"""

import argparse
import asyncio
import json
import secrets
import sys
from pathlib import Path

from faults import catalogue, report
from faults.run import Result, Stage, stage


def main() -> int:
    arguments = parse()
    chosen = [each for each in catalogue.CASES if not arguments.case or each.name in arguments.case]
    if arguments.short:
        chosen = [each for each in chosen if each.is_short]
    if arguments.list:
        for each in chosen:
            print(f"{each.name:40} {each.broken}")
        return 0
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(2**32)
    print(f"seed {seed}", flush=True)
    with stage(arguments.folder) as place:
        work = selftest(place, chosen, seed) if arguments.selftest else run_all(place, chosen, seed, arguments.sabotage)
        results = asyncio.run(work)
    if arguments.json:
        arguments.json.write_text(json.dumps([result.as_dict() for result in results], indent=1))
    print("\n".join(report.table(results)))
    if arguments.write:
        report.write(results, seed)
    return int(not all(result.is_as_it_should_be for result in results))


def parse() -> argparse.Namespace:
    names = [each.name for each in catalogue.CASES]
    parser = argparse.ArgumentParser(
        prog="python -m faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m faults postgres-killed --seed 7",
    )  # fmt: skip
    parser.add_argument("case", nargs="*", metavar="CASE", help="its name, see --list; default: all")
    parser.add_argument("--list", action="store_true", help="name the cases, and run none")
    parser.add_argument("--short", action="store_true", help="only those that `make test` runs")
    parser.add_argument("--seed", type=int, help="what is random is so from here; printed, to run it again")
    parser.add_argument("--selftest", action="store_true", help="run each case on hookd sabotaged: it must notice")
    parser.add_argument("--sabotage", metavar="NAME", help="run on hookd sabotaged so")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every result there")
    parser.add_argument("--write", action="store_true", help="write docs/faults.md")
    parser.add_argument("--folder", type=Path, help="where the servers write; default: the temporary folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.case) - set(names):
        parser.error(f"no such case: {', '.join(sorted(unknown))}; see --list")
    return arguments


async def run_all(place: Stage, chosen: list[catalogue.Case], seed: int, sabotage: str | None) -> list[Result]:
    results = []
    for each in chosen:
        results.append(await place.run(each, seed, sabotage))
        print(report.line(results[-1]), flush=True)
    return results


async def selftest(place: Stage, chosen: list[catalogue.Case], seed: int) -> list[Result]:
    """Each case with each sabotage that it must catch: one that breaks nothing is told, not passed."""
    results = []
    for each in chosen:
        for sabotage in each.caught:
            results.append(await place.run(each, seed, sabotage))
            print(report.line(results[-1]), flush=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
