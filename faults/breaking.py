"""Whether a sabotage breaks anything: what it replaces was there, is used, and is reached while its case runs.

One that breaks nothing would be noticed too, if only because hookd does not start with it; and a part that has moved
leaves its sabotage behind. So hookd notes what was replaced and what was reached, and the suite reads it.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from inspect import Parameter
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, TypeAlias

from faults.sabotage import SABOTAGES

ROOMS = ("chassis", "hookd", "ingest", "migrations", "processor", "protocol")
NOTES = "sabotaged"  # a file in the folder where hookd runs; a line: BROKEN, REACHED or BLUNT, and what
BROKEN, REACHED, BLUNT = "broken", "reached", "blunt"
ABSENT = object()

Owner: TypeAlias = ModuleType | type
Seen: TypeAlias = dict[Owner, dict[str, Any]]
Note: TypeAlias = Callable[[str, str], None]


class Blunt(Exception):
    """A sabotage that breaks nothing."""


class Change(NamedTuple):
    """What stood under that name, and what stands there now."""

    owner: Owner
    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.owner.__name__}.{self.name}"


def sabotage_here(name: str) -> None:
    """Break this process so, and note in its folder what was broken, and what of it is reached. Raises Blunt."""
    path = Path.cwd() / NOTES

    def note(kind: str, what: str) -> None:
        with path.open("a") as notes:
            notes.write(f"{kind} {what}\n")

    try:
        break_by(SABOTAGES[name], note)
    except Exception as error:
        note(BLUNT, " ".join(str(error).split()) or repr(error))
        raise


def bluntness(folder: Path) -> str:
    """Why hookd was not broken at all in that folder; "" if it was."""
    try:
        lines = [line.partition(" ") for line in (folder / NOTES).read_text().splitlines()]
    except FileNotFoundError:
        return "no hookd was started with it"
    noted = {kind: {what for each, _, what in lines if each == kind} for kind in (BROKEN, REACHED, BLUNT)}
    unreached = {f"{each} was not reached" for each in noted[BROKEN] - noted[REACHED]}
    return "; ".join(sorted(noted[BLUNT] | unreached))


def break_by(sabotage: Callable[[], None], note: Note) -> None:
    """Raises Blunt unless all that it replaced was there, and is used."""
    before = _seen()
    sabotage()
    changes = list(_changes(before))
    if not changes:
        raise Blunt("it replaces nothing")
    for change in changes:
        if (why := fault(change)) is not None:
            raise Blunt(why)
        note(BROKEN, str(change))
        if isinstance(change.new, FunctionType):
            setattr(change.owner, change.name, _noting(change.new, functools.partial(note, REACHED, str(change))))
        else:
            note(REACHED, str(change))


def fault(change: Change) -> str | None:
    """Why that change breaks nothing, or something else than was meant."""
    if change.old is ABSENT:
        return f"there was no {change}"
    if isinstance(change.new, FunctionType):
        if not _is_called_alike(change.new, change.old):
            return f"{change} is called otherwise: {inspect.signature(change.old)}"
    elif not any(change.name in _names_read(code) for code in _codes()):
        return f"nobody reads {change}"
    if isinstance(change.owner, ModuleType):
        for module in _modules():
            if module is not change.owner and vars(module).get(change.name, ABSENT) is change.old:
                return f"{module.__name__} has the {change.name} of before"
    return None


def _modules() -> list[ModuleType]:
    return [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in ROOMS]


def _owners() -> Iterator[Owner]:
    for module in _modules():
        yield module
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__ == module.__name__:
                yield value


def _seen() -> Seen:
    return {owner: {name: _kept(value) for name, value in vars(owner).items()} for owner in _owners()}


def _kept(value: Any) -> Any:
    return value.copy() if isinstance(value, dict) else value


def _changes(before: Seen) -> Iterator[Change]:
    for owner, names in before.items():
        for name, new in list(vars(owner).items()):
            old = names.get(name, ABSENT)
            if old is not new and not (isinstance(old, dict) and old == new):
                yield Change(owner, name, _inherited(owner, name) if old is ABSENT else old, new)


def _inherited(owner: Owner, name: str) -> Any:
    bases = owner.__mro__[1:] if isinstance(owner, type) else ()
    return next((vars(base)[name] for base in bases if name in vars(base)), ABSENT)


def _is_called_alike(new: FunctionType, old: Any) -> bool:
    """Or whoever calls it would fail, whatever the sabotage means to show."""
    if inspect.iscoroutinefunction(getattr(old, "__func__", old)) != inspect.iscoroutinefunction(new):
        return False
    ours, theirs = _parameters(new), _parameters(old)
    if isinstance(old, staticmethod):
        ours = ours[1:]
    return theirs == ours or any(kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for _, kind in ours)


def _parameters(function: Any) -> list[tuple[str, Any]]:
    return [(each.name, each.kind) for each in inspect.signature(function).parameters.values()]


def _codes() -> Iterator[CodeType]:
    for owner in _owners():
        for value in vars(owner).values():
            function = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)) or value)
            if isinstance(function, FunctionType):
                yield function.__code__


def _names_read(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_read(constant)


def _noting(function: FunctionType, reached: Callable[[], None]) -> Callable[..., Any]:
    noted = False

    @functools.wraps(function)
    def noting(*arguments: Any, **named: Any) -> Any:
        nonlocal noted
        if not noted:
            noted = True
            reached()
        return function(*arguments, **named)

    return noting


def check_all() -> int:
    """Try every sabotage, each in a process of its own that does nothing else; how many are blunt. They are printed."""
    count = 0
    for name, sabotage in SABOTAGES.items():
        pid = os.fork()
        if not pid:
            os._exit(_checked(name, sabotage))
        count += os.waitpid(pid, 0)[1] != 0
    return count


def _checked(name: str, sabotage: Callable[[], None]) -> int:
    try:
        break_by(sabotage, lambda kind, what: None)
    except Exception as error:  # noqa: BLE001 - however it fails, it breaks nothing
        print(f"{name}: {type(error).__name__}: {error}", flush=True)
        return 1
    return 0
