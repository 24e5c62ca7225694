"""What is fetched from Amazon SNS: certificates that messages are signed by, and confirmations of subscriptions.

The caller gives only URLs that `protocol/schemes/sns.py` let through. Neither redirects nor proxies are followed.
"""

import asyncio
import ssl
import time
from typing import TYPE_CHECKING

from protocol import keys

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver

FETCH_SECONDS_MAX = 5.0
KEPT_MAX = 32  # Amazon has one a region and a year


class Unfetched(Exception):
    """Why it could not be had now; another time it may."""


class Amazon:
    """Fetches over HTTPS. `resolver` and `trust`: other than the system's, for tests."""

    def __init__(self, *, resolver: "AbstractResolver | None" = None, trust: ssl.SSLContext | None = None) -> None:
        self._resolver = resolver
        self._trust = trust
        self._kept: dict[str, tuple[bytes, float]] = {}
        self._coming: dict[str, asyncio.Task[bytes]] = {}

    async def certificate(self, url: str) -> bytes:
        """The certificate at that URL, fetched once as long as it is valid. Raises Unfetched."""
        pem, ends = self._kept.get(url, (b"", 0.0))
        if time.time() <= ends:
            return pem
        if url not in self._coming:
            self._coming[url] = asyncio.create_task(self._certificate(url))
            self._coming[url].add_done_callback(lambda _: self._coming.pop(url))
        return await asyncio.shield(self._coming[url])

    async def _certificate(self, url: str) -> bytes:
        pem = await self.fetch(url)
        try:
            _, _, ends = keys.certificate_key(pem)
        except ValueError:
            raise Unfetched("what is there is no certificate") from None
        while len(self._kept) >= KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[url] = pem, ends
        return pem

    async def fetch(self, url: str) -> bytes:
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
