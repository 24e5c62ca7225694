"""What is fuzzed: the public functions of protocol/ that take bytes or text, the judgement of every provider, and what
a handler is told that a body says.

To be there is to be declared: a function of a parser's module, and a provider of the table.
"""

import builtins
import contextlib
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

import protocol
from fuzz import judgement
from processor.handling import body

# Reached with a sender's bytes by way of `judgement` alone.
BEHIND_THE_JUDGEMENT = {
    f"protocol.{name}"
    for name in ("challenge", "hints", "keys", "naming", "providers", "samples", "schemes", "signature", "verdict")
}
# Their words are the operator's, or our own.
OURS = {f"protocol.{name}" for name in ("greetings", "shaping", "source")}
ROOM = re.compile(r"^(protocol|fuzz|processor\.handling)\.")
RAISES = re.compile(r"\bRaises\b[^.]*")  # one sentence of a docstring


@dataclass(frozen=True)
class Target:
    """A function, what it is given, and what it may raise."""

    name: str
    function: Callable[..., object]
    parameters: Mapping[str, object]
    may_raise: tuple[type[BaseException], ...]


def all_targets() -> dict[str, Target]:
    """By name: content.form, request.path_of, …"""
    modules = (found.name for found in pkgutil.iter_modules(protocol.__path__, "protocol."))
    parsers = (importlib.import_module(name) for name in modules if name not in BEHIND_THE_JUDGEMENT | OURS)
    functions = (each for module in (*parsers, judgement, body) for each in public(module))
    targets = [target_of(function) for function in functions]
    return {target.name: target for target in targets if takes_words(target)}


def public(module: ModuleType) -> Iterator[Callable[..., object]]:
    """The functions that are this module's own, cached ones too."""
    for name, value in vars(module).items():
        if inspect.isfunction(inspect.unwrap(value)) and value.__module__ == module.__name__ and name[0] != "_":
            yield value


def target_of(function: Callable[..., object]) -> Target:
    """What its annotations and its docstring say of it."""
    plain = inspect.unwrap(function)
    hints = typing.get_type_hints(plain)
    hints.pop("return", None)
    name = ROOM.sub("", f"{plain.__module__}.{plain.__qualname__}")
    return Target(name, function, hints, tuple(named_exceptions(plain)))


def named_exceptions(function: Callable[..., object]) -> Iterator[type[BaseException]]:
    known = {**vars(builtins), **getattr(function, "__globals__", {})}
    for sentence in RAISES.findall(inspect.getdoc(function) or ""):
        for word in re.findall(r"\w+", sentence):
            if inspect.isclass(known.get(word)) and issubclass(known[word], BaseException):
                yield known[word]


def takes_words(target: Target) -> bool:
    """Whether a sender's bytes or text can reach it."""
    return any(leaf in (str, bytes, bytearray) for hint in target.parameters.values() for leaf in leaves(hint))


def leaves(hint: object) -> Iterator[object]:
    """The plain types of an annotation: of `Mapping[str, int] | None` str, int and None."""
    inner = typing.get_args(hint)
    if not inner:
        yield hint
    for each in inner:
        yield from leaves(each)


def attempt(target: Target, arguments: Mapping[str, object]) -> None:
    """Call it once. Raises what its docstring does not name."""
    with contextlib.suppress(*target.may_raise):
        target.function(**arguments)
