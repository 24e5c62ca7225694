"""The user's app: a module or a file; nothing of ours is shadowed by it, and what is wrong with it is one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rig.hookd import ROOT
from tests.commands import Hookd, Ran

pytestmark = [pytest.mark.unmeasured, pytest.mark.usefixtures("settings_free")]

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


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A fresh Python with hookd's packages in reach, as an installed one has them: for what minds who came first."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOOKD_METRICS_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def load_afresh(app: str | Path, cwd: Path) -> str:
    """What comes of loading an app from a folder."""
    loaded = run("-P", "-c", LOAD, str(app), cwd=cwd)
    assert loaded.returncode == 0, loaded.stderr
    return loaded.stdout.strip()


def load(app: str | Path, cwd: Path) -> str:
    """The same, in a process that has imported all of hookd before."""
    loaded = Hookd(cwd, {}).python(LOAD, str(app))
    assert loaded.code == 0, loaded.err
    return loaded.out.strip()


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
    ],
)
def test_an_app_is_a_module_or_a_path(tmp_path: Path, file: str, app: str) -> None:
    """An app is named as a module or as a path to a file, of the current folder or anywhere."""
    write(tmp_path / file)
    assert load(app, tmp_path) == "github push deploy async"


def test_an_app_of_a_name_of_pythons(tmp_path: Path) -> None:
    """An app's file may have the name of a module that all else needs."""
    write(tmp_path / "json.py")
    assert load_afresh("json.py", tmp_path) == "github push deploy async"


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
hookd.on("c", event="x")(functools.partial(Callable()))

@hookd.on("d")
@hookd.on("e")
async def both(event, *, optional=1): ...
"""
    ways = [line.split()[0::3] for line in load(write(tmp_path / "app.py", code), tmp_path).splitlines()]
    assert [way[0] for way in ways] == ["a", "b", "c", "c", "e", "d"]
    kinds = [line.split()[-1] for line in load(tmp_path / "app.py", tmp_path).splitlines()]
    assert kinds == ["def", "async", "async", "async", "async", "async"]


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


@pytest.mark.parametrize("name", [".", "..", ".handlers"])
def test_a_folder_is_no_app(tmp_path: Path, name: str) -> None:
    """`--app .` is told what an app is."""
    assert refusal(name, tmp_path) == f"{name} names no app: expected a module, or a path to a .py file"


@pytest.mark.parametrize("name", ["processor", "protocol", "ingest", "chassis", "migrations"])
def test_a_file_of_a_name_of_ours(tmp_path: Path, name: str) -> None:
    """A user's processor.py is an app by its path; by its module's name it is refused, and told to be named by path."""
    write(tmp_path / f"{name}.py")
    assert load_afresh(f"{name}.py", tmp_path).splitlines()[-1] == "github push deploy async"
    said = f"{name} is a package of hookd's own: name your file by its path, --app ./{name}.py"
    assert said in load(name, tmp_path)


def a_handler(source: str) -> str:
    return f'import hookd\n@hookd.on("{source}")\ndef {source}(event): ...\n'


def test_several_apps(tmp_path: Path) -> None:
    """With commas between, modules and files; one that is named twice is one."""
    write(tmp_path / "one.py", a_handler("one"))
    write(tmp_path / "two.py", a_handler("two"))
    for apps in ("one.py,two", " one.py , two.py,, one.py", "one,./two.py,"):
        assert [line.split()[0] for line in load(apps, tmp_path).splitlines()] == ["one", "two"]
    write(tmp_path / "broken.py", "1 / 0\n")
    assert refusal("broken.py,one.py,nowhere", tmp_path).splitlines() == [
        f"{tmp_path / 'broken.py'} does not import: ZeroDivisionError: division by zero ({tmp_path / 'broken.py'}:1)",
        f"there is no module nowhere (looked in {tmp_path} and the environment)",
    ]
    for nothing in ("", " , "):
        assert refusal(nothing, tmp_path) == "no app is named: a module, or a path to a .py file"


def test_files_that_ours_hide_are_told_once(tmp_path: Path) -> None:
    """Not once for each module of a package."""
    write(tmp_path / "processor.py", "")
    write(tmp_path / "mine" / "__init__.py", a_handler("first"))
    write(tmp_path / "mine" / "more.py", a_handler("more"))
    assert load_afresh("mine", tmp_path).count("app.names_taken") == 1


def test_files_that_ours_hide_are_told(tmp_path: Path) -> None:
    """A processor.py beside the app neither takes the place of ours nor is hidden without a word."""
    write(tmp_path / "processor.py", "raise RuntimeError('never imported')\n")
    write(tmp_path / "protocol.py", "raise RuntimeError('never imported')\n")
    app = write(tmp_path / "app.py", f"import processor.drain, protocol.content\n{A_HANDLER}")
    warning, handler = load_afresh(app, tmp_path).splitlines()
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
    assert load_afresh("hookd.demo", tmp_path) == "* None show async"


def a_processor(cwd: Path, *arguments: str, **settings: str) -> Ran:
    """`hookd processor`, which has no database and needs none to refuse."""
    nowhere = {"HOOKD_DATABASE_URL": "postgresql://nobody@localhost:1/nothing"}
    return Hookd(cwd, nowhere | settings)("processor", *arguments)


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
    refused = a_processor(tmp_path, *arguments)
    assert refused.code == 2
    assert [line for line in refused.err.splitlines() if said in line and line.startswith("Error: ")]
    assert "Traceback" not in refused.err


def test_app_by_the_environment(tmp_path: Path) -> None:
    """HOOKD_APP names the app as --app does."""
    refused = a_processor(tmp_path, HOOKD_APP="nowhere.py")
    assert (refused.code, "there is no file" in refused.err) == (2, True)


# --- several apps, and packages ---------------------------------------------------------------------------------------


def handler_for(source: str) -> str:
    return f'import hookd\n\n@hookd.on("{source}")\ndef take(event): ...\n'


def sources_of(app: str, cwd: Path) -> list[str]:
    """The sources that the handlers of an app take, in the order they were declared."""
    return [line.split()[0] for line in load(app, cwd).splitlines() if line.split()[1] == "None"]


def test_several_apps_are_one(tmp_path: Path) -> None:
    """Named with commas, files and modules; spaces and an empty name between them mean nothing."""
    write(tmp_path / "one.py", handler_for("one"))
    write(tmp_path / "two.py", handler_for("two"))
    write(tmp_path / "far" / "three.py", handler_for("three"))
    assert sources_of("one.py, two,,far/three.py", tmp_path) == ["one", "two", "three"]


def test_no_app_at_all(tmp_path: Path) -> None:
    """Nothing but commas names none."""
    assert "no app is named" in refusal(" , ", tmp_path)


def test_a_package_is_all_its_modules(tmp_path: Path) -> None:
    """Those of its sub-packages too, each once; but not what runs as a program."""
    package = tmp_path / "company"
    for name in ("__init__", "stripe", "below/__init__", "below/github", "below/deep/__init__", "below/deep/jira"):
        write(package / f"{name}.py", handler_for(name.replace("/", ".").replace("__", "")))
    write(package / "__main__.py", "raise SystemExit(3)\n")
    write(package / "below" / "__main__.py", "raise SystemExit(3)\n")
    write(package / "stripe.py", f"from company.below import github\n{handler_for('stripe')}")
    found = sources_of("company", tmp_path)
    assert sorted(found) == ["below.deep.init", "below.deep.jira", "below.github", "below.init", "init", "stripe"]
    assert sources_of("company.below.deep", tmp_path) == ["init", "below.init", "below.deep.init", "below.deep.jira"]


def test_a_folder_without_init_is_a_package_too(tmp_path: Path) -> None:
    """As Python has it."""
    write(tmp_path / "hooks" / "stripe.py", handler_for("stripe"))
    assert sources_of("hooks", tmp_path) == ["stripe"]


def test_a_module_of_a_package_that_fails(tmp_path: Path) -> None:
    """It is named with its file and line, and so is every other that does."""
    write(tmp_path / "company" / "__init__.py", "")
    write(tmp_path / "company" / "good.py", handler_for("good"))
    write(tmp_path / "company" / "bad.py", "1 / 0\n")
    write(tmp_path / "company" / "worse.py", "import missing\n")
    assert refusal("company", tmp_path).splitlines() == [
        f"company.bad does not import: ZeroDivisionError: division by zero ({tmp_path / 'company' / 'bad.py'}:1)",
        f"company.worse does not import: No module named 'missing' ({tmp_path / 'company' / 'worse.py'}:1)",
    ]


def test_faults_of_all_apps_are_told_together(tmp_path: Path) -> None:
    """What does not import, what is not there, what clashes, what is no handler: all at once."""
    broken = write(tmp_path / "broken.py", "1 / 0\n")
    first = write(tmp_path / "first.py", handler_for("github"))
    second = write(tmp_path / "second.py", handler_for("github"))
    wrong = write(tmp_path / "wrong.py", 'import hookd\n\n@hookd.on("x")\ndef f(): ...\n')
    said = refusal("broken.py,nowhere.py,missing,first.py,second.py,wrong.py", tmp_path).splitlines()
    assert said[:3] == [
        f"{broken} does not import: ZeroDivisionError: division by zero ({broken}:1)",
        f"there is no file {tmp_path / 'nowhere.py'}",
        f"there is no module missing (looked in {tmp_path} and the environment)",
    ]
    assert f"{wrong}:3: a handler takes at least one argument, the event" in said[3]
    assert said[4] == f"{first}:3 and {second}:3 both take every event of 'github'"
    assert len(said) == 5


@pytest.mark.parametrize(
    "app",
    [
        "app.py,app.py",
        "app.py,./app.py",
        "app.py,../here/app.py",
        "app.py,../link/app.py",
        "app,app",
        "app,app.py",
        "app.py,app",
        "company,company.app",
        "company.app,company",
        "company,company/app.py",
        "company/app.py,company",
    ],
)
def test_an_app_that_is_named_twice_is_loaded_once(tmp_path: Path, app: str) -> None:
    """However it is named: as a path, by another way to the same file, as a module, as part of a package."""
    here = tmp_path / "here"
    code = f"from pathlib import Path\nPath('loaded').open('a').write('x')\n{handler_for('github')}"
    write(here / "app.py", code)
    write(here / "company" / "__init__.py", "")
    write(here / "company" / "app.py", code)
    (tmp_path / "link").symlink_to("here")
    assert sources_of(app, here) == ["github"]
    assert (here / "loaded").read_text() == "x"


def test_a_file_that_fails_is_told_once(tmp_path: Path) -> None:
    """Also when it is named twice."""
    write(tmp_path / "broken.py", "1 / 0\n")
    assert refusal("broken.py,./broken.py", tmp_path).count("ZeroDivisionError") == 1


def test_two_files_of_one_name(tmp_path: Path) -> None:
    """Of two folders, they are two apps."""
    write(tmp_path / "a" / "handlers.py", handler_for("one"))
    write(tmp_path / "b" / "handlers.py", handler_for("two"))
    assert load("a/handlers.py,b/handlers.py", tmp_path).splitlines() == ["one None take def", "two None take def"]


def test_neighbours_of_one_name_are_told(tmp_path: Path) -> None:
    """`import helper` finds one of two files of that name, whoever imports: which, is said."""
    for folder in ("a", "b"):
        write(tmp_path / folder / "handlers.py", handler_for(folder))
        write(tmp_path / folder / "helper.py", "")
    warning, *handlers = load("a/handlers.py,b/handlers.py", tmp_path).splitlines()
    assert len(handlers) == 2
    assert "app.names_taken" in warning
    assert "files=helper.py" in warning
    assert f"finds those in {tmp_path / 'a'} of these names" in warning


def test_the_command_takes_several(tmp_path: Path) -> None:
    """--app may be repeated, on `hookd processor` and `hookd up` alike; both faults are told."""
    refused = a_processor(tmp_path, "--app", "nowhere.py", "--app", "missing")
    assert refused.code == 2
    assert "there is no file" in refused.err
    assert "there is no module missing" in refused.err
    for command in ("processor", "up"):
        shown = Hookd(tmp_path, {})(command, "--help")
        assert "repeatable [HOOKD_APP]" in " ".join(shown.out.split())


FOLDERS = """
import sys
from processor.handling.app import folders_of
print(*folders_of(sys.argv[1]), sep="\\n")
"""


@pytest.mark.parametrize(
    ("app", "folders"),
    [
        ("app.py", ["."]),
        ("app", ["."]),
        ("yet_to_come", ["."]),
        ("company", ["company"]),
        ("company.deep.app", ["company"]),
        ("company/deep/app.py,app.py,other.py", ["company/deep", "."]),
    ],
)
def test_where_an_app_s_files_are(tmp_path: Path, app: str, folders: list[str]) -> None:
    """A file's folder, a module's, a package's own; known without importing any of it."""
    write(tmp_path / "app.py", "1 / 0\n")
    write(tmp_path / "company" / "__init__.py", "1 / 0\n")
    write(tmp_path / "company" / "deep" / "app.py", "1 / 0\n")
    found = Hookd(tmp_path, {}).python(FOLDERS, app)
    assert found.out.split() == [str(tmp_path / folder) for folder in folders], found.err
