"""A real receiver, in the test's own event loop or in processes of its own, and senders that speak in exact bytes."""

import asyncio
import contextlib
import gc
import itertools
import json
import signal
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import asyncpg
from pydantic import SecretStr

from chassis.database import Connection, Database, DatabaseError
from chassis.lifeline import Lifeline
from chassis.settings import CommonSettings
from chassis.sockets import open_listeners
from chassis.tls import identity_of
from ingest.replying import Make
from ingest.server import serve
from ingest.settings import IngestSettings
from rig.hookd import Hookd, hookd
from tests import born
from tests.databases import execute
from tests.registering import SECRET_KEY

PATIENCE_SECONDS = 20.0  # far more than anything here takes: a test that hangs shall fail
LOOKS_SECONDS = 0.02  # between two looks at what tells nobody: who looks all the time takes the machine from it
BACK_SECONDS = 5.0  # a receiver works again so soon after its database does
KIB, MIB = 1024, 1024 * 1024

T = TypeVar("T")
Headers = Sequence[tuple[bytes, bytes]]


def head(target: str = "/demo", headers: Headers = (), *, method: str = "POST", version: str = "1.1") -> bytes:
    """A request's head."""
    lines = [f"{method} {target} HTTP/{version}".encode(), b"Host: hookd", *(b"%b: %b" % pair for pair in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(target: str = "/demo", body: bytes = b"{}", headers: Headers = (), *, version: str = "1.1") -> bytes:
    """A request with its length told in its head."""
    return head(target, (*headers, (b"Content-Length", b"%d" % len(body))), version=version) + body


def chunked(target: str, chunks: Sequence[bytes], headers: Headers = (), trailers: Headers = ()) -> bytes:
    """A request whose length is told by its last chunk."""
    parts = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    lines = b"".join(b"%b: %b\r\n" % pair for pair in trailers)
    return head(target, (*headers, (b"Transfer-Encoding", b"chunked"))) + parts + b"0\r\n" + lines + b"\r\n"


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` cut at these places, wherever they are."""
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[low:high] for low, high in itertools.pairwise(edges) if low < high]


def one_by_one(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


@dataclass(frozen=True)
class Answer:
    """What a sender is told."""

    version: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> UUID:
        assert self.status == 200, self
        return UUID(json.loads(self.body)["id"])

    @property
    def error(self) -> str:
        """The refusal's reason; every refusal has one, in JSON."""
        assert self.headers["content-type"] == "application/json", self
        said = json.loads(self.body)
        assert list(said) == ["error"], self
        reason: str = said["error"]
        assert reason
        return reason

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends with it."""
        kept = "keep-alive" if self.version == "HTTP/1.1" else "close"
        return self.headers.get("connection", kept).lower() == "close"


class Sender:
    """One connection to a receiver."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._loop = asyncio.get_running_loop()
        self._read = b""

    @classmethod
    async def to(cls, port: int, host: str = "127.0.0.1") -> "Sender":
        opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(opened, (host, port))
        except BaseException:
            opened.close()
            raise
        return cls(opened)

    async def send(self, *parts: bytes) -> None:
        """Send each part in a segment of its own, until the receiver hangs up: it may have said why."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                for part in parts:
                    await self._loop.sock_sendall(self._socket, part)
                    await asyncio.sleep(0)  # a receiver in this loop reads it now

    async def answer(self, *, to_head: bool = False) -> Answer:
        """The next answer. Raises EOFError where the receiver closes without one."""
        lines = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        length = 0 if to_head else int(headers.get("content-length", 0))
        while len(self._read) < length:
            await self._receive()
        body, self._read = self._read[:length], self._read[length:]
        version, status, *_ = lines[0].split(" ")
        return Answer(version, int(status), headers, body)

    async def until(self, end: bytes) -> bytes:
        """What comes up to `end`, and with it. Raises EOFError where the receiver closes before."""
        while end not in self._read:
            await self._receive()
        said, _, self._read = self._read.partition(end)
        return said + end

    async def rest(self) -> bytes:
        """All that comes until the receiver closes."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                await self._receive()
        rest, self._read = self._read, b""
        return rest

    async def _receive(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            received = await self._loop.sock_recv(self._socket, 64 * KIB)
        if not received:
            raise EOFError(f"closed after {self._read!r}")
        self._read += received

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Vanish, as a sender that crashed."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


class TLSSender(Sender):
    """The same over TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._read = b""

    @classmethod
    async def over(cls, tls: ssl.SSLContext, port: int) -> "TLSSender":
        async with asyncio.timeout(PATIENCE_SECONDS):
            return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls))

    @property
    def agreed(self) -> ssl.SSLObject:
        """What TLS knows of the connection."""
        found: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return found

    async def send(self, *parts: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                for part in parts:
                    self._writer.write(part)
                    await self._writer.drain()

    async def _receive(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            received = await self._reader.read(64 * KIB)
        if not received:
            raise EOFError(f"closed after {self._read!r}")
        self._read += received

    def close(self) -> None:
        self._writer.transport.abort()


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


async def first_of(wanted: Awaitable[T], failing: "asyncio.Task[None]") -> T:
    """What was wanted, unless the other ends before: then its error."""
    task = asyncio.ensure_future(wanted)
    await asyncio.wait({task, failing}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await failing
    return await task


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


class Proxy:
    """A way to the server over TCP that can be broken in its middle."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._relays: set[asyncio.Task[None]] = set()
        self._silent: set[asyncio.Task[None]] = set()
        self._dark = False
        self._swallowing: bytes | None = None
        self.swallowed = asyncio.Event()
        self.opened = 0  # connections until now

    @property
    def url(self) -> str:
        port = self._server.sockets[0].getsockname()[1]
        return f"postgresql://{self._url.username}@127.0.0.1:{port}{self._url.path}?sslmode=disable"

    def swallow(self, answer: bytes) -> None:
        """The server's next answer that holds this is lost, and the connection with it."""
        self._swallowing = answer

    def go_dark(self) -> None:
        """Nothing passes any more, and nobody is told; also on connections opened from now on."""
        self._dark = True
        self._silent |= self._relays

    def light_up(self) -> None:
        """Connections opened from now on work; those from before stay as they are."""
        self._dark = False

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        self.opened += 1
        self._relays.add(relay)
        if self._dark:
            self._silent.add(relay)
        options = parse_qs(self._url.query)
        server_reader, server_writer = await asyncio.open_unix_connection(
            f"{options['host'][0]}/.s.PGSQL.{options['port'][0]}"
        )
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._relay(relay, reader, server_writer))
                both.create_task(self._relay(relay, server_reader, writer))
        except* ConnectionError:
            pass
        finally:
            self._relays.discard(relay)
            for each in (writer, server_writer):
                each.close()

    async def _relay(
        self, relay: "asyncio.Task[None]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(64 * KIB):
            if self._swallowing is not None and self._swallowing in data:
                self._swallowing = None
                self.swallowed.set()
                break
            if relay not in self._silent:
                writer.write(data)
                await writer.drain()
        if relay in self._silent:
            await asyncio.get_running_loop().create_future()
        raise ConnectionResetError


async def row_of(connection: Connection, answer: Answer) -> asyncpg.Record:
    """The row that an acceptance promises."""
    row = await connection.fetchrow("SELECT * FROM hookd.events WHERE id = $1", answer.id)
    assert row is not None, "answered 200 without a row"
    return row


async def stored(connection: Connection) -> int:
    """How many rows there are."""
    count: int = await connection.fetchval("SELECT count(*) FROM hookd.events")
    return count


async def missing(connection: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Which of these have no row."""
    rows = await connection.fetch("SELECT id FROM hookd.events WHERE id = ANY($1)", ids)
    return sorted(set(ids) - {row["id"] for row in rows})


@asynccontextmanager
async def locked(connection: Connection) -> AsyncIterator[None]:
    """No row can be written meanwhile."""
    async with connection.transaction():
        await connection.execute("LOCK TABLE hookd.events IN ACCESS EXCLUSIVE MODE")
        yield


async def in_time(check: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], seconds: float) -> T:
    """What the check says once it is as wanted. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not wanted(result := await check()):  # noqa: ASYNC110 - it may be anything, which tells nobody
            await asyncio.sleep(LOOKS_SECONDS)
    return result


async def refused(receiver: Local, table: Connection, *parts: bytes, to_head: bool = False) -> Answer:
    """The answer to what must leave nothing behind."""
    before = await stored(table)
    answer = await receiver.ask(*parts, to_head=to_head)
    assert answer.status >= 400
    if not to_head:
        assert answer.error
    assert await stored(table) == before
    return answer


@asynccontextmanager
async def away(server_url: str, connection: Connection) -> AsyncIterator[None]:
    """Nobody is let in, and whoever was in is thrown out; this connection excepted."""
    name = await connection.fetchval("SELECT current_database()")
    await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await throw_out(connection)
    yield
    await execute(server_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def throw_out(connection: Connection) -> int:
    """How many of the receiver's connections were ended."""
    ended = await connection.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name LIKE 'hookd receiver%' AND datname = current_database()"
    )
    return len(ended)
