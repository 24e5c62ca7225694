"""Methods as handlers: of a class whose one object is made for all of them, as Errbot's plugins are written."""

import functools
from collections.abc import Callable
from typing import Any

import hookd
from processor.handling.handler import made
from tests.handling import an_event, declared, run

ON = hookd.on("demo")
HOOK = hookd.webhook("/demo")


def plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


with declared() as OF_THE_DESK:

    class Desk:
        """As Errbot's plugins are written."""

        made = 0

        def __init__(self) -> None:
            Desk.made += 1

        def __len__(self) -> int:
            return 0  # an instance that counts as false is one all the same

        @hookd.webhook
        def naked(self, payload: Any) -> Any:
            return self, payload

        @hookd.on("desk")
        async def on(self, event: hookd.Event) -> Any:
            return self, event

        @hookd.on("wrapped")
        @plainly
        def wrapped(self, event: hookd.Event) -> Any:
            return self, event

        by_lambda = hookd.webhook("/lambda")(lambda self, payload: (self, payload))

        @hookd.on("static-below")
        @staticmethod
        def static_below(event: hookd.Event) -> Any:
            return event

        @staticmethod
        @hookd.on("static-above")
        def static_above(event: hookd.Event) -> Any:
            return event

        @hookd.on("class-below")
        @classmethod
        def class_below(cls, event: hookd.Event) -> Any:
            return cls, event

        @hookd.webhook
        @classmethod
        def class_naked(cls, payload: Any) -> Any:
            return cls, payload

        @classmethod
        @hookd.on("class-above")
        def class_above(cls, event: hookd.Event) -> Any:
            return cls, event

        class Drawer:
            @hookd.on("nested")
            def method(self, event: hookd.Event) -> Any:
                return self, event


def test_methods_of_classes() -> None:
    """All methods of a class are called on one instance of it, made without arguments when the app is loaded."""
    Desk.made = 0
    handlers, wrong = made(OF_THE_DESK)
    assert wrong == []
    assert Desk.made == 1
    event = an_event(b"[1]")
    by_source = {each.source: each for each in handlers}
    desk, payload = run(by_source["naked"], event)
    assert isinstance(desk, Desk)
    assert payload == [1]
    assert run(by_source["lambda"], event) == (desk, [1])
    assert run(by_source["wrapped"], event) == (desk, event)
    assert by_source["desk"].is_async
    run(by_source["desk"], event).close()
    for name in ("static-below", "static-above"):
        assert run(by_source[name], event) is event
    for name in ("class-below", "class-above"):
        assert run(by_source[name], event) == (Desk, event)
    assert run(by_source["class_naked"], event) == (Desk, [1])
    drawer, _ = run(by_source["nested"], event)
    assert isinstance(drawer, Desk.Drawer)


with declared() as OF_THE_SAFE:

    class Safe:
        def __init__(self, key: str) -> None:
            """Nobody gives it one."""

        @hookd.on("safe")
        def opened(self, event: hookd.Event) -> None: ...

        @staticmethod
        @hookd.on("static")
        def static(event: hookd.Event) -> None: ...

    class Fragile:
        def __init__(self) -> None:
            raise SystemExit("not\ntoday")

        @hookd.on("fragile")
        def touched(self, event: hookd.Event) -> None: ...


def test_a_class_that_cannot_be_made() -> None:
    """What its __init__ raises is told at each method that needs it; those without self are none the worse."""
    handlers, wrong = made(OF_THE_SAFE)
    assert [each.source for each in handlers] == ["static"]
    assert [each.split(": ", 1)[1] for each in wrong] == [
        "Safe() raised TypeError: Safe.__init__() missing 1 required positional argument: 'key'",
        "Fragile() raised SystemExit: not today",
    ]


def test_a_class_in_a_function() -> None:
    """Nobody could find it again, to make an instance of it; a bound method needs none."""
    with declared() as found:

        class Local:
            @hookd.on("local")
            def method(self, event: hookd.Event) -> Any:
                return self

        local = Local()
        hookd.on("bound")(local.method)
    handlers, (fault,) = made(found)
    assert fault.endswith(": its class cannot be found: declare it at the top of the module")
    assert run(handlers[0], an_event()) is local
