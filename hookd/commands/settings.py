"""hookd settings: each with its value, origin and meaning."""

import textwrap
from collections.abc import Iterable, Iterator

import click

from chassis.settings import Origin, describe
from hookd import show
from hookd.configuration import read

EPILOG = """\b
Examples:
  hookd settings
  HOOKD_RETENTION_DAYS=90 hookd settings --json | jq .HOOKD_RETENTION_DAYS

\b
The first that has a setting wins:
  1. the environment      HOOKD_PORT=8000
  2. .env                 HOOKD_PORT=8000
  3. hookd.toml           port = 8000
"""


@click.command(epilog=EPILOG)
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(is_json: bool) -> None:
    """Each setting with its value (*** for a secret), its origin and its meaning. All faults are reported together."""
    configuration = read()
    groups = (configuration.common, configuration.ingest, configuration.processor)
    settings = list(describe({type(group): group for group in groups}))
    if is_json:
        show.as_json(
            {each.name: {"value": each.value, "origin": each.origin, "meaning": each.meaning} for each in settings}
        )
    elif width := show.narrow():
        show.out(*below_each_other(settings, width))
    else:
        rows = [(each.name, each.value, each.origin, each.meaning) for each in settings]
        show.out(show.Table(("setting", "value", "origin", "meaning"), rows, whole=("setting",), wrapped=("meaning",)))


def below_each_other(settings: Iterable[Origin], width: int) -> Iterator[str]:
    """Each on a line, its meaning below it: four columns would have no room."""
    for each in settings:
        value = f" = {show.cell(each.value)}" if each.value else ""
        yield f"{each.name}{value} ({each.origin})"
        yield textwrap.fill(each.meaning, width, initial_indent="    ", subsequent_indent="    ")
