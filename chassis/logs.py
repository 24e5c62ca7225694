"""Logs: one line per fact, JSON unless a person is looking; what a sender wrote is escaped and cut."""

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

import orjson

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

VALUE_CHARACTERS_MAX = 500  # a line stays readable, and a flood of long values cannot fill a disk
TRACEBACK_LINES_MAX = 100  # its last ones; an error's own words may be a sender's


class Logger:
    """structlog's, which is imported with the first line there is to write.

    (A processor that cron starts each minute seldom has one, and structlog costs a fifth of what else it imports.)
    """

    debugging = False  # whether lines at debug are written: to be asked where even a call would cost

    def __init__(self) -> None:
        self._set_up: Callable[[], None] = lambda: None

    def set_up_with(self, set_up: Callable[[], None], *, debugging: bool) -> None:
        self._set_up, self.debugging = set_up, debugging

    def set_up(self) -> None:
        self._set_up()
        self._set_up = lambda: None

    def __getattr__(self, name: str) -> Any:
        import structlog  # noqa: PLC0415

        self.set_up()
        return getattr(structlog.get_logger(), name)


class Foreign(logging.Handler):
    """What libraries, and an app, say through `logging` becomes a line like our own."""

    def emit(self, record: logging.LogRecord) -> None:
        _logger.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


_logger = Logger()


def get_logger() -> Logger:
    return _logger


def configure(level: str, style: str, stream: TextIO = sys.stderr) -> None:
    """Set up logging for this process; `style` is json, text or auto (text on a terminal)."""
    _logger.set_up_with(lambda: _configure_structlog(level, style, stream), debugging=level == "debug")
    # Libraries speak only when something is broken; aiohttp would log a traceback for each malformed request.
    logging.basicConfig(level=logging.ERROR, handlers=[Foreign()])
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)


def share() -> None:
    """To be called when a user's code was imported: what it says through structlog looks like our own lines."""
    if "structlog" in sys.modules:
        _logger.set_up()


def _configure_structlog(level: str, style: str, stream: TextIO) -> None:
    import structlog  # noqa: PLC0415

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


def bounded(_: "WrappedLogger", __: str, line: "EventDict") -> "EventDict":
    """Cut long values and escape what could forge a line or move a terminal's cursor."""
    first = {key: line.pop(key) for key in ("timestamp", "level", "event") if key in line}
    return {key: _safe(value, multiline=key == "exception") for key, value in {**first, **line}.items()}


def _safe(value: Any, *, multiline: bool) -> Any:
    if not isinstance(value, str):
        return value if isinstance(value, (int, float, bool, type(None))) else _safe(str(value), multiline=multiline)
    if multiline:
        return "\n".join(_safe(each, multiline=False) for each in value.split("\n")[-TRACEBACK_LINES_MAX:])
    if not value.isprintable():
        value = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value[:VALUE_CHARACTERS_MAX])
    return value if len(value) <= VALUE_CHARACTERS_MAX else value[:VALUE_CHARACTERS_MAX] + "…"


def _json(line: "EventDict", **_: Any) -> str:
    return orjson.dumps(line).decode()
