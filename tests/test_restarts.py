"""Restarts of all kinds, under load and through nginx: no request is lost."""

import asyncio
import os
import signal
import socket
import ssl
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import pytest
from yarl import URL

from chassis.database import Connection
from chassis.supervisor import HOOKD
from rig.hookd import PATIENCE_SECONDS, Hookd
from tests.deployed import ALL_STORED, exec_start, receiver
from tests.fronting import Proxy, a_free_port, needs_nginx

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]

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
