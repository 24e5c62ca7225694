"""Methods of classes as handlers: each is called on the one instance that is made of its class."""

import functools
import inspect
import sys
from typing import Any

from processor.handling.declare import Function


class Unbound(ValueError):
    """Why a method has nothing to be called on."""


class Instances:
    """The classes that declare handlers; one instance of each, made without arguments when the app is loaded."""

    def __init__(self) -> None:
        self._made: dict[type, Any] = {}

    def bound(self, function: Any) -> Function:
        """The function as it is called; a method with its class or instance before it. Raises Unbound."""
        path = getattr(function, "__qualname__", "").split(".")[:-1]
        if isinstance(function, staticmethod):
            return function.__func__
        if (
            not path
            or path[-1] == "<locals>"
            or not (inspect.isfunction(function) or isinstance(function, classmethod))
        ):
            return function  # type: ignore[no-any-return]
        owner = _found(function.__module__, path)
        kept = inspect.getattr_static(owner, function.__name__, None)  # @staticmethod may stand above our decorator
        if isinstance(kept, staticmethod):
            return kept.__func__
        if isinstance(kept, classmethod):
            return kept.__get__(None, owner)
        return function.__get__(self._instance_of(owner))

    def _instance_of(self, owner: type) -> Any:
        if owner not in self._made:
            try:
                self._made[owner] = owner()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever its __init__ does
                said = " ".join(str(error).split())
                raise Unbound(f"{owner.__qualname__}() raised {type(error).__name__}: {said}") from None
        return self._made[owner]


def _found(module: str, path: list[str]) -> type:
    owner = functools.reduce(lambda at, name: getattr(at, name, None), path, sys.modules.get(module))
    if not isinstance(owner, type):
        raise Unbound("its class cannot be found: declare it at the top of the module")
    return owner
