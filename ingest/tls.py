"""TLS before a connection is one: agreed on within a time, by so many at once; who speaks plain HTTP is told so.

The connections are accepted here, not by asyncio: it counts none that has not agreed yet, cannot refuse one, and cannot
look at the first byte.
"""

import asyncio
import contextlib
import socket
import ssl

from chassis.logs import get_logger
from chassis.tls import Identity
from ingest import refusal
from ingest.connection import LINGER_SECONDS, Server, raw_answer

HANDSHAKE = b"\x16"  # the first byte of whoever begins with TLS (RFC 8446, 5.1)
GOODBYE_SECONDS = 1.0  # a sender that keeps idle connections may not hear ours, and should hold up no stop
AGAIN_SECONDS = 1.0  # asyncio's own, after no file was left to open

log = get_logger()


class Door:
    """Accepts connections, and makes them the server's once TLS is agreed on."""

    def __init__(self, server: Server, identity: Identity, seconds_max: float) -> None:
        self._server = server
        self._identity = identity
        self._seconds_max = seconds_max
        self._agreeing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def agreeing(self) -> int:
        """How many connections are not the server's yet."""
        return len(self._agreeing)

    def end(self) -> None:
        """Close those that have not agreed yet."""
        for task in self._agreeing:
            task.cancel()

    def listen(self, listener: socket.socket) -> "Listening":
        self._loop.add_reader(listener, self._accept, listener)
        return Listening(self._loop, listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            opened, _ = listener.accept()
        except (BlockingIOError, ConnectionError):  # another worker has it, or it is gone
            return
        except OSError as error:
            log.error("ingest.unable_to_accept", reason=error.strerror)
            self._loop.remove_reader(listener)
            self._loop.call_later(AGAIN_SECONDS, self._listen_again, listener)
            return
        opened.setblocking(False)
        if self._server.is_full(beside=self.agreeing + 1):
            self._server.refused(refusal.too_many_connections())
            opened.close()
            return
        task = self._loop.create_task(self._agree(opened))
        self._agreeing.add(task)
        task.add_done_callback(self._agreeing.discard)

    def _listen_again(self, listener: socket.socket) -> None:
        if listener.fileno() != -1:
            self.listen(listener)

    async def _agree(self, opened: socket.socket) -> None:
        """From then on it is the server's; else it is closed."""
        try:
            async with asyncio.timeout(self._seconds_max):
                first = await self._first_byte(opened)
                if first == HANDSHAKE:
                    await self._hand_over(opened)
                else:
                    await self._tell(opened, first)
        except TimeoutError:
            self._server.refused(refusal.tls_too_slow(self._seconds_max))
            opened.close()
        except ssl.SSLError as error:
            self._server.refused(refusal.tls_failed((error.reason or "no reason given").lower().replace("_", " ")))
        except OSError:  # the sender left, as those do that only look whether somebody listens
            opened.close()
        except asyncio.CancelledError:
            opened.close()
            raise

    async def _first_byte(self, opened: socket.socket) -> bytes:
        readable = asyncio.Event()
        self._loop.add_reader(opened, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(opened)
        return opened.recv(1, socket.MSG_PEEK)

    async def _hand_over(self, opened: socket.socket) -> None:
        await self._loop.connect_accepted_socket(
            self._server,
            opened,
            ssl=self._identity.context,
            ssl_handshake_timeout=self._seconds_max,
            ssl_shutdown_timeout=GOODBYE_SECONDS,
        )

    async def _tell(self, opened: socket.socket, first: bytes) -> None:
        """Answer who began with anything else, in the only language it can be expected to know."""
        with opened:
            if not first:
                return
            why = refusal.no_tls()
            self._server.refused(why)
            opened.send(raw_answer(why))
            opened.shutdown(socket.SHUT_WR)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    while await self._loop.sock_recv(opened, 65536):
                        pass


class Listening:
    """A socket that is listened to until it is closed; what it has not accepted by then is left to its next owner."""

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        self._loop = loop
        self._listener = listener

    def close(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
