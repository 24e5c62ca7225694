"""What most tests stand on: a real PostgreSQL, and in it a fresh, migrated database for each test."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import uvloop

from chassis.database import Connection, Database
from chassis.embedded import Embedded
from migrations.upgrade import upgrade
from tests.databases import DEBIAN, execute, with_name
from tests.receiving import Local, receiving


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        choices=("embedded", "debian"),
        default="embedded",
        help="the server that tests run on: the embedded one, or Debian's PostgreSQL 15",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On another server only those tests run again that a server may answer differently."""
    if config.getoption("postgres") == "embedded":
        return
    again = [item for item in items if "server_url" in item.fixturenames and not item.get_closest_marker("any_server")]  # type: ignore[attr-defined]
    config.hook.pytest_deselected(items=[item for item in items if item not in again])
    items[:] = again


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def settings_free() -> None:
    """Settings of the machine must not reach tests."""
    for name in [name for name in os.environ if name.startswith("HOOKD_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def server_url(settings_free: None, pytestconfig: pytest.Config, testrun_uid: str) -> Iterator[str]:
    """A server of this run's own; its processes share it, and the last one stops it."""
    # Not below pytest's own folder, which is 0700: as root the server runs as another user.
    folder = Path(tempfile.gettempdir()) / f"hookd-tests-{os.geteuid()}-{testrun_uid[:12]}"
    bin_folder = DEBIAN if pytestconfig.getoption("postgres") == "debian" else None
    embedded = Embedded(folder, bin_folder)
    with embedded.serve() as url:
        yield url
    if not (folder / "postgres" / "postmaster.pid").exists():
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
async def template(server_url: str) -> AsyncIterator[str]:
    """A migrated database, to be copied: a fresh one for a test then takes 30 ms."""
    name = f"template_{uuid4().hex}"
    await execute(server_url, f"CREATE DATABASE {name}")
    database = Database(with_name(server_url, name))
    await asyncio.to_thread(upgrade, lambda: database.connect("migrate"), lambda: None)
    yield name
    await execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database_url(server_url: str, template: str) -> AsyncIterator[str]:
    """The URL of this test's own database."""
    name = f"test_{uuid4().hex}"
    await execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield with_name(server_url, name)
    await execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def empty_database_url(server_url: str) -> AsyncIterator[str]:
    """The URL of a database without any schema of hookd's."""
    name = f"test_{uuid4().hex}"
    await execute(server_url, f"CREATE DATABASE {name}")
    yield with_name(server_url, name)
    await execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(database_url: str) -> Database:
    return Database(database_url)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """A superuser's connection to this test's database, beside whatever is tested."""
    connection: Connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
async def url(server_url: str, template: str) -> AsyncIterator[str]:
    """A database for those tests of a chapter that mind no rows but their own."""
    name = f"test_{uuid4().hex}"
    await execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield with_name(server_url, name)
    await execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
async def receiver(url: str) -> AsyncIterator[Local]:
    """A receiver for them, as it is where nobody set anything."""
    async with receiving(url) as receiver:
        yield receiver


@pytest.fixture(scope="module")
async def table(url: str) -> AsyncIterator[Connection]:
    """And a connection to look at their rows."""
    connection: Connection = await asyncpg.connect(url)
    yield connection
    await connection.close()
