"""hookd status: how it stands."""

import asyncio

import click

from chassis.database import Unavailable
from hookd import show, standing
from hookd.configuration import consult
from hookd.store import Standing, Store

REFRESH_SECONDS = 1.0

EPILOG = """\b
Examples:
  hookd status
  hookd status --watch
  hookd status --json | jq .total.failed
"""


@click.command(epilog=EPILOG)
@click.option("--json", "is_json", is_flag=True, help="One JSON object; with --watch one a second.")
@click.option("--watch", is_flag=True, help="Go on, refreshed each second, until Ctrl-C.")
def command(is_json: bool, watch: bool) -> None:
    """How it stands: events by source and state, the oldest that waits, the last failures, maintenance.

    Settled events are counted by counters, those still new one by one up to 100000: nothing reads history.
    """
    if not watch:
        show_once(consult("status", lambda store: store.standing()), is_json=is_json)
        return
    drawn = show.is_terminal() and not is_json
    try:
        consult("status", keep_drawing if drawn else lambda store: keep_printing(store, is_json=is_json))
    except KeyboardInterrupt:
        return


def show_once(found: Standing, *, is_json: bool) -> None:
    if is_json:
        show.as_json(standing.as_json(found))
    else:
        show.out(*standing.in_words(found))


async def keep_printing(store: Store, *, is_json: bool) -> None:
    show_once(await store.standing(), is_json=is_json)
    while True:
        await asyncio.sleep(REFRESH_SECONDS)
        try:
            show_once(await store.standing(), is_json=is_json)
        except Unavailable as error:
            if is_json:
                show.as_json({"error": str(error)})
            else:
                click.echo(error, err=True)


async def keep_drawing(store: Store) -> None:
    from rich.live import Live  # noqa: PLC0415 - only a terminal pays for it

    parts = list(standing.in_words(await store.standing()))
    with Live(show.rich_parts(*parts), auto_refresh=False) as live:
        live.refresh()
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                parts = list(standing.in_words(await store.standing()))
                live.update(show.rich_parts(*parts), refresh=True)
            except Unavailable as error:
                live.update(show.rich_parts(*parts, f"\n{error}"), refresh=True)
