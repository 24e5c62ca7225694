"""hookd events: the list."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import click

from hookd import show
from hookd.configuration import consult
from hookd.options import Since, Text
from hookd.store import STATES, Store, TooSlow, Wanted

EPILOG = """\b
Examples:
  hookd events --status failed --since 1h
  hookd events --source github --type push --json | jq -r .id
  hookd events --since 2026-01-31T12:00+01:00       (UTC where no zone is named)

\b
Status: processed, failed, or new, which is one of
  waiting    for its first attempt         retrying   for its next one
  running    held by a processor           parked     until somebody decides
"""
JSON_COLUMNS = (
    "id",
    "status",
    "state",
    "source",
    "event_type",
    "delivery_id",
    "received_at",
    "finished_at",
    "due_at",
    "held_by",
    "attempts",
    "claims",
    "reason",
    "verdict",
    "method",
    "target",
    "remote",
)


@click.command(epilog=EPILOG)
@click.option("--status", type=click.Choice(list(STATES)), help="Only those that stand so.")
@click.option("--source", type=Text(), help="Only this source's.")
@click.option("--type", "event_type", type=Text(), help="Only of this type, as the sender names it.")
@click.option("--since", type=Since(), help="Only those received since: 30m, 1h, 2d, or a date or time.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="How many.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object a line.")
def command(
    status: str | None,
    source: str | None,
    event_type: str | None,
    since: timedelta | datetime | None,
    limit: int,
    is_json: bool,
) -> None:
    """List events, the newest first. --since reads only the days it needs."""
    wanted = Wanted(status, source, event_type)

    async def read(store: Store) -> list[Any]:
        try:
            return await store.events(replace(wanted, least=await store.least_id(since)), limit)
        except TooSlow as error:
            raise click.ClickException(f"{error}: name a shorter time with --since") from None

    rows = consult("events", read)
    if is_json:
        for row in rows:
            show.as_json(as_json(row))
    elif rows:
        show.out(table(rows))
    else:
        click.echo("no such event" if since or wanted != Wanted() else "no event yet", err=True)


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: show.json_ready(row[name]) for name in JSON_COLUMNS}


def table(rows: Sequence[Mapping[str, Any]]) -> show.Table:
    return show.Table(
        ("id", "received", "source", "type", "status", "attempts", "reason"),
        [
            (
                event_id,
                show.age(row["received_at"], row["now"]),
                row["source"],
                row["event_type"] or "",
                state(row),
                str(row["attempts"]),
                row["reason"] or "",
            )
            for event_id, row in zip(show.ids([row["id"] for row in rows]), rows, strict=True)
        ],
        right=("attempts",),
        whole=("id", "received", "status"),
    )


def state(row: Mapping[str, Any]) -> str:
    """How it stands, in words; a lease that has ended tells of a processor that has."""
    words: str = row["state"]
    if words == "retrying":
        return f"retrying {_when(row['due_at'], row['now'])}"
    if words == "running" and row["due_at"] < row["now"]:
        return "running (lease ended)"
    return words


def _when(due: datetime, now: datetime) -> str:
    if not show.is_terminal():
        return f"at {show.iso(due)}"
    return "now" if due <= now else f"in {show.duration((due - now).total_seconds())}"
