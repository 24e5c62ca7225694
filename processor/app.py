"""The user's app: a module, or a path to a file; imported so that nothing of ours is shadowed."""

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path

from chassis.logs import get_logger
from processor import handlers
from processor.dispatch import Dispatch, DispatchError

OURS = ("hookd", "ingest", "processor", "protocol", "chassis", "migrations")

log = get_logger()


class AppError(Exception):
    """Why an app cannot be used; a few lines at most, each naming a file where it can."""


def load(app: str) -> Dispatch:
    """Import `app` and return its handlers. Raises AppError."""
    if app.endswith(".py") or "/" in app:
        _import_file(Path(app))
    else:
        _import_module(app)
    if not handlers.declared:
        raise AppError(f'{app} declares no handler: write @hookd.on("source") above a function of one argument')
    try:
        return Dispatch(handlers.declared)
    except DispatchError as error:
        raise AppError(str(error)) from None


def _import_file(path: Path) -> None:
    path = path.absolute()
    if not path.is_file():
        raise AppError(f"there is no file {path}")
    _append(path.parent)
    name = path.stem if path.stem not in (*OURS, *sys.modules) else f"app_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AppError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _guarded(lambda: spec.loader.exec_module(module), str(path))


def _import_module(name: str) -> None:
    _append(Path.cwd())
    if name.partition(".")[0] in OURS and not name.startswith("hookd."):
        raise AppError(
            f"{name} is a package of hookd's own: name your file by its path, --app ./{name.replace('.', '/')}.py"
        )
    _guarded(lambda: importlib.import_module(name), name)


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


def _guarded(work: object, app: str) -> None:
    assert callable(work)
    try:
        work()
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
