"""hookd test: what a handler would make of a request, tried here and now, without HTTP and without a row."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

import click
import orjson
import uvloop

from chassis.database import FAILURES, Database
from hookd import show
from hookd.apps import loaded, place_of
from hookd.capture import Output, captured
from hookd.configuration import Configuration, configure, database_of
from hookd.crafting import Crafted, crafted
from hookd.options import Pair, Text, app_option
from hookd.testing import id_at
from processor import outcome, trial
from processor.effects.store import trial_transaction
from processor.handling.dispatch import Choice, Dispatch
from processor.handling.event import Event
from processor.handling.reasons import Passed, passed_by
from processor.outcome import Outcome
from processor.settings import ProcessorSettings
from processor.trial import Terms, Trial
from protocol import storable
from protocol.challenge import Answer
from protocol.providers import PROVIDERS

VALUE_CHARACTERS_MAX = 2000

EPILOG = """\b
Examples:
  hookd test --app handlers.py /github 'payload={"ref": "refs/heads/main"}'
  hookd test --source github --type push push.json
  hookd test --source github --type issues              (GitHub's sample)
  curl -s https://example.com/body | hookd test --source stripe -
  hookd test /deploy/lamp/7 @body.bin -H 'Content-Type: application/octet-stream'

\b
Of a request without a Content-Type it is guessed: JSON, a form with JSON in its first field,
else text. Nothing is verified, no row is made, and a handler's connection is rolled back.
"""


@click.command(epilog=EPILOG)
@click.argument("words", nargs=-1, metavar="/PATH [CONTENT | @FILE] | --source NAME [FILE]")
@click.option("--source", type=Text(), metavar="NAME", help="The sender; the body is FILE, - or its provider's sample.")
@click.option("--type", "event_type", type=Text(), help="The event type, as the sender names it.")
@click.option(
    "--provider",
    type=click.Choice(sorted(PROVIDERS)),
    metavar="NAME",
    help="Who names event and delivery; default: the provider of the source's name.",
)
@click.option("--header", "-H", "headers", multiple=True, type=Pair("'Name: value'", ":"), help="May be repeated.")
@click.option("--method", default="POST", show_default=True)
@click.option("--attempt", type=click.IntRange(1, 1000), default=1, show_default=True, help="Which one this would be.")
@app_option
@click.option("--database", "has_database", is_flag=True, help="Give a handler the connection that it asks for.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object; what is printed and logged stands in it.")
def command(
    words: tuple[str, ...],
    source: str | None,
    event_type: str | None,
    provider: str | None,
    headers: tuple[tuple[str, str], ...],
    method: str,
    attempt: int,
    app: str | None,
    has_database: bool,
    is_json: bool,
) -> int:
    """Run the handler that would take a request: here, with what the request says, and print what would become of it.

    Exit code 0 when it would be processed, 1 when it would fail, be tried again, or no handler takes it.
    """
    configuration = configure(app=app)
    sent = crafted(
        words, source=source, event_type=event_type, provider=provider, headers=headers, method=method,
        prefix=configuration.ingest.prefix,
    )  # fmt: skip
    event = event_of(sent, attempt, configuration.processor.content_bytes_max)
    listening: AbstractContextManager[Output] = captured() if is_json else nullcontext(Output())
    with listening as output:
        logging.getLogger().setLevel(configuration.common.log_level.upper())
        dispatch = loaded(configuration.processor.app)
        choice = dispatch.find(event)
        passed = passed_by(dispatch, event, choice)
        if not is_json:
            click.echo("\n".join(introduction(sent, event, choice, passed)))
        began = time.monotonic()
        tried = try_out(configuration, choice, event, has_database=has_database) if choice is not None else None
        is_late = time.monotonic() - began > configuration.ingest.reply_seconds
    became = tried.outcome if tried is not None else unhandled(dispatch, event)
    if is_json:
        show.as_json(as_json(sent, event, choice, passed, tried, became, configuration.processor, output))
    else:
        if tried is not None and isinstance(tried.value, Answer):
            click.echo(answered(tried.value, configuration.ingest.reply_seconds if is_late else None))
        click.echo("\n".join(conclusion(dispatch, event, choice, tried, became, configuration.processor)))
    return 0 if tried is not None and became.status == "processed" else 1


def event_of(sent: Crafted, attempt: int, content_bytes_max: int) -> Event:
    """As a processor would give it to a handler."""
    now = time.time()
    row = {
        "id": id_at(datetime.fromtimestamp(now, UTC)),
        "source": sent.source,
        "event_type": storable.name(sent.event_type),
        "delivery_id": storable.name(sent.delivery_id),
        "received_epoch": now,
        "attempts": attempt,
        "method": sent.request.method,
        "target": sent.request.target,
        "headers": orjson.dumps(sent.request.headers).decode(),
    }
    return Event(row, sent.request.body, content_bytes_max)


def try_out(configuration: Configuration, choice: Choice, event: Event, *, has_database: bool) -> Trial:
    """Run its handler, with a connection if it asks for one."""
    terms = Terms.of(choice.handler, configuration.processor)
    if not choice.handler.wants_connection:
        return uvloop.run(trial.run(choice, event, terms))
    if not has_database:
        raise click.UsageError(
            f"{choice.handler.name} ({place_of(choice.handler)}) asks for a connection: with --database it has one to "
            "the database of the settings, and what it does there is rolled back"
        )
    with database_of(configuration.common) as database:
        return uvloop.run(_rolled_back(choice, event, terms, database))


async def _rolled_back(choice: Choice, event: Event, terms: Terms, database: Database) -> Trial:
    connection = await database.connect("test")
    try:
        return await trial.run(choice, event, terms, connection, trial_transaction(connection, keep=False))
    finally:
        try:
            await connection.close(timeout=1.0)
        except FAILURES:
            connection.terminate()


def unhandled(dispatch: Dispatch, event: Event) -> Outcome:
    """What would become of it in the end."""
    is_known = dispatch.knows(event.source)
    return outcome.unhandled(event.source, event.event_type, 0.0, source_is_known=is_known, kept_seconds=0.0)


def introduction(sent: Crafted, event: Event, choice: Choice | None, passed: Sequence[Passed]) -> Iterator[str]:
    """What is tried, and whose it is; before anything of the handler runs."""
    kind = f", {event.content_type}{' (guessed)' if sent.is_guessed else ''}" if event.body else ""
    names = f", type {event.event_type}" if event.event_type else ""
    names += f", delivery {event.delivery_id}" if event.delivery_id else ""
    yield show.cell(f"{event.method} {event.target}, {len(event.body):,} bytes{kind}{names}")
    for handler, why in passed:
        yield f"not {handler.name} ({place_of(handler)}): {show.cell(why)}"
    if choice is not None:
        given = ", ".join(f"{name}={value!r}" for name, value in choice.variables.items())
        yield f"handler {choice.handler.name} ({place_of(choice.handler)})" + (f", {show.cell(given)}" if given else "")


def conclusion(
    dispatch: Dispatch,
    event: Event,
    choice: Choice | None,
    tried: Trial | None,
    became: Outcome,
    settings: ProcessorSettings,
) -> Iterator[str]:
    """What came of it."""
    if choice is None or tried is None:
        yield from nobody(dispatch, event, became, settings)
        return
    for line in (became.traceback or "").splitlines():
        yield f"  {show.escaped(line)}"
    if tried.value is not None and not isinstance(tried.value, Answer):
        returned = show.cell(words_of(tried.value), VALUE_CHARACTERS_MAX)
        yield f"returned {returned} (ignored: reply=True would answer the sender with it)"
    reason = show.cell(became.reason or "", VALUE_CHARACTERS_MAX)
    match became.status:
        case "processed":
            yield f"processed: {reason}" if reason else "processed"
        case "failed":
            yield f"failed: {reason}"
        case "new":
            attempts = f"attempt {event.attempt} of {Terms.of(choice.handler, settings).attempts_max}"
            yield f"would be tried again in {show.duration(became.delay)} ({attempts}): {reason}"


def answered(answer: Answer, late_after: float | None) -> str:
    """`late_after`: how long a receiver would have waited, where it took longer."""
    body = show.cell(answer.body.decode(errors="backslashreplace"), VALUE_CHARACTERS_MAX)
    late = "" if late_after is None else f" (too late: after {late_after:g} s its sender has the usual answer)"
    return f"answers {answer.status} {body}".rstrip() + late


def nobody(dispatch: Dispatch, event: Event, became: Outcome, settings: ProcessorSettings) -> Iterator[str]:
    reason = show.cell(became.reason or "")
    if became.status == "processed":
        yield f"no handler takes it; it would be processed, {reason}"
        return
    known = sorted({handler.source for handler in dispatch.handlers})
    yield f"no handler takes it; there are handlers for {', '.join(known)}"
    yield f"it would be kept for {show.duration(settings.unhandled_seconds)} for a newer app, then fail: {reason}"


def as_json(
    sent: Crafted,
    event: Event,
    choice: Choice | None,
    passed: Sequence[Passed],
    tried: Trial | None,
    became: Outcome,
    settings: ProcessorSettings,
    output: Output,
) -> dict[str, Any]:
    """All of it, for a program. `status`: processed, failed, retry or unhandled; `after_seconds`: till the next try."""
    status = "retry" if became.status == "new" else became.status
    return {
        "source": event.source,
        "event_type": event.event_type,
        "delivery_id": event.delivery_id,
        "method": event.method,
        "target": event.target,
        "content_type": event.content_type or None,
        "is_guessed": sent.is_guessed,
        "bytes": len(event.body),
        "handler": told(choice) if choice is not None else None,
        "passed_by": [{"name": each.name, "place": each.place, "why": why} for each, why in passed],
        "status": status if tried is not None else "unhandled",
        "reason": became.reason,
        "after_seconds": became.delay if tried is not None and became.status == "new" else None,
        "attempt": event.attempt,
        "attempts_max": Terms.of(choice.handler, settings).attempts_max if choice is not None else None,
        "returned": words_of(tried.value) if tried is not None and tried.value is not None else None,
        "traceback": became.traceback,
        "printed": output.printed,
        "logged": output.logged,
    }


def told(choice: Choice) -> Mapping[str, Any]:
    variables = {name: words_of(value, str) for name, value in choice.variables.items()}
    return {"name": choice.handler.name, "place": choice.handler.place, "variables": variables}


def words_of(value: object, write: Callable[[object], str] = repr) -> str:
    """As Python writes it; user code may write it."""
    try:
        return storable.text(write(value), VALUE_CHARACTERS_MAX)
    except Exception as error:  # noqa: BLE001 - whatever its __repr__ does
        return f"<{type(value).__name__}, which cannot be written: {type(error).__name__}>"
