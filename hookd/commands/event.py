"""hookd event: one event, all of it."""

import base64
import codecs
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import click
import orjson

from hookd import show
from hookd.commands import events
from hookd.configuration import consult
from hookd.options import Prefix, ids_of
from hookd.store import Store

BODY_BYTES_SHOWN, HEX_BYTES_SHOWN = 4096, 256
ALL_BYTES = 2**31 - 1
CANDIDATES_SHOWN = 5
VALUE_CHARACTERS_MAX = 2000

EPILOG = """\b
Examples:
  hookd event 019b6d2c-7c1e                  the beginning of its id will do
  hookd event 019b6d2c-7c1e --raw > body     exactly the bytes that were sent
  hookd event 019b6d2c-7c1e --json | jq -r .headers[]
"""


@click.command(epilog=EPILOG)
@click.argument("event_id", metavar="ID", type=Prefix())
@click.option("--json", "is_json", is_flag=True, help='One JSON object; a body that is no UTF-8 as "body_base64".')
@click.option("--raw", is_flag=True, help="The exact bytes of the body, nothing else.")
def command(event_id: str, is_json: bool, raw: bool) -> None:
    """Look at one event: its columns, headers, body and attempts. ID may be the beginning of one, if it is the only."""
    if is_json and raw:
        raise click.UsageError("--json or --raw, not both")
    body_bytes_max = ALL_BYTES if is_json or raw else BODY_BYTES_SHOWN

    async def read(store: Store) -> tuple[Any, list[Any]]:
        found = await find(store, event_id)
        return await store.event(found, body_bytes_max), await store.attempts(found)

    row, attempts = consult("event", read)
    if row is None:
        raise click.ClickException(f"no event {event_id} any more")
    if raw:
        sys.stdout.buffer.write(row["body"])
        sys.stdout.buffer.flush()
    elif is_json:
        show.as_json(as_json(row, attempts))
    else:
        for line in lines(row, attempts):
            click.echo(line)


async def find(store: Store, prefix: str) -> UUID:
    """The one event whose id begins so; none or several are an error that says which."""
    found = await store.ids_between(*ids_of(prefix), CANDIDATES_SHOWN + 1)
    if not found:
        raise click.ClickException(f"no event {prefix}")
    if len(found) > 1:
        candidates = "".join(f"\n  {each}" for each in found[:CANDIDATES_SHOWN])
        more = "\n  …" if len(found) > CANDIDATES_SHOWN else ""
        raise click.ClickException(f"{prefix} is the beginning of several ids:{candidates}{more}")
    return found[0]


def as_json(row: Mapping[str, Any], attempts: list[Any]) -> dict[str, Any]:
    try:
        body = {"body": row["body"].decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(row["body"]).decode()}
    return {
        **events.as_json(row),
        "headers": orjson.loads(row["headers"]),
        **body,
        "history": [{name: show.json_ready(value) for name, value in attempt.items()} for attempt in attempts],
    }


def lines(row: Mapping[str, Any], attempts: list[Any]) -> Iterator[str]:
    """What a person reads, from the top."""
    facts = {name: show.json_ready(row[name]) for name in events.JSON_COLUMNS if name != "state"}
    facts["status"] = events.state(row)
    width = max(map(len, facts))
    for name, value in facts.items():
        yield f"{name.ljust(width)}  {show.cell('-' if value is None else str(value), VALUE_CHARACTERS_MAX)}"
    yield "\nheaders"
    for name, value in orjson.loads(row["headers"]):
        yield f"  {show.cell(name)}: {show.cell(value, VALUE_CHARACTERS_MAX)}"
    yield f"\nbody, {row['bytes']:,} bytes" + (", none" if not row["bytes"] else "")
    yield from (f"  {line}" for line in preview(row["body"], cut=row["bytes"] > len(row["body"])))
    for attempt in attempts:
        ended = f"{show.iso(attempt['ended_at'])}: {show.cell(attempt['error'] or 'went well')}"
        yield f"\nattempt {attempt['attempt']}, {ended}"
        for line in (attempt["traceback"] or "").splitlines():
            yield f"  {show.escaped(line)}"


def preview(body: bytes, *, cut: bool) -> Iterator[str]:
    """The beginning of a body: text where it is UTF-8, else bytes."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(body, final=not cut)
    except UnicodeDecodeError:
        yield from hex_lines(body[:HEX_BYTES_SHOWN])
        cut = cut or len(body) > HEX_BYTES_SHOWN
    else:
        yield from show.escaped(text, keep="\n\t").split("\n") if text else ()
    if cut:
        yield "… (all of it: --raw)"


def hex_lines(body: bytes) -> Iterator[str]:
    for n in range(0, len(body), 16):
        part = body[n : n + 16]
        yield f"{n:04x}  {part.hex(' ').ljust(47)}  {''.join(chr(c) if 32 <= c < 127 else '.' for c in part)}"
