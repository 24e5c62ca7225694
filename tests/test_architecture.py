"""The house: who may import whom, and the one door of each library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("hookd", "ingest", "processor", "protocol", "chassis", "migrations")
ARROWS = {
    "hookd": {"ingest", "processor", "protocol", "chassis", "migrations"},
    "ingest": {"protocol", "chassis"},
    "processor": {"protocol", "chassis"},
    "protocol": set(),
    "chassis": set(),
    "migrations": {"chassis"},
}
# An event goes from claiming to settling: each of the processor's rooms imports only those further along.
PROCESSOR_ARROWS = {
    "claiming": {"running", "settling", "holding"},
    "running": {"sifting", "effects", "settling", "holding", "handling"},
    "sifting": {"holding"},
    "effects": {"settling"},
    "settling": {"holding"},
    "holding": {"handling"},
    "handling": set(),
    "upkeep": set(),
}
PUTS_ROOMS_TOGETHER = {"daemon", "drain", "parts", "schedule", "store"}
# A library, and the files that may import it.
DOORS = {
    "aiohttp": {"ingest/connection.py", "ingest/receiver.py", "processor/sifting/certificates.py", "hookd/client.py"},
    "apscheduler": {"processor/schedule.py"},
    "asyncpg": {"*/store.py", "chassis/database.py"},
    "alembic": {"migrations/*.py", "migrations/versions/*.py"},
    "sqlalchemy": {"migrations/*.py"},
    "prometheus_client": {"chassis/metrics.py"},
    "pydantic": {"*/settings.py", "processor/handling/arguments.py"},
    "jmespath": {"processor/handling/filters.py"},
    "werkzeug": {"processor/handling/rules.py", "processor/handling/body.py", "processor/handling/forms.py"},
    "brotli": {"processor/handling/body.py"},
    "pydantic_settings": {"*/settings.py"},
    "cryptography": {"protocol/keys.py", "chassis/vault.py", "chassis/certificate.py"},
    "watchfiles": {"hookd/reload.py"},
    "click": {"hookd/*.py", "hookd/commands/*.py", "hookd/commands/sources/*.py"},
    "rich": {"hookd/*.py", "hookd/commands/*.py"},
    "tomli_w": {"hookd/registry/file.py"},
    "uvloop": {"hookd/commands/*.py"},
    "pytest": {"hookd/fixtures.py"},
    "uuid_utils": {"ingest/receiver.py"},
}
# What takes long to import, and what starts without it.
UNNEEDED = {
    "hookd.cli": {"asyncio", "asyncpg", "pydantic", "structlog"},
    "hookd.commands.status": {"protocol.providers", "rich", "structlog"},
    "hookd.commands.up": {"aiohttp", "processor.handling.dispatch", "protocol.providers", "structlog"},
    "hookd.commands.ingest": {"aiohttp", "processor.handling.dispatch", "protocol.providers", "structlog"},
    "ingest.server": {"cryptography", "prometheus_client", "structlog"},
    "processor.daemon": {"aiohttp", "apscheduler", "cryptography", "prometheus_client", "structlog"},
    "migrations.store": {"alembic", "sqlalchemy"},
}
SQL_FILES = {"*/store.py", "chassis/database.py", "migrations/*.py", "migrations/versions/*.py"}
SQL_NAMED = ("hookd psql", "make_roles")  # an example, and what somebody may run by hand
SQL_WORDS = ("SELECT ", "INSERT INTO", "UPDATE hookd", "DELETE FROM", "CREATE TABLE", "NOTIFY ")


@cache
def sources() -> tuple[tuple[str, ast.Module], ...]:
    paths = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return tuple((str(path.relative_to(ROOT)), ast.parse(path.read_text())) for path in paths)


@cache
def imports() -> tuple[tuple[str, str], ...]:
    """(file, name) of all that is imported."""
    return tuple((file, name) for file, module in sources() for name in imported(module))


def imported(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def at_door(file: str, doors: set[str]) -> bool:
    return any(Path(file).match(door) for door in doors)


@pytest.mark.parametrize("room", ROOMS)
def test_arrows(room: str) -> None:
    """A room imports only the rooms its arrows point to."""
    crossed = [
        f"{file} imports {name}"
        for file, name in imports()
        if file.startswith(f"{room}/") and name.split(".")[0] in set(ROOMS) - {room} - ARROWS[room]
    ]
    # The demo app is a user's app: it imports what a handler author imports.
    assert crossed == []


@pytest.mark.parametrize("room", PROCESSOR_ARROWS)
def test_arrows_within_the_processor(room: str) -> None:
    """A room of the processor imports those further along an event's way, and nothing that puts rooms together."""
    forbidden = (set(PROCESSOR_ARROWS) | PUTS_ROOMS_TOGETHER) - {room} - PROCESSOR_ARROWS[room]
    crossed = [
        f"{file} imports {name}"
        for file, name in imports()
        if file.startswith(f"processor/{room}/") and name.startswith("processor.") and name.split(".")[1] in forbidden
    ]
    assert crossed == []


def test_every_room_of_the_processor_has_its_arrows() -> None:
    """No room of the processor is without arrows."""
    assert {path.parent.name for path in (ROOT / "processor").glob("*/__init__.py")} == set(PROCESSOR_ARROWS)


@pytest.mark.parametrize("started", UNNEEDED)
def test_what_is_imported_when(started: str) -> None:
    """A command starts without what only some runs of it need, and pays for it in those."""
    program = f"import sys, {started}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert UNNEEDED[started] & set(done.stdout.split()) == set()


@pytest.mark.parametrize("library", DOORS)
def test_doors(library: str) -> None:
    """A library is imported through its own door alone."""
    strays = [file for file, name in imports() if name.split(".")[0] == library and not at_door(file, DOORS[library])]
    assert strays == []


def test_protocol_is_pure() -> None:
    """What a webhook is needs no I/O, no clock, no event loop."""
    impure = {"asyncio", "socket", "time", "os", "pathlib", "subprocess", "threading"}
    strays = [
        f"{file} imports {name}"
        for file, name in imports()
        if file.startswith("protocol/") and name.split(".")[0] in impure
    ]
    assert strays == []


def test_sql_lives_in_stores_and_migrations() -> None:
    """SQL text stands in the stores, at the database's door and in the migrations; nowhere else."""
    strays = [
        f"{file}:{line}"
        for file, module in sources()
        if not at_door(file, SQL_FILES)
        for line, text in strings(module)
        if any(word in text for word in SQL_WORDS) and not any(name in text for name in SQL_NAMED)
    ]
    assert strays == []


def test_environment_is_read_in_one_place() -> None:
    """Only chassis/settings.py reads the process's environment."""
    strays = [
        f"{file}:{node.lineno}"
        for file, module in sources()
        if file != "chassis/settings.py"
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    ]
    assert strays == []


def test_private_names_of_aiohttp_stay_in_one_module() -> None:
    """Only ingest/connection.py knows private names of aiohttp."""
    private = {"_loop", "_connections", "_kwargs", "_message", "_protocol", "_manager", "_ErrInfo", "_force_close"}
    strays = [
        f"{file}:{node.lineno} {node.attr}"
        for file, module in sources()
        if file.startswith("ingest/") and file != "ingest/connection.py"
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and node.attr in private and not _is_self(node)
    ]
    assert strays == []


def test_every_room_opens_with_its_promise() -> None:
    """Each module says in its first line what it is for."""
    silent = [file for file, module in sources() if not ast.get_docstring(module) and Path(file).name != "__init__.py"]
    assert silent == []
    assert all(ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text())) for room in ROOMS)


def _is_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def strings(module: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of all text but docstrings, a command line's help among them."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value
