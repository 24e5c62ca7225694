"""Sources in a file (TOML): as they are exported and applied. No secret stands in it, only where one is."""

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from hookd.options import ago, in_units
from hookd.registry.plan import Faults, Registered
from protocol.providers import PROVIDERS
from protocol.providers.provider import Success
from protocol.source import Draft

HEAD = """\
# Sources of hookd; see: hookd sources apply --help
# No secret is in this file. A new one is named by secret_file = "…" or secret_env = "…", a secret option by
# option_file.NAME = "…" or option_env.NAME = "…"; paths are relative to this file.
"""
FIELDS = (
    "provider", "mode", "methods", "duplicates", "window", "body_bytes_max", "commit_timeout_seconds", "answer",
    "options", "secret_file", "secret_env", "option_file", "option_env",
)  # fmt: skip
ANSWER_FIELDS = ("status", "headers", "body")
MISSING: Any = object()


@dataclass(frozen=True)
class Entry:
    """A source of a file, and where its new secrets are."""

    draft: Draft
    secret_files: tuple[str, ...] = ()
    secret_variables: tuple[str, ...] = ()
    option_files: Mapping[str, str] = field(default_factory=dict)
    option_variables: Mapping[str, str] = field(default_factory=dict)


def as_toml(sources: Iterable[Registered]) -> str:
    """What `parse` reads; comments say what is not in it."""
    import tomli_w  # noqa: PLC0415 - for an export alone

    parts = [
        f"# {said_of_secrets(each)}\n" + tomli_w.dumps({"sources": {each.draft.name: table_of(each.draft)}})
        for each in sources
    ]
    return "\n".join((HEAD, *parts))


def said_of_secrets(source: Registered) -> str:
    """How many, since when, until when: for a person."""
    if not source.good and not source.secret_options:
        return "no secret"
    said = [
        f"a secret since {each.added_at:%Y-%m-%d}"
        + (f", until {each.expires_at:%Y-%m-%d %H:%MZ}" if each.expires_at else "")
        for each in source.good
    ]
    said += [f"the secret option {name}" for name in source.secret_options]
    return "; ".join(said)


def table_of(draft: Draft) -> dict[str, Any]:
    """A draft without its name, as it stands in a file; what is not said is left to its default."""
    answer = draft.answer
    table: dict[str, Any] = {
        "provider": draft.provider,
        "mode": draft.mode,
        "methods": list(draft.methods),
        "duplicates": draft.duplicates,
        "window": in_units(timedelta(seconds=draft.window_seconds)),
        "body_bytes_max": draft.body_bytes_max,
        "commit_timeout_seconds": draft.commit_timeout_seconds,
        "options": dict(draft.options) or None,
        "answer": None,
    }
    if answer is not None:
        said = {"status": answer.status, "headers": [list(pair) for pair in answer.headers] or None}
        table["answer"] = _present({**said, "body": answer.body.decode() if answer.body is not None else None})
    return _present(table)


def parse(text: str, window_seconds: int) -> tuple[list[Entry], list[str]]:
    """The sources of a file that can be read, and what is wrong with it; `window_seconds` where it names none.

    Raises Faults where it is no TOML.
    """
    try:
        document = tomllib.loads(text)
    except ValueError as error:
        raise Faults([f"no TOML: {error}"]) from None
    reading = Reading("", document)
    tables = reading.take("sources", _tables, "tables such as [sources.github]", {})
    reading.done(("sources",))
    faults, entries = list(reading.faults), []
    for name, table in tables.items():
        entry, found = _entry(name, table, window_seconds)
        entries += [] if found else [entry]
        faults += found
    return entries, faults


def _entry(name: str, table: Mapping[str, Any], window_seconds: int) -> tuple[Entry, list[str]]:
    reading = Reading(f"{name}: ", table)
    provider = reading.take("provider", _text, "text", "none")
    known = PROVIDERS.get(provider)
    draft = Draft(
        name,
        provider,
        reading.take("mode", _text, "text", "deferred" if known is None or known.credential else "off"),
        reading.take("options", _options, "a table of text, numbers, true or false", {}),
        reading.take("methods", _texts, "a list of text", ("POST",)),
        None,
        reading.take("body_bytes_max", _whole, "a whole number", None),
        reading.take("commit_timeout_seconds", _number, "a number", None),
        reading.take("duplicates", _text, "text", "verified"),
        reading.take("window", _seconds, "a length of time such as 24h or 7d", window_seconds),
    )
    answer, faults = _answer(name, reading.take("answer", _table, "a table", None))
    reading.done(FIELDS)
    entry = Entry(
        replace(draft, answer=answer),
        reading.take("secret_file", _texts, "a file's name, or a list of them", ()),
        reading.take("secret_env", _texts, "a variable's name, or a list of them", ()),
        reading.take("option_file", _options, "a table of file names", {}),
        reading.take("option_env", _options, "a table of names of variables", {}),
    )
    return entry, reading.faults + faults


def _answer(name: str, table: Mapping[str, Any] | None) -> tuple[Success | None, list[str]]:
    if table is None:
        return None, []
    reading = Reading(f"{name}: answer.", table)
    body = reading.take("body", _text, "text", None)
    answer = Success(
        reading.take("status", _whole, "a whole number", 200),
        reading.take("headers", _pairs, 'a list such as [["name", "value"]]', ()),
        body.encode() if body is not None else None,
    )
    reading.done(ANSWER_FIELDS)
    return answer, reading.faults


class Reading:
    """Takes fields from a table, and notes what is wrong with them."""

    def __init__(self, where: str, table: Mapping[str, Any]) -> None:
        self._where = where
        self._table = table
        self.faults: list[str] = []

    def take(self, name: str, read: Callable[[Any], Any], expected: str, default: Any) -> Any:
        value = self._table.get(name, MISSING)
        if value is MISSING:
            return default
        try:
            return read(value)
        except (TypeError, ValueError):
            self.faults.append(f"{self._where}{name}: expected {expected}")
            return default

    def done(self, known: tuple[str, ...]) -> None:
        """Note what is in the table beside the known names."""
        for name in self._table:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else f", only {', '.join(known)}"
                self.faults.append(f"{self._where}{name!r}: there is no such field{hint}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _wrong()


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, [value] if isinstance(value, str) else _list(value)))


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else _wrong()


def _number(value: Any) -> float:
    return value if isinstance(value, float) else float(_whole(value))


def _seconds(value: Any) -> int:
    length = ago(_text(value))
    return int(length.total_seconds()) if length is not None else _wrong()


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else _wrong()


def _tables(value: Any) -> dict[str, dict[str, Any]]:
    return {name: _table(each) for name, each in _table(value).items()}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else _wrong()


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    return tuple((_text(name), _text(each)) for name, each in map(_list, _list(value)))


def _options(value: Any) -> dict[str, str]:
    """Options are text; whoever writes a number or a boolean means its text."""
    return {name: _option(each) for name, each in _table(value).items()}


def _option(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else _text(value)


def _wrong() -> Any:
    raise TypeError


def _present(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not None}
