"""What most tests stand on: a real PostgreSQL, and in it a fresh, migrated database for each test."""

import contextlib
import gc
import importlib
import itertools
import os
import pkgutil
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import uvloop
from coverage import Coverage

from chassis.database import Connection, Database
from chassis.embedded import Embedded
from tests.databases import DEBIAN, Server, connected, server_parent
from tests.embedding import Begun, beginning
from tests.fronting import Proxy, a_certificate, nginx
from tests.processing import Handled
from tests.receiving import Local, receiving

COVERAGE = "COVERAGE_PROCESS_CONFIG"
SERVERS = {"embedded": None, "debian": DEBIAN}


def pytest_configure() -> None:
    """A shell's job in the background is born with SIGINT ignored, and what nohup starts with SIGHUP; and so would all
    be that tests interrupt, or hang up on.
    """
    for name, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(name) is signal.SIG_IGN:
            signal.signal(name, usual)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        choices=(*SERVERS, "both"),
        default="embedded",
        help="the server that tests run on: the embedded one, Debian's PostgreSQL 15, or one after the other",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Coverage sees every module of ours being imported, and looks away while the tests are collected."""
    if (coverage := Coverage.current()) is None:
        return (yield)
    for name in modules(coverage.get_option("run:source")):
        importlib.import_module(name)
    coverage.stop()
    try:
        return (yield)
    finally:
        coverage.start()


def pytest_collection_finish() -> None:
    """What was collected stays until the end: no collection of garbage looks through it again."""
    gc.collect()
    gc.freeze()


def modules(packages: object) -> Iterator[str]:
    """The names of their modules, but for those that do their work, or declare handlers, when they are imported."""
    assert isinstance(packages, list)
    for package in packages:
        path = importlib.import_module(package).__path__
        names = [found.name for found in pkgutil.walk_packages(path, f"{package}.")]
        yield from (name for name in names if not name.endswith((".__main__", "migrations.env", "hookd.demo")))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each worker begins with its share of what takes long, so that at the end none waits for another's long test.

    Whole chapters, for what a chapter shares is made anew by each worker that has a test of it.
    """
    shares: list[list[pytest.Item]] = [[] for _ in range(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))]
    long = [item for item in items if item.get_closest_marker("unmeasured")]
    chapters = [list(chapter) for _, chapter in itertools.groupby(long, lambda item: item.path)]
    for chapter in sorted(chapters, key=len, reverse=True):
        min(shares, key=len).extend(chapter)
    short = [item for item in items if not item.get_closest_marker("unmeasured")]
    for left, share in zip(range(len(shares), 0, -1), shares, strict=True):
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
    """What coverage looks into: not into processes that take long to start, and nothing on a second server."""
    is_again = (
        request.config.getoption("postgres") == "both"
        and "server_programs" in request.fixturenames
        and request.getfixturevalue("server_programs") is not None
    )
    with contextlib.ExitStack() as stack:
        if is_again and (coverage := Coverage.current()) is not None:
            coverage.stop()
            stack.callback(coverage.start)
        if is_again or request.node.get_closest_marker("unmeasured"):
            stack.enter_context(unmeasured_processes())
        yield


@contextlib.contextmanager
def unmeasured_processes() -> Iterator[None]:
    config = os.environ.pop(COVERAGE, None)
    yield
    if config is not None:
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
async def server(server_url: str) -> AsyncIterator[Server]:
    """The same, to make databases there and to drop them."""
    async with connected(server_url) as server:
        yield server


@pytest.fixture(scope="session")
async def template(server: Server) -> str:
    """A migrated database, to be copied."""
    return await server.migrated()


@pytest.fixture(scope="session")
async def short_template(server: Server) -> str:
    """The same without the days that only maintenance looks at."""
    return await server.short()


@pytest.fixture
async def database_url(
    request: pytest.FixtureRequest, server: Server, template: str, short_template: str
) -> AsyncIterator[str]:
    """The URL of this test's own database; a processor in a process of its own would first make the missing days."""
    is_whole = any(request.node.get_closest_marker(name) for name in ("all_days", "unmeasured"))
    async with server.database(template if is_whole else short_template) as url:
        yield url


@pytest.fixture
async def empty_database_url(server: Server) -> AsyncIterator[str]:
    """The URL of a database without any schema of hookd's."""
    async with server.database() as url:
        yield url


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
async def url(server: Server, template: str) -> AsyncIterator[str]:
    """A database for those tests of a chapter that mind no rows but their own."""
    async with server.database(template) as url:
        yield url


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


@pytest.fixture(scope="session")
def begun() -> Iterator[Begun]:
    """A first start takes seconds: the chapters about the embedded server share one."""
    with beginning() as begun:
        yield begun


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nginx in front of a receiver shows."""
    return a_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


@pytest.fixture
def proxy(certificate: Path, tmp_path: Path) -> Proxy:
    """`proxy(port)`: deploy/nginx/hookd.conf before a receiver on that port."""
    return partial(nginx, certificate=certificate, folder=tmp_path)
