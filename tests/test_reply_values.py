"""What a handler returns is an answer that can be sent, or it is told what it should have returned."""

import json
import string
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.handling.declare import Response
from processor.handling.reply import WrongReply, answer_of
from protocol.source import FRAMING

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
anything = st.one_of(
    json_values,
    st.binary(),
    st.tuples(json_values, st.integers()),
    st.tuples(st.text(), st.integers(100, 700), st.dictionaries(st.text(), st.text(), max_size=3)),
    st.builds(Response, json_values, st.integers(100, 700), st.lists(st.tuples(st.text(), st.text()), max_size=3)),
    st.just(object()),
    st.tuples(),
)


@given(value=anything)
def test_whatever_is_returned(value: Any) -> None:
    """It is bytes with a status and headers that HTTP allows, or it is refused: nothing else is raised."""
    try:
        status, headers, body = answer_of(value)
    except WrongReply:
        return
    assert type(status) is int
    assert 200 <= status <= 599
    assert type(body) is bytes
    for name, content in headers:
        assert set(name) <= set(string.ascii_letters + string.digits + "!#$%&'*+.^_`|~-")
        assert not set(content) & set("\r\n\0")
        assert name.lower() not in FRAMING


@given(value=st.one_of(st.lists(json_values, max_size=4), st.dictionaries(st.text(), json_values, max_size=4)))
def test_json_arrives_as_it_was_returned(value: Any) -> None:
    """A dict or a list is sent as JSON that says the same."""
    try:
        answer = answer_of(value)
    except WrongReply:  # a surrogate, or a number of more than 64 bits
        return
    assert orjson.loads(answer.body) == value
    assert answer.headers == (("Content-Type", "application/json"),)


def test_keys_that_are_no_text() -> None:
    """Numbers, true, false and null are keys as Python's own json writes them; what else is one is refused."""
    keyed = {7: "a", 2.5: "b", True: "c", None: "d"}
    assert orjson.loads(answer_of(keyed).body) == json.loads(json.dumps(keyed))
    with pytest.raises(WrongReply, match="cannot be sent"):
        answer_of({(1, 2): "a"})


@pytest.mark.parametrize(("status", "is_right"), [(199, False), (200, True), (599, True), (600, False), (True, False)])
def test_statuses(status: int, *, is_right: bool) -> None:
    """From 200 to 599: one below tells the sender to go on waiting."""
    if is_right:
        assert answer_of(("", status)).status == status
    else:
        with pytest.raises(WrongReply, match="expected 200 to 599"):
            answer_of(("", status))


@pytest.mark.parametrize("status", [204, 205, 304])
def test_some_statuses_have_no_body(status: int) -> None:
    """What HTTP sends no body with is sent without one."""
    assert answer_of(("body", status)) == (status, (), b"")


def test_the_handlers_own_content_type_counts() -> None:
    """Whatever the case of its name; else text is text/plain, for a browser must not run what a sender sent."""
    assert answer_of(("<p>", 200, {"content-TYPE": "text/html"})).headers == (("content-TYPE", "text/html"),)
    assert answer_of("<script>").headers == (("Content-Type", "text/plain; charset=utf-8"),)
