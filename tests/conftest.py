"""What most tests stand on: a real PostgreSQL, and in it a fresh, migrated database for each test."""

import asyncio
import os
import shutil
import signal
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
from tests.databases import DEBIAN, execute, server_parent, with_name
from tests.processing import Handled
from tests.receiving import Local, receiving

COVERAGE = "COVERAGE_PROCESS_CONFIG"
SERVERS = {"embedded": None, "debian": DEBIAN}


def pytest_configure() -> None:
    """A shell's job in the background is born with SIGINT ignored, and so would all be that tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        choices=(*SERVERS, "both"),
        default="embedded",
        help="the server that tests run on: the embedded one, Debian's PostgreSQL 15, or one after the other",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each worker begins with its share of what takes long, so that at the end none waits for another's long test."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("unmeasured")]
    short = [item for item in items if not item.get_closest_marker("unmeasured")]
    shares = [long[n::workers] for n in range(workers)]
    for left, share in zip(range(workers, 0, -1), shares, strict=True):
        room = max((len(short) + sum(map(len, shares[-left:]))) // left - len(share), 0)
        share.extend(short[:room])
        del short[:room]
    items[:] = [item for share in shares for item in share]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On another server those tests run again that a server may answer differently."""
    if "server_programs" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("postgres")
    names = [name for name in SERVERS if chosen in (name, "both")]
    if "embedded" in names and any(metafunc.definition.iter_markers("any_server")):
        names = ["embedded"]
    metafunc.parametrize("server_programs", names, indirect=True, scope="session")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def measured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whether coverage looks into the processes that a test starts: their start takes twice the time then."""
    config = os.environ.get(COVERAGE)
    if config is None or request.node.get_closest_marker("unmeasured") is None:
        yield
        return
    del os.environ[COVERAGE]
    yield
    os.environ[COVERAGE] = config


@pytest.fixture(scope="session")
def settings_free() -> None:
    """Settings of the machine must not reach tests."""
    for name in [name for name in os.environ if name.startswith("HOOKD_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def server_programs(settings_free: None, request: pytest.FixtureRequest) -> Path | None:
    """The folder of the server's programs; None: those that come along."""
    return SERVERS[request.param]


@pytest.fixture(scope="session")
def server_url(server_programs: Path | None, testrun_uid: str) -> Iterator[str]:
    """A server of this run's own; its processes share it, and the last one stops it."""
    folder = server_parent() / f"hookd-tests-{os.geteuid()}-{testrun_uid[:12]}-{server_programs is None:d}"
    embedded = Embedded(folder, server_programs)
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


@pytest.fixture
def handled() -> Handled:
    """A handler for whoever asks what was handled."""
    return Handled()


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
