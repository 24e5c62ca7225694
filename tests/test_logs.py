"""Logs: one line per fact, whatever a sender wrote."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

import hookd
from chassis import logs
from chassis.database import Connection, Database
from tests.commands import Hookd
from tests.processing import Watch, processing
from tests.receiving import receiving

SAYS = """
import logging, hookd

logging.getLogger("cellar").error("the cellar is %d cm under water", 3)

@hookd.on("demo")
async def handle(event: hookd.Event) -> None: ...
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.text())
def test_what_a_sender_wrote_stays_in_its_line(text: str) -> None:
    """Any text is one line of JSON, printable, and cut."""
    line = logs._json(dict(logs.bounded(None, "info", {"event": "x", "said": text})))
    assert line.isprintable()
    assert len(json.loads(line)["said"]) <= logs.VALUE_CHARACTERS_MAX * 10 + 1


def test_a_terminals_cursor_cannot_be_moved() -> None:
    """Escape sequences are shown, not obeyed."""
    (said,) = logs.bounded(None, "info", {"said": "\x1b[2Jgone\nforged"}).values()
    assert said == r"\x1b[2Jgone\nforged"


@pytest.mark.parametrize(("length", "shown"), [(500, 500), (501, 501), (10_000, 501)])
def test_long_values_are_cut(length: int, shown: int) -> None:
    """A value of 500 characters is shown whole; of a longer one 500 and an ellipsis."""
    (said,) = logs.bounded(None, "info", {"said": "x" * length}).values()
    assert len(said) == shown


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged at debug."""
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    yield stream
    structlog.reset_defaults()
    logs.get_logger().set_up_with(lambda: None, debugging=False)


def test_a_traceback_is_cut_and_shown_as_lines(lines: io.StringIO) -> None:
    """An error may quote what a sender wrote: each line of its traceback is escaped and cut, a hundred are shown."""
    try:
        raise ValueError("x" * 10_000 + "\x1b[2J" + "\ny" * 1000)
    except ValueError:
        logs.get_logger().error("request.broke", exc_info=True)
    *_, forged = said = json.loads(lines.getvalue())["exception"].split("\n")
    assert (len(said), forged) == (100, "y")
    try:
        raise ValueError("x" * 10_000 + "\n\x1b[2J")
    except ValueError:
        logs.get_logger().error("request.broke", exc_info=True)
    first, *_, cut, escaped = json.loads(lines.getvalue().splitlines()[1])["exception"].split("\n")
    assert first == "Traceback (most recent call last):"
    assert cut.startswith("ValueError: xxx")
    assert (len(cut), escaped) == (logs.VALUE_CHARACTERS_MAX + 1, r"\x1b[2J")


def test_what_libraries_log_is_a_line_too(lines: io.StringIO) -> None:
    """What comes through `logging` has its level and its logger's name, is escaped and cut, and keeps its traceback."""
    record = logging.LogRecord("asyncio", logging.ERROR, "", 0, "a task broke: %s", ("\x1b" + "x" * 1000,), None)
    logs.Foreign().handle(record)
    try:
        raise ValueError("broken")
    except ValueError:
        logs.Foreign().handle(logging.LogRecord("mine", logging.ERROR, "", 0, "so", (), sys.exc_info()))
    first, second = map(json.loads, lines.getvalue().splitlines())
    assert (first["level"], first["logger"]) == ("error", "asyncio")
    assert first["event"].startswith(r"a task broke: \x1bxxx")
    assert len(first["event"]) == logs.VALUE_CHARACTERS_MAX + 1
    assert "exception" not in first
    assert second["exception"].endswith("ValueError: broken")


def test_what_an_app_logs_is_a_line_too(tmp_path: Path) -> None:
    """An app that says something through `logging` says it in JSON, where the process does."""
    (tmp_path / "app.py").write_text(SAYS)
    done = Hookd(tmp_path, {"HOOKD_DATABASE_URL": "postgresql://127.0.0.1:1/none"})(
        "processor", "--app", "app", "--once"
    )
    assert [json.loads(line)["event"] for line in done.err.splitlines()[:1]] == ["the cellar is 3 cm under water"]


@pytest.mark.any_server
async def test_an_event_is_a_line_at_debug(
    lines: io.StringIO, database_url: str, database: Database, connection: Connection
) -> None:
    """At debug the receiver says a line for each event it stored, the processor one for each it settled."""
    async with receiving(database_url) as receiver:
        assert (await receiver.post("/demo", b"hello")).status == 200

    async def nothing(event: hookd.Event) -> None: ...

    async with processing(database, nothing):
        await (await Watch.over(connection)).settled()
    said = {line["event"]: line for line in map(json.loads, lines.getvalue().splitlines())}
    assert said["webhook.stored"].items() >= {"level": "debug", "source": "demo", "bytes": 5}.items()
    assert said["event.processed"]["id"] == said["webhook.stored"]["id"]


@pytest.mark.parametrize(("style", "as_json"), [("auto", False), ("json", True), ("text", False)])
def test_a_person_gets_text_and_a_program_json(style: str, as_json: bool) -> None:
    """On a terminal `auto` is text; what is asked for is given."""
    stream = Terminal()
    logs.configure("info", style, stream)
    try:
        logs.get_logger().info("ingest.listening", port=1)
        logs.get_logger().debug("never shown")
    finally:
        structlog.reset_defaults()
    said = stream.getvalue()
    assert said.count("\n") == 1
    assert said.startswith("{") is as_json
