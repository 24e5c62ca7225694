"""How commands print: tables on a terminal, plain columns into a pipe, JSON for programs.

What a sender chose never moves a cursor, colours a word or fills a screen: it is escaped and cut here, for every cell.
"""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import MAXYEAR, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
import orjson

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as RichTable

CELL_CHARACTERS_MAX = 300
WIDE_COLUMNS = 120  # enough for an id of 36
SHORT_ID_CHARACTERS = 18  # its milliseconds, and 12 bits more
STYLES = {
    "waiting": "blue",
    "retrying": "yellow",
    "running": "cyan",
    "parked": "magenta",
    "processed": "green",
    "failed": "red",
}


@dataclass(frozen=True)
class Table:
    """Rows of words. A narrow terminal cuts columns, but for the `whole`, the `wrapped` and the `right`: numbers."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[str] = field(default=())
    whole: Sequence[str] = field(default=())
    wrapped: Sequence[str] = field(default=())


def is_terminal() -> bool:
    return sys.stdout.isatty()


def narrow() -> int | None:
    """The width of a terminal that has no room for wide tables."""
    width = shutil.get_terminal_size().columns
    return width if is_terminal() and width < WIDE_COLUMNS else None


def out(*parts: str | Table) -> None:
    """Print lines and tables, as whoever reads them needs it."""
    for part in parts:
        if isinstance(part, str):
            click.echo(part)
        elif is_terminal():
            from rich.console import Console  # noqa: PLC0415 - not paid for into a pipe

            Console(highlight=False).print(rich_table(part))
        else:
            click.echo(columns(part))


def rich_parts(*parts: str | Table) -> "RenderableType":
    """The same, for rich to draw again and again."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    return Group(*(Text(part) if isinstance(part, str) else rich_table(part) for part in parts))


def rich_table(table: Table) -> "RichTable":
    from rich.table import Table as RichTable  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415 - text, not markup: `[red]` in a reason is shown as it stands

    drawn = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in table.headings:
        # rich takes width from the columns that may wrap, the widest first.
        whole = heading in table.right or heading in table.whole
        drawn.add_column(heading, justify="right" if heading in table.right else "left", no_wrap=whole)
    for row in table.rows:
        drawn.add_row(
            *(
                Text(
                    cell(word),
                    style=STYLES.get(word.partition(" ")[0], ""),
                    no_wrap=heading not in table.wrapped,
                    overflow="ellipsis",
                )
                for heading, word in zip(table.headings, row, strict=True)
            )
        )
    return drawn


def columns(table: Table) -> str:
    """Aligned with spaces, nothing cut to a width: for `grep` and `awk`."""
    rows = [list(table.headings), *([cell(word) or "-" for word in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [heading in table.right for heading in table.headings]
    lines = (
        "  ".join(
            word.rjust(width) if to_right else word.ljust(width)
            for word, width, to_right in zip(row, widths, right, strict=True)
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def cell(words: str, characters_max: int = CELL_CHARACTERS_MAX) -> str:
    """On one line, cut, and with nothing a terminal would obey."""
    cut = words if len(words) <= characters_max else words[:characters_max] + "…"
    return escaped(cut)


def escaped(words: str, keep: str = "") -> str:
    """Each character that is not printed as itself, but for those to `keep`, as Python would write it."""
    if words.isprintable():
        return words
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in words)


def ids(whole: Sequence[UUID]) -> list[str]:
    """As they are; on a narrow terminal their beginnings, as long as it takes to tell them apart."""
    words = [str(each) for each in whole]
    if not narrow():
        return words
    length = SHORT_ID_CHARACTERS
    while len({word[:length] for word in words}) < len(words):
        length += 1
    return [word[:length] for word in words]


def duration(seconds: float) -> str:
    """`3 s`, `5 min`, `2 h`, `4 d`."""
    if seconds < 0:
        return "0 s"
    for unit, size, upto in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < upto:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def age(then: datetime, now: datetime) -> str:
    """An age on a terminal, which is read now; a time anywhere else, where it may be read later."""
    return f"{duration((now - then).total_seconds())} ago" if is_terminal() else iso(then)


def iso(moment: datetime) -> str:
    """In UTC, to the millisecond. PostgreSQL's infinity stays one."""
    if moment.year == MAXYEAR:
        return "infinity"
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def as_json(value: Mapping[str, Any]) -> None:
    """One object, one line, with nothing a terminal would obey."""
    text = orjson.dumps(value, default=str).decode()  # asyncpg's UUID is one of its own
    click.echo(text if text.isprintable() else re.sub(r"[^\x20-\x7e]", _unicode_escape, text))


def json_ready(value: object) -> object:
    return iso(value) if isinstance(value, datetime) else value


def _unicode_escape(match: re.Match[str]) -> str:
    character = match[0]
    if character.isprintable():
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[n] << 8 | units[n + 1]:04x}" for n in range(0, len(units), 2))
