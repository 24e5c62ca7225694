"""Logs: one line per fact, whatever a sender wrote."""

import io
import json

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from chassis import logs


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


@pytest.mark.parametrize(("style", "as_json"), [("auto", False), ("json", True), ("text", False)])
def test_a_person_gets_text_and_a_program_json(style: str, as_json: bool) -> None:
    """On a terminal `auto` is text; what is asked for is given."""
    stream = Terminal()
    logs.configure("info", style, stream)
    try:
        structlog.get_logger().info("ingest.listening", port=1)
        structlog.get_logger().debug("never shown")
    finally:
        structlog.reset_defaults()
    said = stream.getvalue()
    assert said.count("\n") == 1
    assert said.startswith("{") is as_json
