"""`where=`: a JMESPath expression that an event must make true; what is wrong with it is told at the load."""

from collections.abc import Callable
from typing import Any

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hookd
from chassis.database import Connection, Database
from processor.chooser import Chooser
from processor.handling.dispatch import UNDECIDED, Choice
from processor.handling.event import Event
from processor.handling.filters import NAMES, Filter, FilterError, compiled
from processor.holding.claimed import Claimed
from processor.settings import ProcessorSettings
from tests.factories import an_event as a_row
from tests.handling import FORM, SOME_ID, an_event, answered, chosen, dispatch, faults, handler
from tests.processing import Watch, processing


def named(name: str) -> Callable[[hookd.Event], str]:
    """A function that tells who it is."""

    def function(event: hookd.Event) -> str:
        return name

    return function


def takes(expression: str, event: Event) -> bool:
    return compiled(expression).takes(event)


# What it sees


@pytest.mark.parametrize(
    "expression",
    [
        "payload.ref == 'main'",
        "payload.commits[?id == `7`]",
        "payload.commits[*].author.name | contains(@, 'eve')",
        "contains(payload.commits[].author.name, 'eve')",
        "length(payload.commits) > `0` && !(payload.draft)",
        "payload.*.name | [0] == 'x'",
        "headers.\"x-mixed-case\" == 'Value'",
        "headers.\"x-twice\" == 'b'",
        "query.page == '2' && query.empty == ''",
        "source == 'demo' && event_type == 'push' && method == 'PUT'",
        "target == '/demo/x?page=2&empty='",
        "attempt == `3`",
        "delivery_id == `null`",
        "starts_with(target, '/demo')",
        "@.payload.ref == 'main'",
        "{a: payload.ref, b: source}.a == 'main'",
        "[payload.ref, source][0] == 'main'",
        "sort_by(payload.commits, &id)[0].id == `7`",
        "not_null(payload.missing, payload.ref) == 'main'",
    ],
)
def test_what_a_filter_sees(expression: str) -> None:
    """The payload, headers by their names in small letters, the query, and the event's own fields."""
    event = an_event(
        b'{"ref": "main", "draft": false, "repository": {"name": "x"},'
        b' "commits": [{"id": 7, "author": {"name": "eve"}}]}',
        event_type="push",
        method="PUT",
        target="/demo/x?page=2&empty=",
        headers=[("X-Mixed-Case", "Value"), ("x-twice", "a"), ("X-Twice", "b")],
        attempt=3,
    )
    assert takes(expression, event)
    assert not takes(f"!({expression})", event)


@pytest.mark.parametrize(
    ("value", "is_true"),
    [(b"0", True), (b"0.0", True), (b"-1", True), (b'"x"', True), (b"[0]", True), (b'{"a": 0}', True), (b"true", True),
     (b"false", False), (b"null", False), (b'""', False), (b"[]", False), (b"{}", False), (b"", False)],
)  # fmt: skip
def test_what_is_true(value: bytes, is_true: bool) -> None:
    """As JMESPath has it: false, null, and what is empty are not; zero is."""
    assert takes("payload", an_event(value)) is is_true
    assert takes("payload && source", an_event(value)) is is_true


def test_a_form_is_filtered_as_json_is() -> None:
    """The payload is what the body says, whatever it says it in."""
    assert takes("payload.a == '1'", an_event(b"a=1", FORM))


# What is refused


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("payload.", "where='payload.': Expecting: ["),
        ("payload.x ==", "Incomplete expression"),
        ("payload.x === 1", "Bad jmespath expression: Unknown token '='"),
        ("", "where='': Invalid JMESPath expression: cannot be empty."),
        ("payload.x = 'a'", "where=\"payload.x = 'a'\": Bad jmespath expression: "),
        (
            "body.x == 'a'",
            "body is none of payload, headers, query, source, event_type, delivery_id, method, target, at",
        ),
        ("payload.x == main", "main is none of payload"),
        ("lenght(payload.x) > `1`", "there is no function lenght"),
        ("payload[?foo(x) && bar(y)]", "there is no function bar; there is no function foo"),
        ("contains(payload.x)", "contains() takes 2 arguments, not 1"),
        ("payload.x || length(payload, source)", "length() takes 1 arguments, not 2"),
        ("not_null()", "not_null() takes 1 arguments, not 0"),
        ("payload.x == null", "null is none of payload"),
        ("payload.x == null", "(text is written 'so', a number, true or null `so`)"),
        ("payload.x && !payload.draft", "`!` is closer than what follows: write !(payload.x), not !payload.x"),
        ("`true`", "it asks nothing of the event: expected one of payload"),
        ("[0]", "it asks nothing of the event"),
        ("(" * 5000 + "payload", "RecursionError"),
        (7, "where=7: "),
    ],
)
def test_an_expression_that_cannot_be_used(expression: Any, said: str) -> None:
    """One that would fail, or be the same, at every event is refused when the app is loaded, in a line."""
    for decorator in (hookd.on("demo", where=expression), hookd.webhook("/demo", where=expression)):
        (fault,) = faults((decorator, named("a")))
        assert said in fault
        assert "\n" not in fault


@given(st.text(st.sampled_from("payload.*[]?{}()|&!=<>'`\"\\@0: ,-sortlengthbi")) | st.text())
def test_any_expression_is_compiled_or_refused(expression: str) -> None:
    """Whatever an author writes, it is a filter or a FilterError; and what is a filter says yes or no."""
    event = an_event(b'{"a": [1, {"b": null}], "l": ["x"]}')
    try:
        assert isinstance(compiled(expression).takes(event), bool)
    except FilterError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("expression", "body", "said"),
    [
        ("length(payload.x) > `1`", b"{}", "length() takes string or array or object, not null"),
        ("starts_with(payload.x, 'a')", b'{"x": ["secret"]}', "starts_with() takes string, not array"),
        ("ceil(payload.x) > `1`", b'{"x": 1e999}', "OverflowError: cannot convert float infinity to integer"),
        ("floor(payload.x) > `1`", b'{"x": NaN}', "ValueError: cannot convert float NaN to integer"),
        ("payload.x[::0]", b'{"x": [1]}', "ValueError: slice step cannot be zero"),
        ("payload.x == payload.y", b'{"x": %b, "y": %b}' % ((b"[" * 900 + b"]" * 900,) * 2), "RecursionError: "),
    ],
)
def test_a_filter_that_an_event_does_not_fit(expression: str, body: bytes, said: str) -> None:
    """It is told without what the sender wrote."""
    try:
        takes(expression, an_event(body))
    except FilterError as error:
        assert said in str(error)  # noqa: PT017
        assert "secret" not in str(error)  # noqa: PT017
    else:
        assert said.startswith("RecursionError")  # some Pythons compare as deep as they parse


# Whose the event is


FIRST, SECOND, REST = (
    (hookd.on("demo", where="payload.kind == 'first'"), named("first")),
    (hookd.on("demo", where="payload.kind"), named("second")),
    (hookd.on("demo"), named("rest")),
)


@pytest.mark.parametrize("order", [(FIRST, SECOND, REST), (REST, FIRST, SECOND)])
def test_filters_go_before_what_has_none(order: Any) -> None:
    """Of handlers that take the same events those with a filter are asked first, in the order they are declared."""
    app = dispatch(*order)
    for kind, name in ((b'"first"', "first"), (b'"other"', "second"), (b"null", "rest")):
        assert answered(app, an_event(b'{"kind": %b}' % kind)) == name


def test_two_filters_that_are_the_same_are_no_clash() -> None:
    """Whether two expressions can both be true nobody knows: what was declared first is asked first."""
    app = dispatch((hookd.on("demo", where="payload"), named("a")), (hookd.on("demo", where="payload"), named("b")))
    assert answered(app, an_event(b"1")) == "a"
    assert answered(app, an_event(b"null")) is None


def test_a_type_s_name_goes_before_a_filter() -> None:
    """What is specific of source and type comes first; a filter decides among equals."""
    app = dispatch(
        (hookd.on("*", where="payload.a"), named("anywhere")),
        (hookd.on("demo", where="payload.a"), named("filtered")),
        (hookd.on("demo", event="push"), named("push")),
        (hookd.on("demo", event="p*", where="payload.a"), named("p*")),
    )
    sent = b'{"a": 1}'
    assert answered(app, an_event(sent, event_type="push")) == "push"
    assert answered(app, an_event(sent, event_type="pull")) == "p*"
    assert answered(app, an_event(sent, event_type="star")) == "filtered"
    assert answered(app, an_event(b"{}", event_type="star")) is None
    assert answered(app, an_event(sent, source="other")) == "anywhere"


def test_a_filter_that_cannot_be_asked_ends_the_event() -> None:
    """A broken body is not passed on to handlers that might make something of it; a filter on headers asks none."""
    app = dispatch(
        (hookd.on("demo", where="payload.a"), named("filtered")), (hookd.on("demo"), named("rest")),
        (hookd.on("heads", where="headers.a == '1'"), named("heads")),
    )  # fmt: skip
    choice = chosen(app, an_event(b"{"))
    assert choice.fault == (
        "where='payload.a': the body is not JSON: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)"
    )
    assert chosen(app, an_event(b"{", source="heads", headers=[("A", "1")])).fault is None


def test_without_the_body_a_filter_is_undecided() -> None:
    """While a body is not there, its row says who may take it: of those that ask nothing more it is decided."""
    app = dispatch(FIRST, REST, (hookd.on("plain"), named("plain")))
    for source, found in (("demo", False), ("plain", True)):
        row = {"source": source, "event_type": None, "method": "POST", "target": f"/{source}"}
        assert (app.choose(row, None) is not UNDECIDED) is found


def test_a_filter_reads_what_it_asks_for_alone() -> None:
    """An expression over the method leaves the body alone."""
    assert set(NAMES) == {
        "payload",
        "headers",
        "query",
        "source",
        "event_type",
        "delivery_id",
        "method",
        "target",
        "attempt",
    }
    assert takes("method == 'POST'", an_event(b"\xff"))
    assert takes("[method][0] == 'POST'", an_event(b"\xff"))


def test_no_body_is_looked_into_when_it_is_claimed() -> None:
    """A thousand rows are looked at in a row then, and each might unfold into 25 MiB: a filter is asked in its turn."""
    chooser = Chooser(dispatch(FIRST, REST, (hookd.on("plain"), named("plain"))), ProcessorSettings())
    row = {"id": SOME_ID, "event_type": None, "method": "POST", "attempts": 2, "payload": b"{}"}
    filtered = Claimed({**row, "source": "demo", "target": "/demo"}, 0.0)
    assert chooser.outlook(filtered) is UNDECIDED
    assert chooser.attempts_max(filtered) == chooser.attempts_most
    assert filtered.event is None
    plain = Claimed({**row, "source": "plain", "target": "/plain"}, 0.0)
    assert isinstance(chooser.outlook(plain), Choice)
    assert chooser.outlook(Claimed({**row, "source": "nobody-s", "target": "/"}, 0.0)) is None


class Counting(Filter):
    """Counts how often it is asked."""

    asked = 0

    def takes(self, event: Event) -> bool:
        Counting.asked += 1
        return super().takes(event)


@pytest.mark.any_server
async def test_a_filter_is_asked_once_for_an_event(database: Database, connection: Connection) -> None:
    """Inline or fetched, settled or handed on: for each attempt a filter is asked once; a fault is the event's end."""
    made = handler(hookd.on("demo", where="payload.ok"), lambda event: None)
    object.__setattr__(made, "where", Counting("payload.ok", jmespath.compile("payload.ok").parsed))
    Counting.asked = 0
    watch = await Watch.over(connection)
    small = await a_row(connection, payload=b'{"ok": 1}')
    large = await a_row(connection, payload=b'{"ok": 1, "more": "%b"}' % (b"x" * 100_000))
    no = await a_row(connection, payload=b'{"ok": 0, "no": ""}'.replace(b"0", b"false"))
    broken = await a_row(connection, payload=b'{"ok')
    async with processing(database, made):
        settled = await watch.settled()
    assert settled[small] == settled[large] == ("processed", None)
    assert settled[no] == ("processed", "ignored: no handler for event type None")
    status, reason = settled[broken]
    assert (status, (reason or "")[:60]) == ("failed", "where='payload.ok': the body is not JSON: Unterminated strin")
    assert Counting.asked == 4
