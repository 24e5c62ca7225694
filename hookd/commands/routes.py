"""hookd routes: which handler takes what, in the order in which they are asked."""

from collections.abc import Sequence
from typing import Any

import click

from hookd import show
from hookd.apps import loaded, place_of
from hookd.configuration import configure
from hookd.options import app_option
from processor.handling.declare import ANY
from processor.handling.dispatch import Route
from processor.settings import ProcessorSettings
from processor.trial import Terms

EPILOG = """\b
Examples:
  hookd routes --app handlers.py
  hookd routes --app handlers.py --app mycompany.webhooks --json | jq -r .handler
"""
HEADINGS = ("takes", "methods", "filter", "handler", "place", "retries", "time-out", "with")


@click.command(epilog=EPILOG)
@app_option
@click.option("--json", "is_json", is_flag=True, help="One JSON object a line.")
def command(app: str | None, is_json: bool) -> None:
    """List what is taken by whom: paths first, then sources and types. Of those that would take the same event, the
    first has it.

    Retries and time-outs are those of the settings where a handler says nothing.
    """
    configuration = configure(app=app)
    routes = loaded(configuration.processor.app).routes()
    if is_json:
        for route in routes:
            show.as_json(as_json(route, configuration.processor))
    else:
        show.out(table(routes, configuration.processor))


def table(routes: Sequence[Route], settings: ProcessorSettings) -> show.Table:
    rows = [
        (
            takes(route),
            ", ".join(sorted(route.handler.rule.methods)) if route.handler.rule else "any",
            route.handler.where.expression if route.handler.where else "",
            route.handler.name,
            place_of(route.handler),
            retries(route, settings),
            f"{Terms.of(route.handler, settings).timeout_seconds:g} s",
            ", ".join(word for word, is_so in extras(route).items() if is_so),
        )
        for route in routes
    ]
    return show.Table(HEADINGS, rows, whole=("takes", "place"), wrapped=("filter", "retries"))


def takes(route: Route) -> str:
    """A path, or a source and a type."""
    handler, event_type = route
    if handler.rule is not None:
        return handler.rule.text
    source = "any source" if handler.source == ANY else handler.source
    return source if event_type is None else f"{source} {event_type}"


def retries(route: Route, settings: ProcessorSettings) -> str:
    """How many, or the delays before each."""
    waits = route.handler.waits
    if waits is None:
        return str(Terms.of(route.handler, settings).attempts_max - 1)
    return "after " + ", ".join(map(show.duration, waits[1:])) if waits[1:] else "0"


def extras(route: Route) -> dict[str, bool]:
    return {"reply": route.handler.replies, "connection": route.handler.wants_connection}


def as_json(route: Route, settings: ProcessorSettings) -> dict[str, Any]:
    """`methods`: null where the source's own count; `delays`: seconds before each retry, null as the settings say."""
    handler, event_type = route
    terms = Terms.of(handler, settings)
    file, _, line = handler.place.rpartition(":")
    return {
        "rule": handler.rule.text if handler.rule else None,
        "source": handler.source,
        "event_type": event_type,
        "methods": sorted(handler.rule.methods) if handler.rule else None,
        "where": handler.where.expression if handler.where else None,
        "handler": handler.name,
        "file": file or None,
        "line": int(line) if line.isdecimal() else None,
        "is_async": handler.is_async,
        "retries": terms.attempts_max - 1,
        "delays": handler.waits[1:] if handler.waits is not None else None,
        "timeout_seconds": terms.timeout_seconds,
        **extras(route),
    }
