"""What lies below deploy/ runs as it stands, but for names, ports and certificates."""

import asyncio
import getpass
import importlib
import importlib.util
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tomllib
from asyncio import create_subprocess_exec
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import click
import pytest
from yarl import URL

from chassis.database import Connection
from chassis.settings import CommonSettings
from chassis.supervisor import HOOKD, Supervisor
from hookd.cli import hookd as command_line
from hookd.configuration import GROUPS
from ingest.settings import IngestSettings
from rig.hookd import PATIENCE_SECONDS, Hookd
from tests.born import hookd
from tests.needs import needs

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted(path for path in (DEPLOY / "systemd").iterdir() if path.suffix in (".service", ".socket", ".timer"))
SERVICES = [path for path in UNITS if path.suffix == ".service"]
SAMPLE_APP = DEPLOY / "docker" / "app.py"
PROGRAM = "/opt/hookd/bin/hookd"
ALL_STORED = "SELECT payload, target, headers, host(remote) AS remote, status FROM hookd.events ORDER BY id"

needs_nginx = needs(bool(shutil.which("nginx") and shutil.which("openssl")), "nginx and openssl are not installed")
needs_systemd = needs(shutil.which("systemd-analyze") is not None, "systemd-analyze is not installed")
needs_yaml = needs(importlib.util.find_spec("yaml") is not None, "PyYAML is not installed")
needs_many_loopbacks = needs(sys.platform == "linux", "only Linux answers on all of 127.0.0.0/8")


@asynccontextmanager
async def receiver(
    database_url: str, *arguments: str, port: int = 0, **settings: str
) -> AsyncIterator[tuple[Hookd, int]]:
    """`hookd ingest`, and the port it listens on."""
    command = ("ingest", "--port", str(port), *arguments)
    async with hookd(*command, cwd=None, environment=None, database_url=database_url, **settings) as program:
        yield program, URL((await program.logged("ingest.listening"))["url"]).port or 0
        assert await program.stop() == 0


# nginx


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its certificate for 127.0.0.1, in one file."""
    pem = tmp_path_factory.mktemp("certificate") / "both.pem"
    wish = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=hookd"
    made = ("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "-", "-out", "-")
    pem.write_bytes(subprocess.run(["openssl", *wish.split(), *made], check=True, capture_output=True).stdout)
    return pem


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


Proxy: TypeAlias = Callable[[int], AbstractAsyncContextManager[URL]]


@pytest.fixture
def proxy(certificate: Path, tmp_path: Path) -> Proxy:
    """`proxy(port)`: deploy/nginx/hookd.conf before a receiver on that port."""
    return partial(nginx, certificate=certificate, folder=tmp_path)


@asynccontextmanager
async def nginx(upstream_port: int, *, certificate: Path, folder: Path) -> AsyncIterator[URL]:
    port = a_free_port()
    (folder / "hookd.conf").write_text(configured(port, upstream_port, certificate, folder))
    temporary = " ".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"user {getpass.getuser()}; pid nginx.pid; worker_processes 1; error_log stderr notice;\n"
        f"events {{}}\nhttp {{ {temporary} include hookd.conf; }}\n"
    )
    command = ("nginx", "-p", folder, "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;")
    process = await create_subprocess_exec(*command, stdin=DEVNULL, stderr=PIPE)
    assert process.stderr is not None
    said = b""
    while b"start worker process" not in said:  # its sockets are open by then
        line = await process.stderr.readline()
        said += line
        assert line, said.decode()
    rest = asyncio.create_task(process.stderr.read())
    try:
        yield URL(f"https://127.0.0.1:{port}")
    finally:
        process.terminate()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await process.wait()
        sys.stderr.write((await rest).decode(errors="replace"))


def configured(port: int, upstream_port: int, certificate: Path, folder: Path) -> str:
    """The configuration, with every value that is marked CHANGE changed, and the log in `folder`."""
    text = (DEPLOY / "nginx" / "hookd.conf").read_text()
    for theirs, ours in {
        "127.0.0.1:8080 max_fails=0;  # CHANGE": f"127.0.0.1:{upstream_port} max_fails=0;",
        "listen 443 ssl;       # CHANGE": f"listen 127.0.0.1:{port} ssl;",
        "listen [::]:443 ssl;  # CHANGE": "",
        "hooks.example.com;  # CHANGE": "localhost;",
        "/etc/letsencrypt/live/hooks.example.com/fullchain.pem;  # CHANGE": f"{certificate};",
        "/etc/letsencrypt/live/hooks.example.com/privkey.pem;    # CHANGE": f"{certificate};",
        "/var/log/nginx/": f"{folder}/",
    }.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    assert "# CHANGE" not in text
    return text


def a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@needs_nginx
async def test_nginx_takes_bodies_as_large_as_hookd_does(
    database_url: str, connection: Connection, proxy: Proxy, tls: ssl.SSLContext
) -> None:
    """25 MiB pass through nginx, byte for byte; one byte more is refused with 413, chunked or not."""
    largest = os.urandom(IngestSettings().body_bytes_max)

    async def in_chunks() -> AsyncIterator[bytes]:
        yield largest
        yield b"x"

    async with receiver(database_url) as (_, port), proxy(port) as url, aiohttp.ClientSession() as session:
        async with session.post(url / "demo", data=io.BytesIO(largest), ssl=tls) as answer:
            assert answer.status == 200
        for body in (io.BytesIO(largest + b"x"), in_chunks()):
            async with session.post(url / "demo", data=body, ssl=tls) as answer:
                assert answer.status == 413
                assert await answer.json() == {"error": "the body is larger than 25 MiB"}
    assert [row["payload"] for row in await connection.fetch(ALL_STORED)] == [largest]


@needs_nginx
async def test_nginx_changes_nothing(
    database_url: str, connection: Connection, proxy: Proxy, tls: ssl.SSLContext
) -> None:
    """Behind nginx the target is stored as it was sent: no slash merged, no escape decoded, no dots resolved.

    Every header arrives: _ or . in its name, sent twice, bytes that are no UTF-8; the Host too. A sender that speaks
    HTTP/1.0 and names no host is served as well.
    """
    target = "/demo//a%2Fb/./c/..//%2e%2E/%41?q=%20+%2F&q"
    sent = [("X_Under_Score", "1"), ("X.Dotted", "2"), ("X-Twice", "a"), ("X-Twice", "b"), ("X-Raw", "\xff\xfe")]
    head = "".join(f"{name}: {value}\r\n" for name, value in sent).encode("iso-8859-1")
    requests = (
        b"POST %b HTTP/1.1\r\nHost: a.example:81\r\nConnection: close\r\n%b\r\n" % (target.encode(), head),
        b"POST /demo HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
    )
    async with receiver(database_url) as (_, port), proxy(port) as url:
        for request in requests:
            assert (await raw(url, tls, request)).startswith(b"HTTP/1.1 200")
    row, old = await connection.fetch(ALL_STORED)
    stored = [(name, value) for name, value in json.loads(row["headers"]) if name != "X-Forwarded-For"]
    assert row["target"] == target
    assert [each for each in stored if each[0].startswith("X")] == sent
    assert ("Host", "a.example:81") in stored
    assert (old["target"], old["payload"]) == ("/demo", b"{}")


async def raw(url: URL, tls: ssl.SSLContext, request: bytes) -> bytes:
    """All that comes back until nginx closes the connection."""
    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=tls)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            writer.write(request)
            return await reader.read()
    finally:
        writer.transport.abort()


@needs_nginx
@needs_many_loopbacks
async def test_only_a_trusted_proxy_is_believed(
    database_url: str, connection: Connection, proxy: Proxy, tls: ssl.SSLContext
) -> None:
    """Stored is the sender that nginx saw, whatever it says of itself; without nginx it is not believed either."""
    liar = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with (
        receiver(database_url, trusted_proxies="127.0.0.1") as (_, port),
        proxy(port) as url,
        aiohttp.ClientSession(connector=liar, headers={"X-Forwarded-For": "203.0.113.9"}) as session,
    ):
        for each in (url, URL(f"http://127.0.0.1:{port}")):
            async with session.post(each / "demo", ssl=tls) as answer:
                assert answer.status == 200
    assert [row["remote"] for row in await connection.fetch(ALL_STORED)] == ["127.0.0.2", "127.0.0.2"]


OWN_PAGES = (
    "/-/ready",
    "/-/live",
    "//-/ready",
    "/%2d/ready",
    "/%2D%2Fready",
    "/a/../-/ready",
    "/-//ready",
    "/-/ready?x",
)


@needs_nginx
async def test_own_pages_are_not_for_the_world(database_url: str, proxy: Proxy, tls: ssl.SSLContext) -> None:
    """/-/ready and /-/live answer on hookd's own port and not through nginx, however they are written."""
    async with receiver(database_url) as (_, port), proxy(port) as url, aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/-/ready") as answer:
            assert answer.status == 200
        for path in OWN_PAGES:
            async with session.get(URL(f"{url}{path}", encoded=True), ssl=tls) as answer:
                assert (path, answer.status, await answer.json()) == (path, 404, {"error": "no such page"})
        absolute = b"GET https://x/-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await raw(url, tls, absolute)).startswith(b"HTTP/1.1 404")


@needs_nginx
async def test_nginx_without_a_receiver(proxy: Proxy, tls: ssl.SSLContext) -> None:
    """When no receiver runs, nginx answers as hookd would: 503 with Retry-After, in JSON."""
    async with (
        proxy(a_free_port()) as url,
        aiohttp.ClientSession() as session,
        session.post(url / "demo", data=b"{}", ssl=tls) as answer,
    ):
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert await answer.json() == {"error": "not known to be stored: the receiver is away"}


NOTHING = b""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@needs_nginx
@pytest.mark.parametrize(
    ("answers", "status"),
    [((NOTHING, OK), 200), ((NOTHING, NOTHING), 503), ((AWAY,), 503)],
    ids=["broken", "broken twice", "503"],
)
async def test_what_was_not_answered_is_sent_again(
    proxy: Proxy, tls: ssl.SSLContext, answers: Sequence[bytes], status: int
) -> None:
    """nginx sends a POST once more, unchanged, when its connection broke before any answer; not when that was 503."""
    body = bytes(300_000) + b"the end"  # more than nginx keeps in memory
    requests: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"the end"))
        writer.write(answers[len(requests) - 1])
        writer.close()
        await writer.wait_closed()

    async with (
        await asyncio.start_server(take, "127.0.0.1", 0, limit=2 * len(body)) as fake,
        proxy(fake.sockets[0].getsockname()[1]) as url,
        aiohttp.ClientSession() as session,
        session.post(URL(f"{url}/demo//%2F?%20", encoded=True), data=body, ssl=tls) as answer,
    ):
        assert (answer.status, len(requests)) == (status, len(answers))
    assert all(
        request.startswith(b"POST /demo//%2F?%20 HTTP/1.1\r\n") and request.endswith(body) for request in requests
    )
    assert len(set(requests)) == 1


@needs_nginx
async def test_a_sender_may_leave(proxy: Proxy, tls: ssl.SSLContext) -> None:
    """What a sender sent whole is passed on whole, also when it left before hookd came to it."""
    body = bytes(8 * 1024 * 1024) + b"the end"  # more than sockets hold
    request = b"POST /demo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as held:
        held.setblocking(False)
        async with proxy(held.getsockname()[1]) as url, aiohttp.ClientSession() as session:
            sender = loop.create_task(raw(url, tls, request))
            opened, _ = await loop.sock_accept(held)  # nginx has all of it, then
            sender.cancel()
            async with session.get(url / "-/live", ssl=tls) as answer:
                assert answer.status == 404  # nginx has heard of the departure, then
            received = bytearray()
            with opened:
                while not received.endswith(b"the end"):
                    chunk = await loop.sock_recv(opened, 1024 * 1024)
                    assert chunk
                    received += chunk
                assert received.endswith(body)
                await loop.sock_sendall(opened, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


# Restarts under load, through nginx

SENDERS = 8
REQUESTS_MAX = 20_000
PACE_SECONDS = 0.05  # a sender's pace: at full speed the load would take the processor from what restarts


@dataclass
class Load:
    """Webhooks from several senders, and what each was answered."""

    url: URL
    tls: ssl.SSLContext
    answers: dict[bytes, Any] = field(default_factory=dict)
    over: bool = False
    _answered: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def send(self, session: aiohttp.ClientSession, sender: int) -> None:
        for number in range(REQUESTS_MAX // SENDERS):
            if self.over:
                return
            body = b"%d/%d" % (sender, number)
            answer = await self._post(session, body)
            async with self._answered:
                self.answers[body] = answer
                self._answered.notify_all()
            await asyncio.sleep(PACE_SECONDS)

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> Any:
        try:
            async with session.post(self.url / "demo", data=body, ssl=self.tls) as answer:
                return answer.status if answer.status == 200 else (answer.status, await answer.text())
        except aiohttp.ClientError as error:
            return repr(error)

    async def more(self, count: int = 50) -> None:
        """Until so many more are answered."""
        enough = len(self.answers) + count
        async with asyncio.timeout(PATIENCE_SECONDS), self._answered:
            await self._answered.wait_for(lambda: len(self.answers) >= enough)


@asynccontextmanager
async def load(url: URL, tls: ssl.SSLContext) -> AsyncIterator[Load]:
    """Webhooks without end while the body of the `with` runs."""
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as senders:
        sending = Load(url, tls)
        for sender in range(SENDERS):
            senders.create_task(sending.send(session, sender))
        yield sending
        sending.over = True


async def assert_none_is_lost(connection: Connection, answers: dict[bytes, Any], *, twice: bool = False) -> None:
    """Each was answered 200 and is a row; one row, unless it may have been sent `twice`."""
    assert {body: answer for body, answer in answers.items() if answer != 200} == {}
    stored = [row["payload"] for row in await connection.fetch(ALL_STORED)]
    assert set(stored) == set(answers)
    assert twice or len(stored) == len(answers)


@needs_nginx
async def test_two_rolling_restarts(
    database_url: str, connection: Connection, proxy: Proxy, tls: ssl.SSLContext
) -> None:
    """`systemctl reload hookd-ingest` (SIGHUP), twice under load: each request is stored, once."""
    arguments = exec_start("hookd-ingest.service")[2:]
    async with receiver(database_url, *arguments) as (program, port), proxy(port) as url, load(url, tls) as sending:
        for restart in (1, 2):
            await sending.more()
            program.process.send_signal(signal.SIGHUP)
            await program.logged("child.stopped", count=2 * restart)
        await sending.more()
    await assert_none_is_lost(connection, sending.answers)


class Unit:
    """What systemd stops and starts: stopped to its end, then started anew."""

    def __init__(self, start: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._start = start
        self._life = AsyncExitStack()

    async def restart(self) -> None:
        await self._life.aclose()
        await self._life.enter_async_context(self._start())

    async def __aenter__(self) -> "Unit":
        await self.restart()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._life.aclose()


@needs_nginx
async def test_two_full_restarts_behind_a_socket_of_systemd(
    database_url: str, connection: Connection, proxy: Proxy, tls: ssl.SSLContext
) -> None:
    """With hookd-ingest.socket the service stops and starts twice under load: each request is stored, once."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as held:
        service = Unit(partial(activated, database_url, held))
        async with service, proxy(held.getsockname()[1]) as url, load(url, tls) as sending:
            for _ in range(2):
                await sending.more()
                await service.restart()
            await sending.more()
    await assert_none_is_lost(connection, sending.answers)


AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


@asynccontextmanager
async def activated(database_url: str, held: socket.socket) -> AsyncIterator[None]:
    """hookd-ingest.service as systemd starts it when hookd-ingest.socket holds its port."""
    command = (sys.executable, "-c", AS_SYSTEMD, str(held.fileno()), *HOOKD, *exec_start("hookd-ingest.service")[1:])
    environment = os.environ | {"HOOKD_DATABASE_URL": database_url, "HOOKD_METRICS_PORT": "0"}
    process = await create_subprocess_exec(*command, pass_fds=[held.fileno()], env=environment, stderr=PIPE)
    service = Hookd(process)
    try:
        await service.logged("ingest.listening")
        yield
    finally:
        assert await service.stop() == 0


@needs_nginx
async def test_restarts_of_two_units_on_one_port(
    database_url: str, connection: Connection, proxy: Proxy, tls: ssl.SSLContext
) -> None:
    """Two hookd-ingest@ units on one port restart in turn under load: no request is lost."""
    port = a_free_port()
    arguments = exec_start("hookd-ingest@.service")[2:]
    start = partial(receiver, database_url, *arguments, port=port, share_port="true")
    async with Unit(start) as first, Unit(start) as second, proxy(port) as url, load(url, tls) as sending:
        for unit in (first, second):
            await sending.more()
            await unit.restart()
        await sending.more()
    await assert_none_is_lost(connection, sending.answers, twice=True)


@needs_nginx
async def test_a_killed_worker_costs_no_request(
    database_url: str, connection: Connection, proxy: Proxy, tls: ssl.SSLContext
) -> None:
    """A worker is killed under load: no request is lost."""
    async with (
        receiver(database_url, "--workers", "2") as (program, port),
        proxy(port) as url,
        load(url, tls) as sending,
    ):
        await sending.more()
        os.kill((await program.logged("child.started"))["pid"], signal.SIGKILL)
        await program.logged("ingest.listening", count=3)
        await sending.more()
    await assert_none_is_lost(connection, sending.answers, twice=True)


# systemd


def exec_start(unit: str) -> list[str]:
    """The words of a unit's ExecStart=, the program's own name first."""
    return shlex.split(setting(unit, "ExecStart"))


def setting(unit: str, name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", (DEPLOY / "systemd" / unit).read_text(), re.MULTILINE)
    return str(value)


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with a program that exists here."""
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace(PROGRAM, f'"{sys.executable}"'))
    return [tmp_path / unit.name for unit in UNITS]


@needs_systemd
def test_systemd_accepts_the_units(units: list[Path]) -> None:
    """systemd finds nothing wrong with the units, not even a setting that it does not know."""
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@needs_systemd
def test_the_services_are_hardened(units: list[Path]) -> None:
    """systemd rates the exposure of each service below 2 of 10, "OK"."""
    for unit in units:
        if unit.suffix == ".service":
            command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(unit)]
            rated = subprocess.run(command, capture_output=True, text=True, check=False)
            assert rated.returncode == 0, rated.stdout[-200:] + rated.stderr


def test_a_stop_is_given_its_grace() -> None:
    """systemd and Docker kill nothing before hookd's own grace has ended; workers are told to stop by hookd alone."""
    margin = inspect.signature(Supervisor).parameters["margin_seconds"].default
    needed = CommonSettings().grace_seconds + margin
    for unit in SERVICES:
        if unit.name != "hookd-migrate.service":
            assert float(setting(unit.name, "TimeoutStopSec")) > needed
            assert (setting(unit.name, "KillMode"), setting(unit.name, "KillSignal")) == ("mixed", "SIGTERM")
    text = (DEPLOY / "docker" / "compose.yaml").read_text()
    (seconds,) = re.findall(r"stop_grace_period: (\d+)s  # more than HOOKD_GRACE_SECONDS", text)
    assert float(seconds) > needed


async def test_the_processor_unit_runs(database_url: str) -> None:
    """hookd-processor.service needs no more than hookd.env and an app, and ends with exit code 0 on SIGTERM."""
    text = (DEPLOY / "systemd" / "hookd.env").read_text()
    sample = {name.lower(): value for name, value in re.findall(r"^HOOKD_([A-Z_]+)=(.*)$", text, re.MULTILINE)}
    assert {"database_url", "app"} <= set(sample)
    settings = sample | {"database_url": database_url, "app": str(SAMPLE_APP)}
    async with hookd(*exec_start("hookd-processor.service")[1:], cwd=None, environment=None, **settings) as processor:
        await processor.logged("processor.started")
        assert await processor.stop() == 0


# cron


@dataclass(frozen=True)
class Crontab:
    environment: dict[str, str]
    when: list[str]
    user: str
    command: str


def crontab() -> Crontab:
    lines = [line for line in (DEPLOY / "cron" / "hookd").read_text().splitlines() if line and line[0] != "#"]
    *assignments, job = lines
    *when, user, command = job.split(maxsplit=6)
    return Crontab(dict(line.split("=", 1) for line in assignments), when, user, command)


async def test_cron_runs_one_drain(database_url: str, connection: Connection) -> None:
    """The crontab's line, in the crontab's environment and no other, turns what has arrived into processed rows."""
    async with (
        receiver(database_url) as (_, port),
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{port}/demo", data=b"{}") as answer,
    ):
        assert answer.status == 200
    cron = crontab()
    assert (cron.when, cron.user) == (["*"] * 5, "hookd")
    drain, _, log = cron.command.partition(" 2>&1 | ")
    assert log == "logger -t hookd-processor"
    drained = await create_subprocess_exec(
        cron.environment["SHELL"],
        "-c",
        drain.replace(PROGRAM, shlex.join(HOOKD)),
        cwd=ROOT,
        env=cron.environment | {"HOOKD_DATABASE_URL": database_url, "HOOKD_APP": str(SAMPLE_APP)},
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await drained.wait() == 0
    assert [row["status"] for row in await connection.fetch(ALL_STORED)] == ["processed"]


# Docker


def dockerfile(instruction: str) -> list[str]:
    """The arguments of each such instruction."""
    return re.findall(rf"^{instruction} (.*)$", (DEPLOY / "docker" / "Dockerfile").read_text(), re.MULTILINE)


def compose() -> dict[str, Any]:
    read: dict[str, Any] = importlib.import_module("yaml").safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
    return read


def test_the_image_holds_every_package() -> None:
    """The Dockerfile copies what the wheel is made of and nothing else, and the image does not run as root."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {source for each in dockerfile("COPY") if "--from" not in each for source in each.split()[:-1]}
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_through == {*packages, "pyproject.toml", "README.md", "LICENSE"}
    assert dockerfile("USER") == ["10001"]


@needs_yaml
def test_compose_names_what_it_takes() -> None:
    """compose.yaml: PostgreSQL on a named volume, the schema once, then receiver and processor, both watched."""
    services, volumes = compose()["services"], compose()["volumes"]
    assert set(services) == {"postgres", "migrate", "ingest", "processor"}
    assert services["postgres"]["image"] == "postgres:18"
    assert services["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    assert list(volumes) == ["postgres"]
    for name in ("migrate", "ingest", "processor"):
        confined = [services[name][key] for key in ("init", "read_only", "cap_drop", "security_opt")]
        assert confined == [True, True, ["ALL"], ["no-new-privileges:true"]]
    for name in ("ingest", "processor"):
        assert services[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
        _, python, option, script = services[name]["healthcheck"]["test"]
        assert (python, option) == ("python", "-c")
        compile(script, name, "exec")


# What is written


def command_lines() -> Iterator[Any]:
    for unit in SERVICES:
        yield pytest.param(exec_start(unit.name)[1:], id=unit.name)
    yield pytest.param(shlex.split(crontab().command.partition(" 2>&1")[0])[1:], id="cron")
    yield pytest.param(json.loads(dockerfile("CMD")[0]), id="Dockerfile")


@pytest.mark.parametrize("arguments", list(command_lines()))
def test_every_command_line_is_understood(arguments: list[str]) -> None:
    """What the units, the crontab and the image run are commands and options that hookd has."""
    assert_understood(arguments)


@needs_yaml
@pytest.mark.parametrize("service", ["migrate", "ingest", "processor"])
def test_every_command_of_compose_is_understood(service: str) -> None:
    """What compose.yaml runs are commands and options that hookd has."""
    assert_understood(compose()["services"][service]["command"])


def assert_understood(arguments: Sequence[str]) -> None:
    name, *rest = arguments
    command = command_line.get_command(click.Context(command_line), name)
    assert command is not None, f"no command {name}"
    command.make_context(name, rest)


def test_every_name_is_a_setting() -> None:
    """Each HOOKD_ name in a file below deploy/ is a setting that hookd has."""
    known = {f"HOOKD_{name.upper()}" for group in GROUPS for name in group.model_fields}
    for path in files():
        assert set(re.findall(r"HOOKD_[A-Z_]+", path.read_text())) <= known, path


def test_the_readme_knows_every_file() -> None:
    """deploy/README.md says what each file below deploy/ is for."""
    readme = (DEPLOY / "README.md").read_text()
    for path in files():
        assert path.name in readme or str(path.relative_to(DEPLOY)) in readme, path


def files() -> list[Path]:
    found = [path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [path for path in found if path.name != "README.md"]
