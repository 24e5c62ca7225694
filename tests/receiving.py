"""A real receiver, in the test's own event loop or in processes of its own."""

import asyncio
import gc
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from chassis.database import Database, DatabaseError
from chassis.lifeline import Lifeline
from chassis.settings import CommonSettings
from chassis.sockets import open_listeners
from chassis.tls import identity_of
from ingest.replying import Make
from ingest.server import serve
from ingest.settings import IngestSettings
from rig.hookd import Hookd, hookd
from tests import born
from tests.registering import SECRET_KEY
from tests.sending import Answer, Headers, Sender, TLSSender, head, post
from tests.waiting import PATIENCE_SECONDS, first_of, in_time

BACK_SECONDS = 5.0  # a receiver works again so soon after its database does


@dataclass
class Receiver:
    """Where a receiver listens, and how to talk to it."""

    port: int
    senders: list[Sender] = field(default_factory=list)
    tls: ssl.SSLContext | None = None  # whom to trust, where https is spoken

    async def sender(self) -> Sender:
        sender = await (TLSSender.over(self.tls, self.port) if self.tls else Sender.to(self.port))
        self.senders.append(sender)
        return sender

    async def ask(self, *parts: bytes, to_head: bool = False) -> Answer:
        """The answer to a request on a connection of its own."""
        sender = await self.sender()
        try:
            await sender.send(*parts)
            return await sender.answer(to_head=to_head)
        finally:
            sender.close()
            self.senders.remove(sender)

    async def post(self, target: str = "/demo", body: bytes = b"{}", headers: Headers = ()) -> Answer:
        return await self.ask(post(target, body, headers))

    async def get(self, target: str) -> Answer:
        return await self.ask(head(target, method="GET"))

    async def post_until(
        self, status: int, target: str = "/demo", body: bytes = b"{}", *, seconds: float = BACK_SECONDS
    ) -> Answer:
        """Post until the answer is that. Raises TimeoutError."""
        return await in_time(lambda: self.post(target, body), lambda answer: answer.status == status, seconds)

    async def get_until(self, status: int, target: str, *, seconds: float = BACK_SECONDS) -> Answer:
        return await in_time(lambda: self.get(target), lambda answer: answer.status == status, seconds)

    def hang_up(self) -> None:
        for sender in self.senders:
            sender.close()


@dataclass
class Local(Receiver):
    """A receiver in this process."""

    lifeline: socket.socket = field(kw_only=True)
    ended: "asyncio.Task[None]" = field(kw_only=True)

    def stop(self) -> None:
        """What SIGTERM does."""
        self.lifeline.close()


def a_listener(host: str = "127.0.0.1") -> socket.socket:
    (listener,) = open_listeners(host, 0, 1, share_port=False)
    return listener


@asynccontextmanager
async def receiving(
    database: Database | str,
    listener: socket.socket | None = None,
    *,
    grace_seconds: float = 5.0,
    secret_key: str = SECRET_KEY,
    replying: Callable[[CommonSettings, IngestSettings], Make] | None = None,
    tls: ssl.SSLContext | None = None,
    **settings: Any,
) -> AsyncIterator[Local]:
    """A receiver in this test's event loop, with sources stored that nobody registered unless told otherwise."""
    database = Database(database) if isinstance(database, str) else database
    settings = {"unknown_sources": "store", **settings}
    thresholds = gc.get_threshold()
    async with AsyncExitStack() as leaving:
        leaving.callback(gc.set_threshold, *thresholds)
        leaving.callback(gc.unfreeze)
        listener = leaving.enter_context(listener or a_listener())
        ours, theirs = socket.socketpair()
        leaving.enter_context(ours)
        lifeline = Lifeline(theirs.detach())
        common = CommonSettings(metrics_port=0, grace_seconds=grace_seconds, secret_key=SecretStr(secret_key))
        chosen = IngestSettings(**settings)
        identity = identity_of(chosen.tls_cert, chosen.tls_key)
        make = replying(common, chosen) if replying is not None else None
        work = serve(common, chosen, database, [listener], identity=identity, lifeline=lifeline, make_replying=make)
        local = Local(listener.getsockname()[1], tls=tls, lifeline=ours, ended=asyncio.create_task(work))
        leaving.push_async_callback(_end, local)
        try:
            await first_of(local.get("/-/live"), local.ended)
        except DatabaseError:
            ours.close()
            await lifeline.watch()  # it never came to that
            raise
        _give_back_signals()
        yield local


async def _end(local: Local) -> None:
    local.hang_up()
    local.stop()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.wait({local.ended})
    _give_back_signals()


def _give_back_signals() -> None:
    """Ctrl-C is for the test run to hear."""
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().remove_signal_handler(name)


@dataclass
class Remote(Receiver):
    """`hookd ingest` in processes of its own."""

    hookd: Hookd = field(kw_only=True)

    def signal(self, number: signal.Signals) -> None:
        self.hookd.process.send_signal(number)


@asynccontextmanager
async def hookd_ingest(
    database_url: str,
    workers: int = 1,
    *,
    tls: ssl.SSLContext | None = None,
    is_bare: bool = False,
    **settings: object,
) -> AsyncIterator[Remote]:
    """A receiver as a user starts it, ready to be sent to; killed at the end, should it still run.

    `is_bare`: it has imported nothing but what it uses, for whoever looks at its memory.
    """
    given = {name: str(value) for name, value in {"unknown_sources": "store", **settings}.items()}
    command = ("ingest", "--port", "0", "--workers", str(workers))
    start = hookd if is_bare else born.hookd
    async with start(*command, cwd=None, environment=None, database_url=database_url, **given) as process:
        listening = await process.logged("ingest.listening", workers)
        remote = Remote(int(listening["url"].rpartition(":")[2]), tls=tls, hookd=process)
        try:
            yield remote
        finally:
            remote.hang_up()
