"""What is fetched from Amazon SNS: certificates that messages are signed by, and confirmations of subscriptions.

The caller gives only URLs that `protocol/schemes/sns.py` let through. Neither redirects nor proxies are followed.

Whoever knows a topic's name can write messages that name any file on Amazon's host. So little is asked for at once,
what could not be had is not asked for again at once, and nobody need wait here for a certificate.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from chassis.logs import get_logger
from protocol import keys

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver

T = TypeVar("T")
log = get_logger()

FETCH_SECONDS_MAX = 5.0
FETCHES_MAX = 4  # at once: topics of so many regions at a start; a burden to nobody
COMING_MAX = 64  # fetched, or waiting for their turn: 80 s of it, were each to take its 5 s
KEPT_MAX = 32  # Amazon has one certificate a region and a year
FAILED_MAX = 256  # by their URLs, of 2 KiB at most: half a megabyte
ANEW_SECONDS = 60.0  # until what failed, or was out of date, is asked for again


class Unfetched(Exception):
    """Why it could not be had now; another time it may, after so many seconds at the earliest."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


class Coming(Exception):
    """It is being fetched. `end` is done when it is there, or cannot be had."""

    def __init__(self, end: "asyncio.Task[None]") -> None:
        super().__init__()
        self.end = end


class Amazon:
    """Fetches over HTTPS. `resolver`, `trust` and `clock`: other than the system's, for tests."""

    def __init__(
        self,
        *,
        resolver: "AbstractResolver | None" = None,
        trust: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._resolver = resolver
        self._trust = trust
        self._clock = clock
        self._kept: dict[str, tuple[bytes, float]] = {}
        self._failed: dict[str, tuple[str, float]] = {}
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(FETCHES_MAX)

    def certificate(self, url: str) -> bytes:
        """The certificate at that URL, fetched once for all who ask. Raises Coming, Unfetched."""
        return self._had(url, self._certificate)

    def confirm(self, url: str) -> None:
        """Fetch the URL, once for all who ask. Raises Coming, Unfetched; when it does neither it is confirmed."""
        self._had(url, self._confirmation)

    def _had(self, url: str, come: Callable[[str], Awaitable[tuple[bytes, float]]]) -> bytes:
        what, until = self._kept.get(url, (b"", 0.0))
        if self._clock() <= until:
            return what
        if url in self._coming:
            raise Coming(self._coming[url])
        why, until = self._failed.get(url, ("", 0.0))
        # (Nor longer where the clock was set back meanwhile.)
        if 0 < (left := until - self._clock()) <= ANEW_SECONDS:
            raise Unfetched(why, left)
        if len(self._coming) >= COMING_MAX:
            raise Unfetched(f"{COMING_MAX} other files are asked for")
        self._coming[url] = asyncio.create_task(self._come(url, come))
        raise Coming(self._coming[url])

    async def _come(self, url: str, come: Callable[[str], Awaitable[tuple[bytes, float]]]) -> None:
        try:
            async with self._turns:
                what, until = await come(url)
        except Unfetched as why:
            remember(self._failed, url, (str(why), self._clock() + ANEW_SECONDS), FAILED_MAX)
        except Exception as error:
            # Whatever it was: who waits would else ask again and again.
            log.exception("amazon.failed", url=url)
            remember(self._failed, url, (type(error).__name__, self._clock() + ANEW_SECONDS), FAILED_MAX)
        else:
            remember(self._kept, url, (what, max(until, self._clock() + ANEW_SECONDS)), KEPT_MAX)
        finally:
            del self._coming[url]

    async def _certificate(self, url: str) -> tuple[bytes, float]:
        """With the time until which it is valid."""
        pem = await self._fetch(url)
        try:
            _, _, ends = keys.certificate_key(pem)
        except ValueError:
            raise Unfetched("what is there is no certificate") from None
        return pem, ends

    async def _confirmation(self, url: str) -> tuple[bytes, float]:
        await self._fetch(url)
        return b"", 0.0

    async def close(self) -> None:
        """Give up what is being fetched."""
        coming = list(self._coming.values())
        for each in coming:
            each.cancel()
        await asyncio.gather(*coming, return_exceptions=True)

    async def _fetch(self, url: str) -> bytes:
        """What is at that URL. Raises Unfetched."""
        # Most processors never fetch anything, and the library costs a tenth of a second.
        from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector  # noqa: PLC0415

        connector = TCPConnector(resolver=self._resolver, ssl=self._trust or True)
        limit = ClientTimeout(total=FETCH_SECONDS_MAX)
        try:
            async with (
                ClientSession(
                    connector=connector, timeout=limit, cookie_jar=DummyCookieJar(), auto_decompress=False
                ) as session,
                session.get(url, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise Unfetched(f"answered with {response.status}")
                body = b""
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > keys.CERTIFICATE_BYTES_MAX:
                        raise Unfetched(f"more than {keys.CERTIFICATE_BYTES_MAX} bytes")
                return body
        except TimeoutError:
            raise Unfetched(f"no answer within {FETCH_SECONDS_MAX:.0f} s") from None
        except (ClientError, OSError, ValueError) as error:
            raise Unfetched(type(error).__name__) from None


def remember(known: dict[str, T], url: str, what: T, count_max: int) -> None:
    """The latest so many."""
    known.pop(url, None)
    while len(known) >= count_max:
        del known[next(iter(known))]
    known[url] = what
