"""What comes between a receiver and its database: a broken way, a lock, a closed door."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

from chassis.database import Connection
from tests.databases import execute
from tests.sending import KIB


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


@asynccontextmanager
async def locked(connection: Connection) -> AsyncIterator[None]:
    """No row can be written meanwhile."""
    async with connection.transaction():
        await connection.execute("LOCK TABLE hookd.events IN ACCESS EXCLUSIVE MODE")
        yield


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
