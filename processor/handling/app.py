"""The user's app: modules, packages, or paths to files; imported so that nothing of ours is shadowed."""

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from chassis.logs import get_logger
from processor.handling import declare
from processor.handling.dispatch import Dispatch
from processor.handling.handler import WrongHandlers, made

OURS = ("hookd", "ingest", "processor", "protocol", "chassis", "migrations")
BETWEEN = ","  # of several apps in one setting

T = TypeVar("T")

log = get_logger()


class AppError(Exception):
    """Why an app cannot be used; a few lines at most, each naming a file where it can."""


def load(app: str) -> Dispatch:
    """Import `app`, one or several with commas between, and return its handlers. Raises AppError with all faults."""
    names = dict.fromkeys(each for each in (each.strip() for each in app.split(BETWEEN)) if each)
    if not names:
        raise AppError("no app is named: a module, or a path to a .py file")
    faults = [fault for name in names for fault in _faults_of_importing(name)]
    if not declare.declared and not faults:
        raise AppError(f'{app} declares no handler: write @hookd.on("source") above a function of one argument')
    handlers, wrong = made(declare.declared)
    try:
        dispatch = Dispatch(handlers)
    except WrongHandlers as error:
        wrong += error.faults
    if faults or wrong:
        raise AppError("\n".join((*faults, *wrong)))
    return dispatch


def _faults_of_importing(name: str) -> Iterator[str]:
    try:
        if name.endswith(".py") or "/" in name:
            _import_file(Path(name))
        else:
            _import_module(name)
    except AppError as error:
        yield str(error)


def _import_file(path: Path) -> None:
    path = path.absolute()
    if path.is_dir():
        raise AppError(f"{path} is a folder: name a package by its module's name, {path.name}, or one of its files")
    if not path.is_file():
        raise AppError(f"there is no file {path}")
    _append(path.parent)
    name = path.stem
    while name in OURS or name in sys.modules:
        name = f"app_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AppError(f"{path} is not a Python file")
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules[name] = module
    _guarded(lambda: loader.exec_module(module), str(path))


def _import_module(name: str) -> None:
    _append(Path.cwd())
    if name.partition(".")[0] in OURS and not name.startswith("hookd."):
        raise AppError(
            f"{name} is a package of hookd's own: name your file by its path, --app ./{name.replace('.', '/')}.py"
        )
    _import_all(name)


def _import_all(name: str) -> None:
    """A module; of a package all modules, but not what runs as a program. Of hookd's own it is that module alone."""
    module = _guarded(lambda: importlib.import_module(name), name)
    if name.partition(".")[0] in OURS:
        return
    for each in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if each.name != "__main__":
            _import_all(f"{name}.{each.name}")


def _append(folder: Path) -> None:
    # Appended: a processor.py or protocol.py of the user's must not take the place of ours.
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    hidden = [name for name in OURS if (folder / f"{name}.py").is_file()]
    if hidden:
        log.warning(
            "app.names_taken",
            files=", ".join(f"{name}.py" for name in hidden),
            folder=str(folder),
            hint="`import` finds hookd's own packages of these names, not these files",
        )


def _guarded(work: Callable[[], T], app: str) -> T:
    try:
        return work()
    except ModuleNotFoundError as error:
        if error.name == app:
            raise AppError(f"there is no module {app} (looked in {Path.cwd()} and the environment)") from None
        raise AppError(f"{app} does not import: {error}{_where(error)}") from None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise AppError(f"{app} does not import: {type(error).__name__}: {error}{_where(error)}") from None


def _where(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    theirs = [frame for frame in frames if Path(frame.filename).parent != Path(__file__).parent]
    return f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
