"""`hookd routes`: who takes what, in the order in which they are asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processor.handling.declare import ANY, Declaration
from processor.handling.dispatch import Choice, Dispatch
from processor.handling.handler import Handler, handler_of
from tests.commands import Hookd

pytestmark = pytest.mark.any_server

APP = """
import asyncpg
import hookd

@hookd.on("*")
def rest(event): ...

@hookd.on("github", event=["push", "pull_*"], retries=[5, 600])
async def build(event): ...

@hookd.on("github", event="push", where="payload.ref", timeout=2.5)
async def deploy(event): ...
"""
MORE = """
import asyncpg
import hookd

@hookd.webhook("/lamp/<int:number>", methods=["PUT"], reply=True, retries=0)
def light(payload, number): ...

class Bell:
    @hookd.webhook
    async def bell(self, payload, conn: asyncpg.Connection): ...
"""


@pytest.fixture
def hookd(tmp_path: Path) -> Hookd:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "more.py").write_text(MORE)
    return Hookd(tmp_path, {})


def test_a_line_each(hookd: Hookd) -> None:
    """Paths, then sources and types, each as it is asked: a filter before none, a name before a pattern, * last."""
    done = hookd("routes", "--app", "app.py", "--app", "more.py")
    assert done.code == 0
    assert [line.split() for line in done.lines] == [
        ["takes", "methods", "filter", "handler", "place", "retries", "time-out", "with"],
        ["/lamp/<int:number>", "PUT", "-", "light", "more.py:5", "0", "30", "s", "reply"],
        ["/bell", "GET,", "POST", "-", "Bell.bell", "more.py:9", "9", "10", "s", "connection"],
        ["github", "push", "any", "payload.ref", "deploy", "app.py:11", "9", "2.5", "s", "-"],
        ["github", "push", "any", "-", "build", "app.py:8", "after", "5", "s,", "10", "min", "30", "s", "-"],
        ["github", "pull_*", "any", "-", "build", "app.py:8", "after", "5", "s,", "10", "min", "30", "s", "-"],
        ["any", "source", "any", "-", "rest", "app.py:5", "9", "30", "s", "-"],
    ]


def test_an_object_each(hookd: Hookd) -> None:
    """With --json all of it, with whole places; what the settings say counts where a handler says nothing."""
    done = hookd.having(HOOKD_ATTEMPTS_MAX="3", HOOKD_APP="more.py")("routes", "--json")
    assert done.json == [
        {
            "rule": "/lamp/<int:number>", "source": "lamp", "event_type": None, "methods": ["PUT"], "where": None,
            "handler": "light", "file": f"{hookd.folder}/more.py", "line": 5, "is_async": False, "retries": 0,
            "delays": None, "timeout_seconds": 30.0, "reply": True, "connection": False,
        },
        {
            "rule": "/bell", "source": "bell", "event_type": None, "methods": ["GET", "POST"], "where": None,
            "handler": "Bell.bell", "file": f"{hookd.folder}/more.py", "line": 9, "is_async": True, "retries": 2,
            "delays": None, "timeout_seconds": 10.0, "reply": False, "connection": True,
        },
    ]  # fmt: skip


def test_on_a_terminal(hookd: Hookd) -> None:
    """On a narrow one a path and a place are whole still."""
    done = hookd.on_terminal("routes", "--app", "more.py", width=80)
    assert "/lamp/<int:number>" in done.out
    assert "more.py:5" in done.out


def test_an_app_that_cannot_be_loaded(hookd: Hookd) -> None:
    """Without an app, or with one that is wrong, exit code 2 and a sentence."""
    assert hookd("routes").code == 2
    done = hookd("routes", "--app", "none.py")
    assert (done.code, "there is no file" in done.err, "Traceback" in done.err) == (2, True, False)


# --- the order ------------------------------------------------------------------------------------------------------


def takes(rule: str | None = None, source: str = ANY, event_type: str | None = None) -> Handler:
    def function(payload: Any, **variables: Any) -> None: ...

    event_types = () if event_type is None else (event_type,)
    return handler_of(
        Declaration(function, "app.py:1", rule is not None, source=source, event_types=event_types, rule=rule)
    )


RULES = (
    "/a", "/a/b", "/a/<x>", "/a/<int:x>", "/a/v<int:x>", "/a/<x>-<y>", "/a/<path:x>", "/a/<path:x>/edit", "/a/<x>/edit",
    "/<x>", "/<x>/b", "/<any(a, b):x>/<y>", "/<path:x>",
)  # fmt: skip
HANDLERS = (
    *(takes(rule) for rule in RULES),
    *(takes(source=source, event_type=each) for source in ("a", ANY) for each in ("push", "pu*", "*", None)),
)
PATHS = ("/a", "/a/b", "/a/7", "/a/v7", "/a/x-y", "/a/b/edit", "/a/b/c", "/b", "/c/b", "/b/c")


@settings(deadline=None, max_examples=50)
@given(
    st.permutations(HANDLERS),
    st.integers(1, len(HANDLERS)),
    st.sampled_from(PATHS),
    st.sampled_from(["push", "pull", None]),
)
def test_the_first_that_takes_it_has_it(
    handlers: Sequence[Handler], count: int, target: str, event_type: str | None
) -> None:
    """Of any handlers, whatever the event: whose it is comes first among those that would take it alone."""
    row = {"source": target.split("/")[1], "event_type": event_type, "method": "POST", "target": target}

    def taker(*declared: Handler) -> Handler | None:
        choice = Dispatch(declared).choose(row, None)
        return choice.handler if isinstance(choice, Choice) else None

    declared = handlers[:count]
    listed = [route.handler for route in Dispatch(declared).routes()]
    assert taker(*declared) is next((each for each in listed if taker(each) is each), None)
