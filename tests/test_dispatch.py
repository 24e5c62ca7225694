"""Exactly one handler runs for an event: the most specific."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.handling.declare import ANY
from processor.handling.dispatch import Choice, Dispatch
from processor.handling.event import Event
from processor.handling.handler import Handler, WrongHandlers
from tests.processing import a_handler


def handler(source: str, event_type: str | None, place: str = "app.py:1") -> Handler:
    def function(event: Event) -> None: ...

    return a_handler(function, source, event_type, place)


def find(dispatch: Dispatch, source: str, event_type: str | None) -> Handler | None:
    """Whose an event of that source and type is."""
    row = {"source": source, "event_type": event_type, "method": "POST", "target": f"/{source}"}
    choice = dispatch.choose(row, None)
    return choice.handler if isinstance(choice, Choice) else None


PUSH, GITHUB = handler("github", "push"), handler("github", None)
ANY_PUSH, EVERYTHING = handler(ANY, "push"), handler(ANY, None)


@pytest.mark.parametrize(
    ("declared", "source", "event_type", "found"),
    [
        ((PUSH, GITHUB, ANY_PUSH, EVERYTHING), "github", "push", PUSH),
        ((GITHUB, ANY_PUSH, EVERYTHING), "github", "push", GITHUB),
        ((ANY_PUSH, EVERYTHING), "github", "push", ANY_PUSH),
        ((EVERYTHING,), "github", "push", EVERYTHING),
        ((PUSH, GITHUB, ANY_PUSH, EVERYTHING), "github", "star", GITHUB),
        ((PUSH, GITHUB, ANY_PUSH, EVERYTHING), "github", None, GITHUB),
        ((PUSH, GITHUB, ANY_PUSH, EVERYTHING), "gitlab", "push", ANY_PUSH),
        ((PUSH, GITHUB, ANY_PUSH, EVERYTHING), "gitlab", None, EVERYTHING),
        ((PUSH,), "github", "star", None),
        ((PUSH, GITHUB), "gitlab", "push", None),
    ],
)
def test_the_most_specific_handler_wins(
    declared: tuple[Handler, ...], source: str, event_type: str | None, found: Handler | None
) -> None:
    """The source by its name goes before any source, and with it the type by its name before any type."""
    assert find(Dispatch(declared), source, event_type) is found
    assert find(Dispatch(reversed(declared)), source, event_type) is found


@pytest.mark.parametrize(
    ("source", "event_type", "said"),
    [
        ("github", "push", "event 'push' of 'github'"),
        ("github", None, "every event of 'github'"),
        (ANY, None, "every event of every source"),
    ],
)
def test_two_equally_specific_handlers_are_refused(source: str, event_type: str | None, said: str) -> None:
    """Two handlers that take exactly the same events are refused, with the place of both."""
    twins = [handler(source, event_type, "a.py:3"), handler(source, event_type, "b.py:7")]
    with pytest.raises(WrongHandlers, match=f"a.py:3 and b.py:7 both take {said}"):
        Dispatch([GITHUB if event_type else PUSH, *twins])


def test_every_clash_is_told() -> None:
    """Each pair that contradicts itself has its line."""
    with pytest.raises(WrongHandlers) as refused:
        Dispatch([PUSH, PUSH, handler("github", "push"), GITHUB, handler("github", None)])
    assert len(str(refused.value).splitlines()) == 2


def test_a_known_source() -> None:
    """A source is known when some handler takes events of it, of whatever type; with `*` every source is."""
    assert Dispatch([PUSH]).knows("github")
    assert not Dispatch([PUSH]).knows("gitlab")
    assert Dispatch([ANY_PUSH]).knows("gitlab")


names = st.sampled_from(["github", "gitlab", "stripe"])
types = st.none() | st.sampled_from(["push", "star"])


@given(st.sets(st.tuples(names | st.just(ANY), types)), names, types)
def test_a_handler_found_takes_the_event(
    interests: set[tuple[str, str | None]], source: str, event_type: str | None
) -> None:
    """The handler found takes the event, and one is found whenever any takes it."""
    taking = {(s, t) for s, t in interests if s in (source, ANY) and t in (event_type, None)}
    found = find(Dispatch(handler(*interest) for interest in interests), source, event_type)
    assert (found is None) == (not taking)
    if found is not None:
        assert (found.source, found.event_types[0] if found.event_types else None) in taking
