"""The user's app: a module or a file; nothing of ours is shadowed by it, and what is wrong with it is one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rig.hookd import ROOT

pytestmark = pytest.mark.unmeasured

A_HANDLER = """
import hookd

@hookd.on("github", event="push")
async def deploy(event: hookd.Event) -> None:
    print(event.json()["repository"]["full_name"])
"""

# Tells the handlers an app declares, as hookd's processor would find them.
LOAD = """
import sys
from processor.handling.app import AppError, load
try:
    dispatch = load(sys.argv[1])
except AppError as error:
    print("refused:", error)
else:
    for handler in dispatch.handlers:
        event_type = handler.event_types[0] if handler.event_types else None
        print(handler.source, event_type, handler.name, "async" if handler.is_async else "def")
"""


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python with hookd's packages in reach, as an installed one has them."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HOOKD_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**clean, "PYTHONPATH": str(ROOT), "HOOKD_METRICS_PORT": "0", **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def load(app: str | Path, cwd: Path) -> str:
    """What comes of loading an app from a folder."""
    loaded = run("-P", "-c", LOAD, str(app), cwd=cwd)
    assert loaded.returncode == 0, loaded.stderr
    return loaded.stdout.strip()


def refusal(app: str | Path, cwd: Path) -> str:
    said = load(app, cwd)
    assert said.startswith("refused: "), said
    return said.removeprefix("refused: ")


def write(path: Path, code: str = A_HANDLER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    return path


@pytest.mark.parametrize(
    ("file", "app"),
    [
        ("handlers.py", "handlers.py"),
        ("handlers.py", "./handlers.py"),
        ("handlers.py", "handlers"),
        ("mycompany/webhooks.py", "mycompany.webhooks"),
        ("mycompany/webhooks.py", "mycompany/webhooks.py"),
        ("mycompany/__init__.py", "mycompany"),
        ("my app.py", "my app.py"),
        ("json.py", "json.py"),
    ],
)
def test_an_app_is_a_module_or_a_path(tmp_path: Path, file: str, app: str) -> None:
    """An app is named as a module or as a path to a file, of the current folder or anywhere."""
    write(tmp_path / file)
    assert load(app, tmp_path) == "github push deploy async"


def test_an_app_anywhere(tmp_path: Path) -> None:
    """A file's neighbours can be imported by it, wherever hookd was started."""
    write(tmp_path / "far" / "app.py", f"import helper\n{A_HANDLER}")
    write(tmp_path / "far" / "helper.py", "")
    assert load(tmp_path / "far" / "app.py", tmp_path) == "github push deploy async"


def test_what_a_handler_may_be(tmp_path: Path) -> None:
    """A handler is an `async def` or a `def`, also a callable object or a partial: what awaits is awaited."""
    code = """
import functools, hookd

@hookd.on("a")
def plain(event): ...

async def two(event, more): ...
hookd.on("b")(functools.partial(two, more=1))

class Callable:
    async def __call__(self, event): ...
hookd.on("c")(Callable())

@hookd.on("d")
@hookd.on("e")
async def both(event, *, optional=1): ...
"""
    ways = [line.split()[0::3] for line in load(write(tmp_path / "app.py", code), tmp_path).splitlines()]
    assert [way[0] for way in ways] == ["a", "b", "c", "e", "d"]
    kinds = [line.split()[-1] for line in load(tmp_path / "app.py", tmp_path).splitlines()]
    assert kinds == ["def", "async", "async", "async", "async"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f(): ...", "{path}:3: a handler takes at least one argument, the event"),
        ("async def f(a, b): ...", "{path}:3: nothing is given to its parameter 'b': expected the event"),
        ("def f(event, payload, more): ...", "{path}:3: nothing is given to its parameter 'more': expected the event"),
        ("async def f(event): yield", "{path}:3: a handler must not yield, for nothing of it would run"),
        ("def f(event): yield", "{path}:3: a handler must not yield, for nothing of it would run"),
    ],
)
def test_a_function_that_cannot_be_a_handler(tmp_path: Path, code: str, said: str) -> None:
    """A handler that could never run is refused when it is declared, with its file and line."""
    path = write(tmp_path / "app.py", f'import hookd\n\n@hookd.on("x")\n{code}\n')
    assert said.format(path=path) in refusal(path, tmp_path)


def test_on_without_a_source(tmp_path: Path) -> None:
    """A bare `@hookd.on` is refused, with what to write."""
    path = write(tmp_path / "app.py", "import hookd\n@hookd.on\ndef f(event): ...\n")
    assert 'write @hookd.on("source"), with the source\'s name' in refusal(path, tmp_path)
    assert f"{path}:2: " in refusal(path, tmp_path)


def test_two_handlers_of_an_app_that_clash(tmp_path: Path) -> None:
    """Two equally specific handlers are refused at load, with the file and line of both."""
    path = write(tmp_path / "app.py", A_HANDLER + A_HANDLER)
    assert refusal(path, tmp_path) == f"{path}:4 and {path}:10 both take event 'push' of 'github'"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import hookd\n1 / 0\n", "{path} does not import: ZeroDivisionError: division by zero ({path}:2)"),
        ("def f(:\n", "{path} does not import: SyntaxError: invalid syntax (app.py, line 1)"),
        ("\nimport missing\n", "{path} does not import: No module named 'missing' ({path}:2)"),
        ("from hookd import off\n", "{path} does not import: ImportError: cannot import name 'off' from 'hookd'"),
        ("raise SystemExit(3)\n", "{path} does not import: SystemExit: 3 ({path}:1)"),
        ("import hookd\n", "{path} declares no handler: write @hookd.on"),
    ],
)
def test_an_app_that_does_not_import(tmp_path: Path, code: str, said: str) -> None:
    """An app that does not import is told in a sentence, with the file and line at fault."""
    path = write(tmp_path / "app.py", code)
    assert said.format(path=path) in refusal(path, tmp_path)


def test_a_fault_in_a_neighbour(tmp_path: Path) -> None:
    """The file and line are those of the fault, also in a module that the app imports."""
    write(tmp_path / "helper.py", "\n\nundefined\n")
    path = write(tmp_path / "app.py", f"import helper\n{A_HANDLER}")
    said = f"{path} does not import: NameError: name 'undefined' is not defined ({tmp_path / 'helper.py'}:3)"
    assert refusal(path, tmp_path) == said


def test_an_app_that_is_not_there(tmp_path: Path) -> None:
    """A file or module that does not exist is told as that."""
    assert refusal("nowhere.py", tmp_path) == f"there is no file {tmp_path / 'nowhere.py'}"
    assert refusal("nowhere", tmp_path) == f"there is no module nowhere (looked in {tmp_path} and the environment)"


@pytest.mark.parametrize("name", ["processor", "protocol", "ingest", "chassis", "migrations"])
def test_a_file_of_a_name_of_ours(tmp_path: Path, name: str) -> None:
    """A user's processor.py is an app by its path; by its module's name it is refused, and told to be named by path."""
    write(tmp_path / f"{name}.py")
    assert load(f"{name}.py", tmp_path).splitlines()[-1] == "github push deploy async"
    said = f"{name} is a package of hookd's own: name your file by its path, --app ./{name}.py"
    assert said in load(name, tmp_path)


def test_files_that_ours_hide_are_told(tmp_path: Path) -> None:
    """A processor.py beside the app neither takes the place of ours nor is hidden without a word."""
    write(tmp_path / "processor.py", "raise RuntimeError('never imported')\n")
    write(tmp_path / "protocol.py", "raise RuntimeError('never imported')\n")
    app = write(tmp_path / "app.py", f"import processor.drain, protocol.content\n{A_HANDLER}")
    warning, handler = load(app, tmp_path).splitlines()
    assert handler == "github push deploy async"
    assert "app.names_taken" in warning
    assert "processor.py, protocol.py" in warning
    assert str(tmp_path) in warning


def test_python_m_hookd_beside_such_a_file(tmp_path: Path) -> None:
    """`python -m hookd` beside a processor.py finds that one first: it says so, and how to start instead."""
    write(tmp_path / "processor.py", "")
    started = run("-m", "hookd", "--version", cwd=tmp_path)
    assert started.returncode != 0
    assert "a file of yours named processor.py or protocol.py hides hookd's own package" in started.stderr
    assert "start Python with -P, or rename the file" in started.stderr
    assert run("-P", "-m", "hookd", "--version", cwd=tmp_path).returncode == 0


def test_hookds_own_demo_is_an_app(tmp_path: Path) -> None:
    """The app built in is named as any module: it takes everything."""
    assert load("hookd.demo", tmp_path) == "* None show async"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no app: name your handlers with --app or HOOKD_APP"),
        (("--app", "nowhere.py"), "there is no file"),
        (("--app", "broken.py"), "does not import: ZeroDivisionError: division by zero"),
    ],
)
def test_the_command_refuses_it_in_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """Without an app, or with one that cannot be used, `hookd processor` exits 2 with one clear line, no traceback."""
    write(tmp_path / "broken.py", "1 / 0\n")
    url = "postgresql://nobody@localhost:1/nothing"
    refused = run("-P", "-m", "hookd", "processor", *arguments, cwd=tmp_path, HOOKD_DATABASE_URL=url)
    assert refused.returncode == 2
    assert [line for line in refused.stderr.splitlines() if said in line and line.startswith("Error: ")]
    assert "Traceback" not in refused.stderr


def test_app_by_the_environment(tmp_path: Path) -> None:
    """HOOKD_APP names the app as --app does."""
    refused = run("-P", "-m", "hookd", "processor", cwd=tmp_path, HOOKD_APP="nowhere.py")
    assert (refused.returncode, "there is no file" in refused.stderr) == (2, True)
