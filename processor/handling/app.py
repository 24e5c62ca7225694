"""The user's app: modules, packages, or paths to files; imported so that nothing of ours is shadowed."""

import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from chassis.logs import get_logger
from processor.handling import declare
from processor.handling.dispatch import Dispatch
from processor.handling.handler import WrongHandlers, made

OURS = ("hookd", "ingest", "processor", "protocol", "chassis", "migrations")
BETWEEN = ","  # of several apps in one setting

_appended: list[Path] = []  # folders of apps, in the order in which `import` looks into them

T = TypeVar("T")

log = get_logger()


class AppError(Exception):
    """Why an app cannot be used; a few lines at most, each naming a file where it can."""


def load(app: str) -> Dispatch:
    """Import `app`, one or several with commas between, and return its handlers. Raises AppError with all faults."""
    faults = [fault for name in names_in(app) for fault in _imported(name)]
    if not declare.declared and not faults:
        raise AppError(f'{app} declares no handler: write @hookd.on("source") above a function of one argument')
    handlers, wrong = made(declare.declared)
    faults += wrong
    try:
        dispatch = Dispatch(handlers)
    except WrongHandlers as error:
        faults += error.faults
    if faults:
        raise AppError("\n".join(dict.fromkeys(faults)))
    return dispatch


def folders_of(app: str) -> list[Path]:
    """Where the files of these apps lie: a file's folder, a module's, a package's own. Raises AppError.

    Nothing of theirs is imported.
    """
    folders = list(dict.fromkeys(_folder_of(name) for name in names_in(app)))
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise AppError(f"there is no folder {missing[0]}")
    return folders


def names_in(app: str) -> list[str]:
    """Each app by itself. Raises AppError where there is none."""
    names = [each for each in (each.strip() for each in app.split(BETWEEN)) if each]
    if not names:
        raise AppError("no app is named: a module, or a path to a .py file")
    return names


def _is_path(name: str) -> bool:
    return name.endswith(".py") or "/" in name


def _folder_of(name: str) -> Path:
    if _is_path(name):
        return Path(name).absolute().parent
    _append(Path.cwd())
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name.partition(".")[0])
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
        if spec is not None and spec.origin:
            return Path(spec.origin).parent
    return Path.cwd()  # where it may yet come to be


def _imported(name: str) -> Iterator[str]:
    """Import an app; what is wrong with it, and with each module of a package."""
    try:
        module = _import_file(Path(name)) if _is_path(name) else _import_module(name)
    except AppError as error:
        yield str(error)
    else:
        for each in _modules_of(module):
            yield from _imported(each)


def _import_file(path: Path) -> ModuleType:
    path = path.absolute()
    if path.is_dir():
        raise AppError(f"{path} is a folder: name a package by its module's name, {path.name}, or one of its files")
    if not path.is_file():
        raise AppError(f"there is no file {path}")
    if (twin := _imported_from(path)) is not None:
        return twin
    _append(path.parent, but=path.stem)
    name = path.stem
    while name in OURS or name in sys.modules:
        name = f"app_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AppError(f"{path} is not a Python file")
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules[name] = module
    try:
        _guarded(lambda: loader.exec_module(module), str(path))
    except AppError:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    if name.startswith("."):
        raise AppError(f"{name} names no app: expected a module, or a path to a .py file")
    _append(Path.cwd())
    if name.partition(".")[0] in OURS and not name.startswith("hookd."):
        raise AppError(
            f"{name} is a package of hookd's own: name your file by its path, --app ./{name.replace('.', '/')}.py"
        )
    if name not in sys.modules:
        spec = _guarded(lambda: importlib.util.find_spec(name), name)
        if spec is not None and spec.origin is not None and (twin := _imported_from(Path(spec.origin))) is not None:
            return twin
    return _guarded(lambda: importlib.import_module(name), name)


def _imported_from(path: Path) -> ModuleType | None:
    """The module that this file is already: imported twice, its handlers would clash with themselves."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(f"/{path.name}") and Path(file).exists() and path.samefile(file):
            return module
    return None


def _modules_of(package: ModuleType) -> list[str]:
    """A package's modules; but not what runs as a program, nor ours."""
    if package.__name__.partition(".")[0] in OURS or not hasattr(package, "__path__"):
        return []
    return [
        f"{package.__name__}.{each.name}" for each in pkgutil.iter_modules(package.__path__) if each.name != "__main__"
    ]


def _append(folder: Path, *, but: str = "") -> None:
    """From now on what lies in the folder can be imported; `but` is imported by its path."""
    if folder in _appended:
        return
    # Appended: a processor.py or protocol.py of the user's must not take the place of ours.
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    _tell_of_hidden(folder, [f"{name}.py" for name in OURS], "hookd's own packages")
    for earlier in _appended:
        names = [path.name for path in sorted(earlier.glob("*.py")) if path.stem != but]
        _tell_of_hidden(folder, names, f"those in {earlier}")
    _appended.append(folder)


def _tell_of_hidden(folder: Path, names: list[str], by: str) -> None:
    if hidden := [name for name in names if (folder / name).is_file()]:
        log.warning(
            "app.names_taken",
            files=", ".join(hidden),
            folder=str(folder),
            hint=f"`import` finds {by} of these names, not these files",
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
