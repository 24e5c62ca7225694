"""What a handler is given: what its parameters ask for, by their names and annotations."""

import functools
import subprocess
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional
from uuid import UUID

import asyncpg
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator

import hookd
from processor.handling.arguments import WrongPayload
from processor.handling.handler import made
from tests.handling import FORM, an_event, declared, faults, handler, run
from tests.test_app import refusal, write

if typing.TYPE_CHECKING:
    from decimal import Decimal

ON = hookd.on("demo")
HOOK = hookd.webhook("/demo")
PUSH = b'{"ref": "main", "commits": [{"id": 7}]}'


class Commit(BaseModel):
    id: int


class Push(BaseModel):
    ref: str
    commits: list[Commit] = []


@dataclass
class Order:
    id: UUID
    paid: bool = False


class Invoice(typing_extensions.TypedDict):
    total: int


class OldInvoice(typing.TypedDict):
    total: int


# By name and annotation


def test_a_handler_s_first_parameter_is_the_event() -> None:
    """Whatever it is called; a webhook's is what the body says, and with raw=True the event again."""
    event = an_event(b'{"a": 1}')
    assert run(handler(ON, lambda anything: anything), event) is event
    assert run(handler(HOOK, lambda anything: anything), event) == {"a": 1}
    assert run(handler(hookd.webhook("/demo", raw=True), lambda payload: payload), event) is event


def test_parameters_are_known_by_their_names() -> None:
    """`event`, `payload`, `conn` and `connection` need no annotation, in any order, keyword-only or not."""
    event, connection = an_event(b'{"a": 1}'), object()

    async def one(conn, event, payload): ...  # type: ignore[no-untyped-def]

    def all_of_them(payload, event, /, *rest, more=3):  # type: ignore[no-untyped-def]
        return payload, event, rest, more

    def by_keyword(*, event, payload):  # type: ignore[no-untyped-def]
        return payload, event

    assert handler(ON, one).wants_connection
    assert not handler(ON, all_of_them).wants_connection
    for decorator in (ON, HOOK):
        assert run(handler(decorator, all_of_them), event) == ({"a": 1}, event, (), 3)
        assert run(handler(decorator, by_keyword), event) == ({"a": 1}, event)
        assert run(handler(decorator, lambda payload: payload), event) == {"a": 1}
        assert run(handler(decorator, lambda event: event), event) is event
    coroutine = run(handler(ON, one), event, connection=connection)
    assert coroutine.cr_frame.f_locals == {"conn": connection, "event": event, "payload": {"a": 1}}
    coroutine.close()


def test_parameters_are_known_by_their_annotations() -> None:
    """hookd.Event and asyncpg.Connection, whatever they are called; also where they may be None."""
    event, connection = an_event(b'{"a": 1}'), object()

    async def one(database: asyncpg.Connection, what: hookd.Event) -> Any:
        return database, what

    async def other(database: Optional[asyncpg.Connection], what: hookd.Event | None) -> Any:  # noqa: UP045
        return database, what

    for function in (one, other):
        for decorator in (ON, HOOK):
            made = handler(decorator, function)
            assert made.wants_connection
            assert made.is_async
            with pytest.raises(StopIteration) as returned:
                run(made, event, connection=connection).send(None)
            assert returned.value.value == (connection, event)


def test_a_connection_is_for_coroutines() -> None:
    """A `def` runs in a thread, where asyncpg's connections cannot be used."""

    def plain(event, conn): ...  # type: ignore[no-untyped-def]

    assert faults((ON, plain)) == ["a connection is for an async def: asyncpg's cannot be used in a thread"]


@pytest.mark.parametrize(
    ("annotation", "body", "given"),
    [
        (dict, b'{"a": 1}', {"a": 1}),
        (dict[str, int], b'{"a": "1"}', {"a": 1}),
        (list, b"[1, 2]", [1, 2]),
        (list[Commit], b'[{"id": "3"}]', [Commit(id=3)]),
        (int, b" 7 ", 7),
        (str, b'{"a": 1}', '{"a": 1}'),
        (str, b"not JSON", "not JSON"),
        (str | None, b"\xc3\xa9", "\xe9"),
        (bytes, b"\xff\0", b"\xff\0"),
        (Optional[bytes], b"", b""),  # noqa: UP045
        (dict | None, b"", None),
        (Any, b"[0]", [0]),
        (object, b"[0]", [0]),
        (Push, PUSH, Push(ref="main", commits=[Commit(id=7)])),
        (Push | None, b"null", None),
        (Order, b'{"id": "01980000-0000-7000-8000-000000000000"}', Order(UUID(int=0x01980000000070008000000000000000))),
        (Invoice, b'{"total": "12"}', {"total": 12}),
        ("Push", PUSH, Push(ref="main", commits=[Commit(id=7)])),
        (list["Commit"], b'[{"id": 1}]', [Commit(id=1)]),
        ("dict[str, 'Commit']", b'{"x": {"id": 1}}', {"x": Commit(id=1)}),
    ],
)
def test_a_payload_is_what_it_is_annotated_with(annotation: Any, body: bytes, given: object) -> None:
    """Checked and made of the body: dict, list, text, bytes, a pydantic model, a dataclass, a TypedDict."""

    def function(payload: Any) -> object:
        return payload

    def beside(event: hookd.Event, *, payload: Any) -> object:
        return payload

    for each in (function, beside):
        each.__annotations__["payload"] = annotation
        for decorator in (HOOK, ON):
            assert run(handler(decorator, each), an_event(body)) == given


def test_a_payload_of_a_form() -> None:
    """What a form says is checked as JSON is."""

    def function(payload: Invoice) -> Invoice:
        return payload

    assert run(handler(HOOK, function), an_event(b"total=12", FORM)) == {"total": 12}


@pytest.mark.parametrize(
    ("annotation", "body", "said"),
    [
        (dict, b"[]", "payload: Input should be a valid dictionary"),
        (dict, b"", "payload: Input should be a valid dictionary"),
        (Push, b'{"ref": "x", "commits": [{"id": "?"}]}', "payload.commits.0.id: Input should be a valid integer"),
        (Push, b"{}", "payload.ref: Field required"),
        (Order, b'{"id": 1}', "payload.id: UUID input should be a string"),
        (Invoice, b"{}", "payload.total: Field required"),
        (list[int], b'["a", "b", "c", "d", "e"]', "payload.2: Input should be a valid integer, unable to"),
        (list[int], b'["a", "b", "c", "d", "e"]', "; and 2 more"),
        (dict[str, int], b'{"a": "secret"}', "payload.a: Input should be a valid integer"),
        (dict[str, int], b'{"a\\nb": "x"}', "payload.'a\\nb': Input should be a valid integer"),
        (dict, b'{"a": ', "the body is not JSON: Expecting value: line 1 column 7"),
        (str, b"\xff", "the body is not utf-8: invalid start byte at byte 0"),
    ],
)
def test_a_payload_that_does_not_fit_is_rejected(annotation: Any, body: bytes, said: str) -> None:
    """The event fails at once, for another attempt would find the same: with the place, without the sender's words."""

    def function(payload: Any) -> None: ...

    function.__annotations__["payload"] = annotation
    with pytest.raises(hookd.Reject) as refused:
        run(handler(HOOK, function), an_event(body))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_validator_of_its_own_may_fail_otherwise() -> None:
    """What a model's own code raises, but ValueError, is a fault of its own, and tried again."""

    class Odd(BaseModel):
        a: int

        @field_validator("a")
        @classmethod
        def ask(cls, value: int) -> int:
            raise KeyError(value) if value else ValueError("zero")

    def function(payload: Odd) -> None: ...

    with pytest.raises(KeyError):
        run(handler(HOOK, function), an_event(b'{"a": 1}'))
    with pytest.raises(WrongPayload, match=r"^payload.a: Value error, zero$"):
        run(handler(HOOK, function), an_event(b'{"a": 0}'))


def test_a_field_of_a_form() -> None:
    """With form_param= it is that field: decoded where it is JSON, else its text; checked as it is annotated."""
    hook = hookd.webhook("/demo", form_param="form")

    def checked(field: Push) -> Push:
        return field

    plain = handler(hook, lambda payload: payload)
    for sent, value in ((b'["foo"]', ["foo"]), (b"null", None), (b"text", "text"), (b"", ""), (b"0", 0)):
        assert run(plain, an_event(b"a=b&form=" + sent, FORM)) == value
    assert run(plain, an_event(b"form=1&form=2", FORM)) == 2
    assert run(plain, an_event(b"form=" + b"[" * 100_000, FORM)) == "[" * 100_000
    assert run(handler(hook, checked), an_event(b"form=" + PUSH, FORM)).ref == "main"
    with pytest.raises(hookd.Reject, match=r"^the form has no field 'form'$"):
        run(plain, an_event(b"a=b", FORM))
    with pytest.raises(hookd.Reject, match=r"^the body is not a form: "):
        run(plain, an_event(b"{}"))
    with pytest.raises(hookd.Reject, match=r"^form.ref: Field required$"):
        run(handler(hook, checked), an_event(b"form={}", FORM))


def test_the_field_and_the_payload() -> None:
    """Beside the field the whole form can be asked for."""
    both = handler(hookd.webhook("/demo", form_param="a"), lambda field, payload: (field, payload))
    assert run(both, an_event(b"a=1&b=2", FORM)) == (1, {"a": "1", "b": "2"})


def test_defaults() -> None:
    """What nobody gives keeps its default; what its name asks for is given all the same."""

    def function(first=0, more=3, /, other=4, payload=None, *, event=None, last=5, **rest):  # type: ignore[no-untyped-def]
        return first, more, other, payload, event, last, rest

    event = an_event(b"{}")
    assert run(handler(ON, function), event) == (event, 3, 4, {}, event, 5, {})
    assert run(handler(HOOK, function), event) == ({}, 3, 4, {}, event, 5, {})


def test_any_arguments() -> None:
    """`*args` is given what the handler is about, where nothing else is: a decorator without functools.wraps works."""

    def careless(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    event = an_event(b"[1]")
    rule = hookd.webhook("/demo/<name>/<int:n>")
    assert run(handler(ON, careless(lambda event: event)), event) is event
    assert run(handler(HOOK, careless(lambda payload: payload)), event) == [1]
    taken = handler(rule, careless(lambda payload, name, n: (payload, name, n)))
    assert run(taken, event, {"name": "x", "n": 4}) == ([1], "x", 4)
    assert run(handler(ON, lambda event, *rest: rest), event) == ()


def test_the_rule_s_variables() -> None:
    """By their names, positional or not; `**kwargs` takes those that nobody names; a name goes before its meaning."""
    event, values = an_event(b"[1]"), {"name": "x", "n": 4}
    rule = hookd.webhook("/demo/<name>/<int:n>")
    assert run(handler(rule, lambda n, payload, name: (n, payload, name)), event, values) == (4, [1], "x")
    assert run(handler(rule, lambda payload, *, name, n: (n, payload, name)), event, values) == (4, [1], "x")
    assert run(handler(rule, lambda n, /, payload, **rest: (n, payload, rest)), event, values) == (
        4,
        [1],
        {"name": "x"},
    )
    assert run(handler(rule, lambda **rest: rest), event, values) == values
    assert run(handler(rule, lambda name, n: (name, n)), event, values) == ("x", 4)
    named = hookd.webhook("/demo/<event>/<payload>")
    assert run(handler(named, lambda event, payload: (event, payload)), event, {"event": "e", "payload": "p"}) == (
        "e",
        "p",
    )


# What may be a handler


class Callables:
    def __call__(self, event: hookd.Event, payload: dict[str, int]) -> object:
        return payload


def test_partials_and_callable_objects() -> None:
    """Their place is that of their code, their name that of the function beneath."""

    def function(first: int, event: hookd.Event, *, more: int) -> object:
        return first, event, more

    event = an_event(b'{"a": 1}')
    partial = handler(ON, functools.partial(functools.partial(function, 1), more=2))
    assert run(partial, event) == (1, event, 2)
    assert partial.name.endswith("function")
    assert run(handler(ON, Callables()), event) == {"a": 1}
    assert handler(ON, Callables()).name == "Callables.__call__"
    for each in (function, functools.partial(function, 1), Callables(), functools.wraps(function)(lambda *args: None)):
        with declared() as found:
            ON(each)
        assert found[0].place.startswith(f"{__file__}:"), found


def test_a_wrapper_is_called_as_what_it_wraps() -> None:
    """functools.wraps tells the wrapped function's parameters, and its annotations are read in its own module."""

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return "wrapped", function(*args, **kwargs)

        return wrapper

    @wrapped
    def function(payload: "Push", event: "hookd.Event") -> Any:
        return payload.ref, event

    event = an_event(PUSH)
    assert run(handler(HOOK, function), event) == ("wrapped", ("main", event))


def test_what_has_no_code_is_declared_somewhere() -> None:
    """Of a built-in function the place is the line that declares it."""
    with declared() as found:
        line = sys._getframe().f_lineno + 1
        hookd.on("demo")(print)
    assert found[0].place == f"{__file__}:{line}"


def test_string_annotations(tmp_path: Path) -> None:
    """`from __future__ import annotations` changes nothing; what is returned may be annotated with anything."""
    code = """
from __future__ import annotations
from typing import TYPE_CHECKING
import hookd
from pydantic import BaseModel
if TYPE_CHECKING:
    from elsewhere import Answer

class Push(BaseModel):
    ref: str

@hookd.webhook
async def deploy(push: Push, event: hookd.Event) -> Answer: ...
"""
    path = write(tmp_path / "app.py", code)
    said = "import sys; from processor.handling.app import load; print(load(sys.argv[1]).handlers[0].name)"
    loaded = subprocess.run([sys.executable, "-c", said, str(path)], capture_output=True, text=True, check=True)
    assert loaded.stdout == "deploy\n"


def test_what_is_imported_for_type_checkers_alone() -> None:
    """An annotation that is not there when the app is loaded is refused, with its name."""

    def function(payload: "Decimal") -> None: ...

    (fault,) = faults((HOOK, function))
    assert fault == "the annotation 'Decimal' of 'payload' cannot be read: NameError: name 'Decimal' is not defined"


def test_a_typed_dict_of_the_standard_library() -> None:
    """Before Python 3.12 pydantic cannot check it, and says which one to take."""

    def function(payload: OldInvoice) -> None: ...

    if sys.version_info >= (3, 12):
        assert not faults((HOOK, function))
        return
    (fault,) = faults((HOOK, function))
    assert "OldInvoice" in fault
    assert "Please use `typing_extensions.TypedDict` instead of `typing.TypedDict`" in fault


class Unfinished(BaseModel):
    a: "NotThere"  # type: ignore[name-defined] # noqa: F821


def test_a_model_that_is_not_finished() -> None:
    """A model whose own fields cannot be read is refused at once, not at its first event."""

    def function(payload: Unfinished) -> None: ...

    (fault,) = faults((HOOK, function))
    assert "Unfinished cannot be checked: " in fault


@pytest.mark.parametrize(
    ("decorator", "function", "said"),
    [
        (ON, lambda: None, "a handler takes at least one argument, the event"),
        (ON, lambda **rest: None, "a handler takes at least one argument, the event"),
        (ON, lambda event, other: None, "nothing is given to its parameter 'other': expected the event (hookd.Event)"),
        (HOOK, lambda a, *, b: None, "nothing is given to its parameter 'b': expected the event"),
        (hookd.webhook("/a/<x>"), lambda a, b, x: None, "'b': expected the event (hookd.Event) or `payload` or a con"),
        (hookd.webhook("/a/<x>"), lambda a, b, x: None, "or one of the rule's x"),
        (hookd.webhook("/a/<x>/<y>"), lambda payload: None, "it takes no argument for the rule's x, y"),
        (ON, min, "its parameters cannot be read: no signature found for builtin"),
        (ON, (each for each in "abc"), "is not a callable object"),
        (ON, 7, "7 is not a callable object"),
    ],
)
def test_a_wrong_signature(decorator: Callable[..., Any], function: Any, said: str) -> None:
    """A function that could never be called is refused, in words that say what can be asked for."""
    (fault,) = faults((decorator, function))
    assert said in fault


def test_a_generator_is_no_handler() -> None:
    """Nothing of it would run."""

    def plain(event):  # type: ignore[no-untyped-def]
        yield

    async def coroutine(event):  # type: ignore[no-untyped-def]
        yield

    for function in (plain, coroutine, functools.partial(plain)):
        assert faults((ON, function)) == ["a handler must not yield, for nothing of it would run"]


@given(
    st.lists(st.sampled_from(["event", "payload", "a", "x", "*", "/", "**rest", "*rest"]), unique=True), st.booleans()
)
def test_what_is_loaded_can_be_called(names: list[str], has_defaults: bool) -> None:
    """A handler that is not refused is given all that it takes."""
    names.sort(key=lambda each: each == "**rest")
    parameters = [f"{each}=0" if has_defaults and each.isidentifier() else each for each in names]
    try:
        function = eval(f"lambda {', '.join(parameters)}: True")
    except SyntaxError:
        return
    for decorator in (ON, HOOK, hookd.webhook("/demo/<x>"), hookd.webhook("/demo", raw=True)):
        with declared() as found:
            decorator(function)
        handlers, _ = made(found)
        for each in handlers:
            assert run(each, an_event(), dict.fromkeys(each.rule.variables if each.rule else (), 1)) is True


# Methods
# All together


def test_all_faults_of_an_app_are_told_together(tmp_path: Path) -> None:
    """Each in a line of its own, with its file and line; of several apps all, those that do not import too."""
    first = write(
        tmp_path / "first.py",
        """
import hookd
@hookd.on(["a", "b"], event=5, timeout="30", retries="3")
def one(event): ...
@hookd.webhook("/x/<foo:y>", raw=True, form_param="z", methods="post")
def two(event, y, other): ...
@hookd.on("c", where="payload.")
def three(): ...
@hookd.on("d")
def four(event): ...
@hookd.on("d")
def five(event): ...
hookd.webhook(7)(lambda payload: None)
""",
    )
    second = write(tmp_path / "second.py", "1 / 0\n")
    said = refusal(f"{first},{second}", tmp_path).splitlines()
    assert [line.removeprefix(f"{tmp_path}/").split(" ")[0] for line in said] == [
        f"{second}".removeprefix(f"{tmp_path}/"),
        *["first.py:3:"] * 4,
        *["first.py:5:"] * 3,
        *["first.py:7:"] * 2,
        "first.py:13:",
        "first.py:9",
    ]
    for each in (
        "['a', 'b'] is no source's name", "event=[5]: expected names or patterns", "timeout='30': expected seconds",
        "retries='3': expected how many, or the delays", "the converter 'foo' does not exist", "'post' is no method",
        "raw=True and form_param= exclude each other", "where='payload.'", "first.py:9 and", "first.py:11 both take",
        "the rule 7 must begin with a slash", "ZeroDivisionError", "at least one argument",
    ):  # fmt: skip
        assert each in "\n".join(said), each
