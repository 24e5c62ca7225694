"""hookd replay: settled events become new again."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import click

from hookd import show
from hookd.commands import events
from hookd.commands.event import find
from hookd.configuration import consult
from hookd.options import Prefix, Since, Text
from hookd.store import IDS_A_BATCH, REPLAY_SECONDS, Store, Wanted

SHOWN = 5

EPILOG = """\b
Examples:
  hookd replay 019b6d2c-7c1e
  hookd replay --status failed --source github --since 2d --dry-run
  hookd replay --status processed --reason 'no handler for event type'
"""


@dataclass
class Tally:
    """What there was to do, and how much of it is done."""

    matched: int = 0
    replayed: int = 0
    already_new: Sequence[UUID] = ()
    shown: Sequence[Any] = ()


@click.command(epilog=EPILOG)
@click.argument("ids", metavar="[ID]...", nargs=-1, type=Prefix())
@click.option("--status", type=click.Choice(("failed", "processed")), help="All that stand so, and match the rest.")
@click.option("--source", type=Text(), help="Only this source's.")
@click.option("--type", "event_type", type=Text(), help="Only of this type, as the sender names it.")
@click.option("--reason", type=Text(), help="Only those whose reason contains this.")
@click.option("--since", type=Since(), help="Only those received since: 30m, 1h, 2d, or a date or time.")
@click.option("--dry-run", is_flag=True, help="Say which, change nothing.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(
    ids: tuple[str, ...],
    status: str | None,
    source: str | None,
    event_type: str | None,
    reason: str | None,
    since: timedelta | datetime | None,
    dry_run: bool,
    is_json: bool,
) -> int:
    """Set settled events back to new, with no attempt made: those named, or with --status all that match.

    Only what was settled before the command began: an event that fails again meanwhile is not replayed twice. ID may be
    the beginning of one, if it is the only.
    """
    wanted = Wanted(status, source, event_type, reason)
    if bool(ids) == bool(status) or (ids and (since or wanted != Wanted())):
        raise click.UsageError("name events by their ids, or all that match by --status failed or --status processed")
    tally = Tally()
    try:
        consult("replay", lambda store: work(store, ids, wanted, since, tally, dry_run=dry_run), REPLAY_SECONDS)
    except BaseException:
        if tally.replayed:
            click.echo(f"replayed at least {tally.replayed:,} of {tally.matched:,} events before this:", err=True)
        raise
    report(tally, dry_run=dry_run, is_json=is_json)
    return 1 if ids and not tally.matched else 0


async def work(
    store: Store,
    ids: Sequence[str],
    wanted: Wanted,
    since: timedelta | datetime | None,
    tally: Tally,
    *,
    dry_run: bool,
) -> None:
    began = await store.now()
    if ids:
        found = tuple({await find(store, each) for each in ids})
        tally.already_new = [row["id"] for row in await store.events(Wanted("new", ids=found), len(found))]
        wanted = Wanted(ids=found)
    wanted = replace(wanted, least=await store.least_id(since), settled_before=began)
    tally.matched = await store.count(wanted)
    if dry_run:
        tally.shown = await store.events(wanted, SHOWN)
        return
    with progress(tally.matched) as advance:
        async for batch in store.batches(wanted):
            tally.replayed += len(await store.reset(batch, began))
            advance(len(batch))
    if tally.replayed:
        await store.hint()


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal, for more than one batch."""
    if total <= IDS_A_BATCH or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - not paid for by those who see none
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replaying", total=total)
        yield lambda count: bar.advance(task, count)


def report(tally: Tally, *, dry_run: bool, is_json: bool) -> None:
    if is_json:
        words = {"dry_run": dry_run, "matched": tally.matched, "replayed": tally.replayed}
        show.as_json({**words, "already_new": tally.already_new})
        return
    for each in tally.already_new:
        click.echo(f"{each} is new already: it will be run without a replay", err=True)
    if not dry_run:
        click.echo(f"replayed {counted(tally.replayed)}")
        return
    click.echo(f"would replay {counted(tally.matched)}")
    if tally.shown:
        show.out(events.table(tally.shown))
    if tally.matched > len(tally.shown):
        click.echo(f"… and {tally.matched - len(tally.shown):,} more")


def counted(number: int) -> str:
    return "1 event" if number == 1 else f"{number:,} events"
