"""aiohttp's low-level connection, bounded in time and size outside the body too, refusing in JSON.

The one module that knows private names of aiohttp (3.14). Its parser sets a whole head no limit and no time-out,
answers malformed requests in text/plain with a traceback in the log, and does not tell a handler that reads a body when
the framing breaks.
"""

import asyncio
import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any, cast

import orjson
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import LineTooLong, PayloadEncodingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import _ErrInfo

from chassis.logs import get_logger
from ingest import refusal
from ingest.refusal import REASONS, Refusal

HEAD_BYTES_MAX = 64 * 1024  # nginx takes 32 KiB, Apache 8 KiB a line
ORDINARY_HEAD_BYTES = 8 * 1024  # what nginx and Apache take of a line; larger ones count as bodies do
HEADERS_MAX = 100  # Apache's own (LimitRequestFields); each costs some 300 bytes beside its text
READ_BYTES = 64 * 1024  # aiohttp buffers twice this for a body nobody reads yet
JSON = (("Content-Type", "application/json"),)
LINGER_SECONDS = 2.0  # 0 would let a reset destroy the refusal before the sender reads it
KEEPALIVE_SECONDS = (
    75.0  # longer than nginx keeps an upstream connection (60 s), so that it is never cut under a request
)

log = get_logger()


class OtherParser(Exception):
    """aiohttp would judge requests by other rules than those that hookd was tried with."""


def require_c_parser() -> None:
    """The pure-Python parser gives other verdicts on the same bytes. Raises OtherParser where it is in use."""
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise OtherParser(
            "aiohttp runs on its pure-Python parser: install its binary wheel, unset AIOHTTP_NO_EXTENSIONS"
        )


class Connection(web.RequestHandler):
    """One sender's connection."""

    __slots__ = ("body", "head_began", "head_bytes", "outside", "refused", "untaken", "untaken_since", "wire")

    _manager: "Server"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.head_began: float | None = None
        self.outside = 0  # bytes that came since the last body ended
        self.body: StreamReader | None = None  # of the request that is being answered
        self.refused: Refusal | None = None
        # Not aiohttp's `transport`, which is None once it was closed, though answers are still to be sent.
        self.wire = cast(asyncio.WriteTransport, transport)
        self.untaken, self.untaken_since = 0, 0.0  # bytes of answers
        super().connection_made(transport)
        if self._manager.is_full():
            self.turn_away(refusal.too_many_connections())  # before a byte is read: the sender may see a reset
        elif len(self._manager._connections) > self._manager.connections_max:
            self.refused = refusal.too_many_connections()  # once its head is read, so that the sender reads why

    def data_received(self, data: bytes) -> None:
        latest = self._messages[-1][1] if self._messages else self.body
        if latest is None and data:
            if self.outside > HEAD_BYTES_MAX:
                self.turn_away(refusal.head_too_large(HEAD_BYTES_MAX))
                return
            if not self.outside:
                self.head_began = self._loop.time()
            self.outside += len(data)
        is_behind = latest is not None and latest.is_eof()
        super().data_received(data)
        if is_behind and data:  # nobody bounds it there, so that no more is read until its turn has come
            self.outside += len(data)
            self._pause_reading_for_buffer()
        if self.body is not None and self._messages:
            self._tell_of_broken_framing(self.body)

    def _resume_reading_if_drained(self) -> None:
        if not self._messages:
            super()._resume_reading_if_drained()

    def _tell_of_broken_framing(self, body: StreamReader) -> None:
        if isinstance(self._messages[-1][0], _ErrInfo) and not body.is_eof():
            body.set_exception(PayloadEncodingError("the body's framing is broken"))

    def begin(self, message: RawRequestMessage, body: StreamReader) -> None:
        """The head is parsed, the body follows."""
        self.head_bytes = _head_size(message) if self.outside > ORDINARY_HEAD_BYTES else 0
        if self.head_bytes > HEAD_BYTES_MAX:
            self.refused = refusal.head_too_large(HEAD_BYTES_MAX)
        self.head_began, self.outside, self.body = None, 0, body

    def end(self) -> None:
        """The request is about to be answered: what comes behind its body is another's head."""
        if self.body is None or not self.body.is_eof():
            return  # aiohttp reads on for a while, so that the sender reads why it was refused
        self.body = None
        if self.outside:
            self.head_began = self._loop.time()
        if self._buffer_paused:
            self._resume_reading_if_drained()

    def hang_up_if_unheard(self, overdue: float) -> None:
        """A sender that takes nothing of its answers would else stay for ever: nothing is read of it either."""
        untaken = self.wire.get_write_buffer_size()
        if not untaken or untaken != self.untaken:
            self.untaken, self.untaken_since = untaken, self._loop.time()
        elif self.untaken_since < overdue:
            self.wire.abort()

    @property
    def stopping(self) -> bool:
        return self._manager is None or self._manager.stopping

    def turn_away(self, why: Refusal) -> None:
        """Refuse outside of any request, and close."""
        if self.transport is not None and not self._force_close:
            self._manager.refused(why)
            self.transport.write(raw_answer(why))
            self.force_close()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Called by aiohttp for what its parser refuses, and for a bug of ours."""
        if status >= 500:
            why = refusal.our_fault()
            log.error("request.broke", exc_info=exc)
        elif isinstance(exc, LineTooLong):
            why = refusal.head_too_large(HEAD_BYTES_MAX)
        elif message == "Too many headers received":
            why = refusal.too_many_headers(HEADERS_MAX)
        else:
            why = refusal.malformed((message or "").partition(":")[0].strip() or "bad request")
        self._manager.refused(why)
        return answer_refusal(why, close=True)


class Server(web.Server):
    """Makes a Connection for each sender, and knows them all."""

    def __init__(self, handler: Any, *, connections_max: int, refused: Any) -> None:
        super().__init__(
            handler,
            request_factory=_begin,  # type: ignore[arg-type]
            auto_decompress=False,  # what is stored is what was sent
            access_log=None,
            max_line_size=HEAD_BYTES_MAX,
            max_field_size=HEAD_BYTES_MAX,
            max_headers=HEADERS_MAX,
            read_bufsize=READ_BYTES,
            lingering_time=LINGER_SECONDS,
            keepalive_timeout=KEEPALIVE_SECONDS,
        )
        self.connections_max = connections_max
        self.refused = refused
        self.stopping = False

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)

    def is_full(self, beside: int = 0) -> bool:
        """Whether it has more connections than can be told so; `beside`: those that are not its own yet."""
        return len(self._connections) + beside > self.connections_max + max(self.connections_max // 10, 1)

    def sweep(self, head_seconds_max: float, still_seconds_max: float = KEEPALIVE_SECONDS) -> None:
        """Turn away whoever began a head longer ago than that, or lets answers stand still for so long.

        To be called every second or so.
        """
        now = self._loop.time()
        for connection in self.connections:
            assert isinstance(connection, Connection)
            if connection.head_began is not None and connection.head_began < now - head_seconds_max:
                connection.turn_away(refusal.head_too_slow(head_seconds_max))
            connection.hang_up_if_unheard(now - still_seconds_max)


def _begin(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: Connection,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    protocol.begin(message, payload)
    return web.BaseRequest(message, payload, protocol, writer, task, protocol._loop)


def raw_headers(request: web.BaseRequest) -> tuple[tuple[bytes, bytes], ...]:
    return request._message.raw_headers


def is_chunked(request: web.BaseRequest) -> bool:
    return request._message.chunked


def is_http_10(request: web.BaseRequest) -> bool:
    return request._message.version < (1, 1)


def refused_by(request: web.BaseRequest) -> Refusal | None:
    """Why the head alone is refused, where it is."""
    if request._message.version < (1, 0):
        return refusal.malformed("HTTP/0.9")
    return request._protocol.refused  # type: ignore[attr-defined, no-any-return]


def large_head_bytes(request: web.BaseRequest) -> int:
    """The size of its head, or 0 for an ordinary one."""
    size: int = request._protocol.head_bytes  # type: ignore[attr-defined]
    return size if size > ORDINARY_HEAD_BYTES else 0


def about_to_answer(request: web.BaseRequest) -> None:
    """To be called once its body is of no more use."""
    request._protocol.end()  # type: ignore[attr-defined]


async def invite_body(request: web.BaseRequest) -> None:
    """Answer `Expect: 100-continue`; aiohttp does so only in its Application."""
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0


class Accepted(web.StreamResponse):
    """The receipt, head and body in one write; the head is made once a second. (A web.Response costs 12 µs more.)"""

    _head = b""
    _head_second = 0

    def __init__(self, event_id: bytes, *, close: bool) -> None:
        # StreamResponse's own __init__ builds a header map, which nobody will read.
        self.event_id = event_id
        self.close = close
        self._keep_alive = None
        self._eof_sent = False
        self._connection: Connection | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        message, connection = request._message, request._protocol
        assert isinstance(connection, Connection)
        transport = connection.transport
        if transport is None:
            raise ConnectionResetError
        self._connection = connection
        self._keep_alive = keep = not (self.close or message.should_close or connection.stopping)
        head = self._head_of(int(time.time()))
        if not keep:
            head += b"Connection: close\r\n"
        elif message.version < (1, 1):
            head += b"Connection: keep-alive\r\n"
        transport.write(b'%b\r\n{"id": "%b"}' % (head, self.event_id))
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        self._eof_sent = True
        if self._connection is not None and self._connection.writing_paused:
            await self._connection._drain_helper()  # a sender that never reads its answers waits here

    @classmethod
    def _head_of(cls, second: int) -> bytes:
        if second != cls._head_second:
            cls._head_second = second
            cls._head = (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 46\r\nServer: hookd\r\nDate: "
                + formatdate(second, usegmt=True).encode()
                + b"\r\n"
            )
        return cls._head


def answer(status: int, body: dict[str, Any], headers: Iterable[tuple[str, str]] = (), *, close: bool) -> web.Response:
    return answer_bytes(status, orjson.dumps(body), (*JSON, *headers), close=close)


def answer_bytes(status: int, body: bytes, headers: Iterable[tuple[str, str]] = (), *, close: bool) -> web.Response:
    """Any answer; a body without a Content-Type is plain text."""
    response = web.Response(
        status=status, reason=REASONS.get(status), body=body, headers=(("Server", "hookd"), *headers)
    )
    if body:
        response.headers.setdefault("Content-Type", "text/plain; charset=utf-8")
    if close:
        response.force_close()
    return response


def answer_refusal(why: Refusal, *, close: bool) -> web.Response:
    return answer(why.status, {"error": why.message}, why.headers.items(), close=close)


def raw_answer(why: Refusal) -> bytes:
    """The whole answer, for where there is no request."""
    body = orjson.dumps({"error": why.message})
    headers = "".join(f"{name}: {value}\r\n" for name, value in why.headers.items())
    return (
        f"HTTP/1.1 {why.status} {REASONS[why.status]}\r\nContent-Type: application/json\r\nServer: hookd\r\n"
        f"Content-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n"
    ).encode() + body


def _head_size(message: RawRequestMessage) -> int:
    lines = sum(len(name) + len(value) + 4 for name, value in message.raw_headers)
    return len(message.method) + len(message.path) + 12 + lines
