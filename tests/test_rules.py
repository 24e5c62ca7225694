"""`@hookd.webhook("/example/<name>/<int:number>/")`: paths with variables, which arrive as arguments."""

import re
import sys
import time
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hookd
from chassis.database import Connection, Database
from processor.handling.dispatch import Dispatch
from processor.handling.rules import PATH_CHARACTERS_MAX, Rules
from tests.factories import an_event as a_row
from tests.handling import an_event, answered, dispatch, faults, handler
from tests.processing import Watch, processing

SOME_UUID = "01980000-0000-7000-8000-000000000000"


def values(event: hookd.Event, **variables: Any) -> dict[str, Any]:
    """A handler that takes all variables."""
    return variables


def telling(name: str) -> Any:
    """A handler that tells who it is, and its variables."""

    def function(event: hookd.Event, **variables: Any) -> tuple[Any, ...]:
        return (name, *variables.values())

    return function


def app(*rules: str) -> Dispatch:
    """Handlers that tell their rules."""
    return dispatch(*((hookd.webhook(rule), telling(rule)) for rule in rules))


def sent(target: str, method: str = "POST", source: str | None = None) -> hookd.Event:
    """An event as the receiver stores it, its source the first segment."""
    return an_event(target=target, method=method, source=source or re.split("[/?]", target)[1])


# Variables


@pytest.mark.parametrize(
    ("rule", "target", "given"),
    [
        ("/deploy/<name>", "/deploy/web", {"name": "web"}),
        ("/deploy/<name>/<action>/", "/deploy/web/stop", {"name": "web", "action": "stop"}),
        ("/deploy/<int:n>", "/deploy/007", {"n": 7}),
        ("/deploy/<int(signed=True):n>", "/deploy/-7", {"n": -7}),
        ("/deploy/<int(min=5, max=9):n>", "/deploy/9", {"n": 9}),
        ("/deploy/<float:x>", "/deploy/1.50", {"x": 1.5}),
        ("/deploy/<uuid:id>", f"/deploy/{SOME_UUID}", {"id": UUID(SOME_UUID)}),
        ("/deploy/<path:rest>", "/deploy/a/b/c", {"rest": "a/b/c"}),
        ("/deploy/<path:rest>/end", "/deploy/a/b/end", {"rest": "a/b"}),
        ("/deploy/<any(start, stop):what>", "/deploy/stop", {"what": "stop"}),
        ("/deploy/<string(length=2):code>", "/deploy/de", {"code": "de"}),
        ("/deploy/<string(minlength=2, maxlength=3):code>", "/deploy/deu", {"code": "deu"}),
        ("/deploy/v<int:major>.<int:minor>", "/deploy/v1.20", {"major": 1, "minor": 20}),
        ("/<tenant>/hook", "/deploy/hook", {"tenant": "deploy"}),
        ("/<path:everything>", "/deploy/a/b", {"everything": "deploy/a/b"}),
    ],
)
def test_variables_arrive_as_arguments(rule: str, target: str, given: dict[str, Any]) -> None:
    """Each as its converter makes it, whatever the query is."""
    made = dispatch((hookd.webhook(rule), values))
    assert answered(made, sent(target)) == given
    assert answered(made, sent(f"{target}?a=/b/c")) == given
    if not rule.endswith("<path:rest>") and not rule.endswith("<path:everything>"):
        assert answered(made, sent(f"{target}/")) == given


def test_a_path_as_a_variable_keeps_its_slashes() -> None:
    """All of what was sent is its value."""
    made = dispatch((hookd.webhook("/deploy/<path:rest>"), values))
    for rest in ("a/", "a//b", "a/b//"):
        assert answered(made, sent(f"/deploy/{rest}")) == {"rest": rest}


@pytest.mark.parametrize(
    ("rule", "target"),
    [
        ("/deploy/<int:n>", "/deploy/x"),
        ("/deploy/<int:n>", "/deploy/-1"),
        ("/deploy/<int:n>", "/deploy/" + "9" * PATH_CHARACTERS_MAX),
        ("/deploy/<int(max=9):n>", "/deploy/10"),
        ("/deploy/<float:x>", "/deploy/1"),
        ("/deploy/<uuid:id>", "/deploy/1"),
        ("/deploy/<name>", "/deploy"),
        ("/deploy/<name>", "/deploy/"),
        ("/deploy/<name>", "/deploy/a/b"),
        ("/deploy/<any(start, stop):what>", "/deploy/go"),
        ("/deploy/<string(length=2):code>", "/deploy/deu"),
        ("/deploy", "/deploy/more"),
        ("/deploy", "/Deploy"),
        ("/deploy/a", "/deploy/A"),
    ],
)
def test_a_path_that_does_not_match(rule: str, target: str) -> None:
    """It is nobody's."""
    assert answered(dispatch((hookd.webhook(rule), values)), sent(target)) is None


def test_a_number_may_be_longer_than_python_reads() -> None:
    """A path with more digits than this Python makes a number of is nobody's, and hurts nobody."""
    made = dispatch((hookd.webhook("/deploy/<int:n>"), values))
    digits = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert answered(made, sent("/deploy/" + "9" * 640)) == {"n": 10**640 - 1}
        assert answered(made, sent("/deploy/" + "9" * 641)) is None
    finally:
        sys.set_int_max_str_digits(digits)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/deploy/caf%C3%A9", "caf\xe9"),
        ("/deploy/a%20b+c", "a b+c"),
        ("/deploy/50%25", "50%"),
        ("/deploy/%ff", "\ufffd"),
        ("/deploy/%", "%"),
        ("http://hooks.example.com/deploy/web?x=y", "web"),
        ("HTTPS://hooks.example.com:8443/deploy/web/", "web"),
        ("/prefix/deploy/web", "web"),
        ("/deploy/deploy/web", "web"),
        ("/a/deeper/prefix/deploy/deploy", "deploy"),
    ],
)
def test_paths_as_they_are_sent(target: str, name: str) -> None:
    """Percent-encoding is undone; in absolute form the path counts; what stands before the source is a prefix."""
    assert answered(dispatch((hookd.webhook("/deploy/<name>"), values)), sent(target, source="deploy")) == {
        "name": name
    }


@pytest.mark.parametrize("rule", ["/echo", "/echo/", "/echo//"])
def test_a_slash_at_the_end_counts_for_nothing(rule: str) -> None:
    """Neither in a rule nor in a path; and where Errbot redirects from `//`, the sender is served."""
    made = dispatch((hookd.webhook(rule), values), (hookd.webhook("/more/<name>" + rule[5:]), values))
    for target in ("/echo", "/echo/", "/echo//", "//echo", "/prefix//echo/"):
        assert answered(made, sent(target, source="echo")) == {}
    for target in ("/more/x", "/more/x/", "/more//x", "/more/x//"):
        assert answered(made, sent(target, source="more")) == {"name": "x"}


def test_the_function_s_name_is_a_rule() -> None:
    """Naked, or with other arguments than a rule."""

    def on_push(event: hookd.Event) -> str:
        return "here"

    for decorator in (hookd.webhook, hookd.webhook(), hookd.webhook(raw=True)):
        assert answered(dispatch((decorator, on_push)), sent("/on_push")) == "here"


# Which of them


def test_the_most_specific_rule_wins() -> None:
    """What is fixed goes before what is variable, segment by segment, whatever was declared first."""
    rules = ("/a/<path:x>", "/a/<x>", "/a/<int:x>", "/a/b", "/a/<x>/c", "/a/b/<x>", "/<y>/b")
    for declared in (rules, rules[::-1]):
        made = app(*declared)
        for target, found in (
            ("/a/b", ("/a/b",)),
            ("/a/7", ("/a/<int:x>", 7)),
            ("/a/z", ("/a/<x>", "z")),
            ("/a/b/c", ("/a/b/<x>", "c")),
            ("/a/z/c", ("/a/<x>/c", "z")),
            ("/a/z/z", ("/a/<path:x>", "z/z")),
            ("/q/b", ("/<y>/b", "q")),
            ("/q/c", None),
        ):
            assert answered(made, sent(target)) == found, target


def test_methods() -> None:
    """POST and GET without more, as Errbot has it; else those that are named; a rule may have a handler for each."""
    made = dispatch(
        (hookd.webhook("/a"), telling("usual")),
        (hookd.webhook("/a", methods=["PUT", "DELETE"]), telling("others")),
        (hookd.webhook("/b/x", methods="PATCH"), telling("fixed")),
        (hookd.webhook("/b/<x>"), telling("variable")),
    )
    expected = {"POST": "usual", "GET": "usual", "PUT": "others", "DELETE": "others"}
    for method, name in expected.items():
        assert answered(made, sent("/a", method)) == (name,)
    for method in ("HEAD", "OPTIONS", "post"):
        assert answered(made, sent("/a", method)) is None
    assert answered(made, sent("/b/x", "PATCH")) == ("fixed",)
    assert answered(made, sent("/b/x", "POST")) == ("variable", "x")
    assert answered(made, sent("/b/y", "PATCH")) is None


def test_rules_beside_sources() -> None:
    """A rule's handler goes before those of its source and type; what no rule matches is theirs."""
    made = dispatch(
        (hookd.on("github", event="push"), telling("push")),
        (hookd.on("github"), telling("github")),
        (hookd.on("*"), telling("anything")),
        (hookd.webhook("/github/<repository>"), telling("rule")),
    )
    assert answered(made, sent("/github/hookd")) == ("rule", "hookd")
    assert answered(made, sent("/github")) == ("github",)
    assert answered(made, sent("/github/a/b", "PUT")) == ("github",)
    assert answered(made, sent("/gitlab/a")) == ("anything",)
    assert answered(made, an_event(source="github", event_type="push", target="/github/x")) == ("rule", "x")
    assert answered(made, an_event(source="github", event_type="push", target="/github")) == ("push",)


def test_rules_with_filters() -> None:
    """Those with a filter are asked first; where none of a rule's takes the event, the next rule's are asked."""
    made = dispatch(
        (hookd.webhook("/a/<x>"), telling("variable")),
        (hookd.webhook("/a/b", where="payload.n == `2`"), telling("two")),
        (hookd.webhook("/a/b", where="payload.n"), telling("some")),
        (hookd.webhook("/a/<y>/c"), telling("plain")),
        (hookd.webhook("/a/<z>/c", where="payload.n"), telling("filtered")),
        (hookd.on("a"), telling("source")),
    )
    for body, target, found in (
        (b'{"n": 2}', "/a/b", ("two",)),
        (b'{"n": 1}', "/a/b", ("some",)),
        (b"{}", "/a/b", ("variable", "b")),
        (b'{"n": 1}', "/a/x/c", ("filtered", "x")),
        (b"{}", "/a/x/c", ("plain", "x")),
        (b"{}", "/a", ("source",)),
    ):
        assert answered(made, an_event(body, source="a", target=target)) == found


# What is refused


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("/a", "/a", "both take GET and POST /a"),
        ("/a", "/a/", "both take GET and POST /a"),
        ("/a/<x>", "/a/<y>", "both take GET and POST /a/<y>"),
        ("/a/<x>", "/a/<string:y>", "both take GET and POST"),
        ("/a/<x>", "/a/<default:y>", "both take GET and POST"),
        ("/a/<int:x>/b", "/a/<int:n>/b/", "both take GET and POST"),
        ("/a/<int:x>", "/a/<x>", ""),
        ("/a/<int:x>", "/a/<int(min=5):x>", ""),
        ("/a/<x>", "/b/<x>", ""),
    ],
)
def test_the_same_rule_twice(first: str, second: str, said: str) -> None:
    """Refused, also under other names of its variables; once with a filter it is no clash, nor with other methods."""
    wrong = faults((hookd.webhook(first), values), (hookd.webhook(second), values))
    assert [each for each in wrong if said not in each] == []
    assert len(wrong) == bool(said)
    assert not faults((hookd.webhook(first), values), (hookd.webhook(second, where="payload"), values))
    assert not faults((hookd.webhook(first), values), (hookd.webhook(second, methods=["PUT"]), values))
    shared = faults((hookd.webhook(first), values), (hookd.webhook(second, methods=["PUT", "POST"]), values))
    assert len(shared) == bool(said)
    assert all("both take POST /" in each for each in shared)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("a", "the rule 'a' must begin with a slash"),
        ("", "the rule '' must begin with a slash"),
        (b"/a", "the rule b'/a' must begin with a slash"),
        ("/", "begins with '', which is no source's name"),
        (
            "/Deploy",
            "begins with 'Deploy', which is no source's name (small letters, digits, and . _ - within; 64 at most)",
        ),
        ("/-/live", "begins with '-', which is no source's name"),
        ("/" + "a" * 65, "which is no source's name"),
        ("/a/<nope:x>", "the converter 'nope' does not exist"),
        ("/a/<x>/<x>", "the rule '/a/<x>/<x>' names a variable twice"),
        ("/a/<int:x>/<x>", "names a variable twice"),
        ("/a/<x", "the rule '/a/<x': malformed url rule"),
        ("/a/<1>", "malformed url rule"),
        ("/a/<int(foo=1):x>", "the rule '/a/<int(foo=1):x>': "),
        ("/a/<string(length=many):x>", "the rule '/a/<string(length=many):x>': "),
        ("/a?b=c", "is more than a path: the query is asked for by where="),
    ],
)
def test_a_rule_that_is_none(rule: Any, said: str) -> None:
    """Or that no request could ever match: refused when the app is loaded."""
    (fault,) = faults((hookd.webhook(rule), values))
    assert said in fault


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"methods": ()}, "methods=() takes nothing"),
        ({"methods": ["post"]}, "'post' is no method: expected POST, GET, …"),
        ({"methods": [7]}, "7 is no method"),
        ({"methods": None}, "None is no method"),
        ({"methods": ["GET POST"]}, "'GET POST' is no method"),
        ({"raw": True, "form_param": "x"}, "raw=True and form_param= exclude each other"),
        ({"form_param": 7}, "form_param=7: expected the name of a field"),
    ],
)
def test_a_webhook_that_contradicts_itself(declared: dict[str, Any], said: str) -> None:
    """Refused when the app is loaded, not at each request."""
    (fault,) = faults((hookd.webhook("/a", **declared), lambda payload: None))
    assert said in fault


def test_a_lambda_has_no_name_to_be_a_rule() -> None:
    """It is asked for one."""
    assert faults((hookd.webhook, lambda payload: None)) == [
        'it has no name to be a rule: write @hookd.webhook("/path")'
    ]


# Anything


@given(
    st.text(st.sampled_from("/ab<>:%0int.?&;*\\\n\u0663") | st.characters(max_codepoint=255)),
    st.sampled_from(["a", "b"]),
)
def test_any_path_is_matched_or_not(path: str, source: str) -> None:
    """Whatever a sender asks for, somebody takes it or nobody does."""
    rules = [
        handler(hookd.webhook(rule), values) for rule in ("/a/<int:n>", "/a/<path:x>/b", "/<y>/b", "/b/<float:z>/")
    ]
    found = Rules(rules).match(source, "POST", path)
    assert len(found) <= 1


@pytest.mark.parametrize(
    "path",
    [
        "/a" * 2000,
        "/a" * 30_000,
        "/a/" + "x/b/" * 16_000,
        "/a/" + "9" * 60_000,
        "/a/" + "/" * 60_000,
        "/a/" + "%41" * 20_000,
    ],
)
def test_a_long_path_takes_bounded_time(path: str) -> None:
    """A path is matched soon, whatever it is made of; one of over 4,096 characters is no rule's."""
    made = app("/a/<path:x>/b/<path:y>/c", "/a/<int:n>", "/<z>/a/a")
    began = time.process_time()
    found = answered(made, sent(path, source="a"))
    assert time.process_time() - began < 10
    assert found is None or len(path) <= PATH_CHARACTERS_MAX


def test_what_is_remembered_is_the_same() -> None:
    """A path that comes again is answered as before, its variables its own."""
    made = app("/a/<int:n>")
    for _ in range(2):
        for number in range(3):
            assert answered(made, sent(f"/a/{number}?{number}")) == ("/a/<int:n>", number)


@pytest.mark.any_server
async def test_a_rule_s_handler_is_run(database: Database, connection: Connection) -> None:
    """A row is handled by its path, its variables given; one whose path nobody takes is ignored."""
    given: list[Any] = []
    watch = await Watch.over(connection)
    taken = await a_row(connection, source="deploy", target="/hooks/deploy/web/7", payload=b"[1]")
    other = await a_row(connection, source="deploy", target="/hooks/deploy/web")

    async def deploy(payload: list[int], name: str, n: int) -> None:
        given.append((payload, name, n))

    async with processing(database, handler(hookd.webhook("/deploy/<name>/<int:n>"), deploy)):
        settled = await watch.settled()
    assert settled == {taken: ("processed", None), other: ("processed", "ignored: no handler for event type None")}
    assert given == [([1], "web", 7)]
