"""Receive: a POST becomes a committed row, then it is answered."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from uuid_utils import UUID, uuid7

from chassis.logs import get_logger
from ingest import refusal
from ingest.batch import Lane, Row
from ingest.budget import Budget, Charged
from ingest.connection import (
    Accepted,
    about_to_answer,
    answer,
    answer_bytes,
    answer_refusal,
    invite_body,
    is_chunked,
    is_http_10,
    large_head_bytes,
    raw_headers,
    refused_by,
)
from ingest.keeping import Keeping
from ingest.knowledge import Knowledge
from ingest.refusal import Refusal
from ingest.remotes import Remotes
from ingest.replying import Replying
from ingest.settings import IngestSettings
from ingest.store import Side, head_size
from ingest.tally import Tally
from ingest.terms import RECEIPT_STATUSES, Terms
from protocol import challenge, storable
from protocol.challenge import Answer
from protocol.providers.provider import Success
from protocol.request import Request, path_of, source_of
from protocol.source import Source, verdict_text
from protocol.verdict import Refused, Verdict

LARGE_LANE_BYTES = 1024 * 1024  # bodies over this never travel with small ones
BODY_BYTES_PER_SECOND_MIN = 64 * 1024
CONTINUE = "100-continue"
NANOSECONDS = 1_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

log = get_logger()


@dataclass
class Receiver:
    """The request handler, with all it needs handed to it."""

    settings: IngestSettings
    small: Lane
    large: Lane
    side: Side
    knowledge: Knowledge
    keeping: Keeping
    tally: Tally
    replying: Replying | None = None
    stopping: bool = False
    budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.settings.inflight_bytes_max)
        self._remotes = Remotes(self.settings.trusted_proxies)
        self._ready: tuple[float, bool] = (0.0, False)
        self._asking = asyncio.Lock()

    async def receive(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request: with the id of its committed row, or with the reason why there is none."""
        arrived = time.time_ns() + int(self.knowledge.offset_seconds * NANOSECONDS)
        charged = Charged()
        try:
            source, terms = self.judge(request)
            if head_bytes := large_head_bytes(request):
                self.budget.charge_head(charged, head_bytes)
            until = None if self.replying is None else self.reply_until(request, source, terms)
            body = await self.read(request, charged, terms.body_bytes_max)
            event_id, row = self.row_of(request, source, body, arrived, terms)
            if terms.source is not None:
                row = await self.look_into(request, terms.source, body, row, arrived)
            replied = await self.save(row, len(body), terms.commit_timeout_seconds, until)
        except Refusal as why:
            return self.refuse(request, why)
        except _Handshake as asked:
            return self.greet(request, source, asked.answer)
        except _OwnPage:
            return await self.own_page(request)
        finally:
            self.budget.give_back(charged)
            about_to_answer(request)
        self.tally.stored(source, len(body))
        if log.debugging:
            log.debug("webhook.stored", id=str(event_id), source=source, bytes=len(body))
        if replied is not None:
            return answer_bytes(replied.status, replied.body, replied.headers, close=self.closes(request))
        if terms.answer is not None:
            return self.accept(request, event_id, terms.answer)
        return Accepted(str(event_id).encode(), close=is_chunked(request))

    def judge(self, request: web.BaseRequest) -> tuple[str, Terms]:
        """The source and its terms, from the head alone. Raises Refusal."""
        if (refused := refused_by(request)) is not None:
            raise refused
        target = request.raw_path
        source = source_of(target, self.settings.prefix)
        if source is None:
            raise self.not_a_webhook(request)
        if "#" in target:
            raise refusal.malformed("a fragment in the target")
        terms = self.knowledge.terms_of(source)
        if request.method not in terms.heard:
            raise refusal.method_not_allowed(", ".join(terms.methods))
        if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
            raise refusal.malformed("a transfer coding other than chunked")
        if request.headers.get("Expect", CONTINUE).lower() != CONTINUE and not is_http_10(request):
            raise refusal.expectation()
        return source, terms

    def not_a_webhook(self, request: web.BaseRequest) -> Exception:
        if path_of(request.raw_path).startswith("/-/"):
            return _OwnPage()
        if request.method != "POST":
            return refusal.method_not_allowed("POST")
        return refusal.no_source(self.settings.prefix)

    async def read(self, request: web.BaseRequest, charged: Charged, bytes_max: int) -> bytes | bytearray:
        """The body, whole. Raises Refusal."""
        content = request.content
        if not content.is_eof():
            return await self.read_slowly(request, charged, bytes_max)
        body = content.read_nowait()
        if len(body) > bytes_max:
            raise refusal.body_too_large(bytes_max)
        self.budget.charge(charged, len(body))
        return body

    async def read_slowly(self, request: web.BaseRequest, charged: Charged, bytes_max: int) -> bytearray:
        if (request.content_length or 0) > bytes_max:
            raise refusal.body_too_large(bytes_max)
        if "Expect" in request.headers and not is_http_10(request):
            await invite_body(request)
        clock = asyncio.get_running_loop().time
        patience = self.settings.body_timeout_seconds
        began, body = clock(), bytearray()
        try:
            while True:
                slowest = began + patience + len(body) / BODY_BYTES_PER_SECOND_MIN
                async with asyncio.timeout_at(min(clock() + patience, slowest)):
                    chunk = await request.content.readany()
                if not chunk:
                    return body
                body += chunk
                if len(body) > bytes_max:
                    raise refusal.body_too_large(bytes_max)
                self.budget.charge(charged, len(chunk))
        except TimeoutError:
            raise refusal.body_too_slow(patience) from None
        except OSError:  # TLS that breaks is one too
            raise refusal.aborted() from None
        except (HttpProcessingError, web.RequestPayloadError) as error:
            raise refusal.malformed("the body's framing is broken") from error

    def row_of(
        self, request: web.BaseRequest, source: str, body: bytes | bytearray, arrived: int, terms: Terms
    ) -> tuple[UUID, Row]:
        """The id and the row, every value made storable. `arrived`: nanoseconds since 1970 by the database's clock."""
        event_id = uuid7(nanoseconds=arrived)
        headers = request.headers
        return event_id, (
            event_id,
            source,
            storable.name(_named(headers, terms.event_type)),
            storable.name(_named(headers, terms.delivery_id)),
            EPOCH + timedelta(microseconds=arrived // 1000),
            request.method,
            request.raw_path,
            orjson.dumps(
                [(storable.header(name), storable.header(value)) for name, value in raw_headers(request)]
            ).decode(),
            self._remotes.of(request.remote or "", headers),
            body,
            None,
        )

    async def look_into(
        self, request: web.BaseRequest, source: Source, body: bytes | bytearray, row: Row, arrived: int
    ) -> Row:
        """The row with its verdict, where the source is judged here. Raises _Handshake of what is one, and Refusal."""
        asked = _asked(request, body)
        look = partial(_look, source, asked, arrived / NANOSECONDS)
        greeting, verdict = await asyncio.to_thread(look) if len(asked.body) > LARGE_LANE_BYTES else look()
        if greeting is not None:
            raise _Handshake(greeting)
        if request.method not in source.methods:
            raise refusal.method_not_allowed(", ".join(source.methods))
        if verdict is None:
            return row
        row = (*row[:-1], verdict_text(verdict))
        if isinstance(verdict, Refused):
            self.keeping.put(source.name, row, len(asked.body))
            raise refusal.unverified(verdict)
        return row

    def reply_until(self, request: web.BaseRequest, source: str, terms: Terms) -> float | None:
        """When its answer is due, in the event loop's time, where it may be replied to. Raises Refusal."""
        assert self.replying is not None
        if self.replying.replies(source, request.method, request.raw_path):
            return asyncio.get_running_loop().time() + self.settings.reply_seconds
        if request.method in terms.ruled:
            allowed = (method for method in terms.methods if method not in terms.ruled)
            raise refusal.method_not_allowed(", ".join(allowed))
        return None

    async def save(
        self, row: Row, size: int, timeout_seconds: float | None = None, until: float | None = None
    ) -> Answer | None:
        """Return when the row is committed: with an answer of its own, where it is replied to. `size`: of its body.

        Raises Refusal.
        """
        if until is not None and self.replying is not None:
            return await self.replying.reply(row, size, timeout_seconds, until)
        lane = self.large if size > LARGE_LANE_BYTES else self.small
        await lane.put(row, size + head_size(row), timeout_seconds)
        self.side.hint()
        return None

    def accept(self, request: web.BaseRequest, event_id: UUID, success: Success) -> web.StreamResponse:
        """Answer as the source wants it; with the row's id where there is room for it."""
        status, headers, body = success
        close = self.closes(request)
        if body is None and status in RECEIPT_STATUSES:
            return answer(status, {"id": str(event_id)}, headers, close=close)
        return answer_bytes(status, body or b"", headers, close=close)

    def greet(self, request: web.BaseRequest, source: str, greeting: Answer) -> web.StreamResponse:
        self.tally.handshake(source, greeting.status)
        return answer_bytes(greeting.status, greeting.body, greeting.headers, close=self.closes(request))

    def refuse(self, request: web.BaseRequest, why: Refusal) -> web.StreamResponse:
        self.tally.refused(why)
        return answer_refusal(why, close=self.closes(request))

    def closes(self, request: web.BaseRequest) -> bool:
        """Whether the connection ends with this answer."""
        # aiohttp leaks the last trailer of a chunked request into the next request's headers, and takes the body behind
        # a CONNECT, or behind a transfer coding without a name, for the next request.
        unread = not request.content.is_eof() or request.method == "CONNECT"
        return self.stopping or unread or "Transfer-Encoding" in request.headers or refused_by(request) is not None

    async def own_page(self, request: web.BaseRequest) -> web.StreamResponse:
        """hookd's own pages: is it alive, can it commit."""
        path = path_of(request.raw_path)
        if path not in ("/-/live", "/-/ready"):
            return self.refuse(request, Refusal(404, "no_page", "no such page; there are /-/live and /-/ready"))
        if request.method not in ("GET", "HEAD"):
            return self.refuse(request, refusal.method_not_allowed("GET, HEAD"))
        close = self.closes(request)
        if path == "/-/live":
            return answer(200, {"live": True}, close=close)
        fault = await self.fault()
        return answer(503 if fault else 200, {"ready": not fault} | ({"error": fault} if fault else {}), close=close)

    async def fault(self) -> str | None:
        """Why no request should be sent here, or None."""
        if self.stopping:
            return "stopping"
        if self.small.failing or self.large.failing or (self.replying is not None and self.replying.failing):
            return "the last write failed"
        async with self._asking:  # and once a second at most: the page is open to everybody
            if self._ready[0] < (now := time.monotonic()) - 1:
                self._ready = (now, await self.side.can_commit())
        return None if self._ready[1] else "the database does not take writes"


class _OwnPage(Exception):
    """The request is for hookd itself."""


class _Handshake(Exception):
    """The request is no event; this is its answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


def _asked(request: web.BaseRequest, body: bytes | bytearray) -> Request:
    headers = [(storable.header(name), storable.header(value)) for name, value in raw_headers(request)]
    return Request(request.method, request.raw_path, headers, bytes(body))


def _look(source: Source, asked: Request, received_at: float) -> tuple[Answer | None, Verdict | None]:
    """The answer to what is a handshake, else the verdict where it is the receiver's to judge."""
    secrets = source.secrets_at(received_at)
    greeting = challenge.answer(source.provider, asked, secrets, received_at, options=source.options)
    judges = greeting is None and source.mode == "edge" and asked.method in source.methods
    return greeting, source.judge(asked, received_at) if judges else None


def _named(headers: Mapping[str, str], name: str | None) -> str | None:
    return headers.get(name) if name else None
