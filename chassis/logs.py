"""Logs: one line per fact, JSON unless a person is looking; what a sender wrote is escaped and cut."""

import logging
import sys
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

VALUE_CHARACTERS_MAX = 500  # a line stays readable, and a flood of long values cannot fill a disk


def configure(level: str, style: str, stream: TextIO = sys.stderr) -> None:
    """Set up logging for this process; `style` is json, text or auto (text on a terminal)."""
    as_text = style == "text" or (style == "auto" and stream.isatty())
    render: Any = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty()) if as_text else structlog.processors.JSONRenderer(_json)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            bounded,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    # Libraries speak only when something is broken; aiohttp would log a traceback for each malformed request.
    logging.basicConfig(level=logging.ERROR, stream=stream, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)


def bounded(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """Cut long values and escape what could forge a line or move a terminal's cursor."""
    first = {key: line.pop(key) for key in ("timestamp", "level", "event") if key in line}
    return {key: _safe(value, multiline=key == "exception") for key, value in {**first, **line}.items()}


def _safe(value: Any, *, multiline: bool) -> Any:
    if not isinstance(value, str):
        return value if isinstance(value, (int, float, bool, type(None))) else _safe(str(value), multiline=multiline)
    if multiline:
        return "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in value)
    if not value.isprintable():
        value = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value[:VALUE_CHARACTERS_MAX])
    return value if len(value) <= VALUE_CHARACTERS_MAX else value[:VALUE_CHARACTERS_MAX] + "…"


def _json(line: EventDict, **_: Any) -> str:
    return orjson.dumps(line).decode()
