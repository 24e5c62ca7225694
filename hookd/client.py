"""Deliver as a sender does: exactly these bytes, to a receiver that runs. The one door of aiohttp's client."""

import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from ingest.settings import IngestSettings
from protocol.request import Request

SECONDS = 30.0  # longer than any answer of a receiver takes
CHUNK_BYTES = 1000  # small, so that also a small body has several
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where it listens on all addresses, one of them


class Unreachable(Exception):
    """No answer was to be had."""


class Untrusted(Unreachable):
    """Somebody is there, who may not be the receiver; or speaks no TLS."""


class Answer(NamedTuple):
    """What a receiver says."""

    status: int
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status <= 299


class Place(NamedTuple):
    """Where a receiver listens: `http://host:port`, and the path before the source."""

    origin: str
    prefix: str

    @property
    def is_https(self) -> bool:
        return self.origin.startswith("https:")

    @property
    def host(self) -> str:
        """As the header names it."""
        return urlsplit(self.origin).netloc

    def target(self, source: str) -> str:
        return f"{self.prefix}/{source}"


def place_of(url: str) -> Place:
    """Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(
            "expected the receiver's URL, such as http://127.0.0.1:8080 or https://hooks.example.com/hooks"
        )
    return Place(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path.rstrip("/"))


def place_by(settings: IngestSettings) -> Place:
    """Where a receiver with these settings listens. Raises ValueError where they leave it open."""
    if not settings.port:
        raise ValueError("HOOKD_PORT is 0, which is any: name the receiver with --to")
    scheme, host = "https" if settings.tls_cert else "http", ANY.get(settings.host, settings.host)
    return Place(f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}", settings.prefix)


def trust(ca: Path | None) -> ssl.SSLContext:
    """Whom this machine trusts, and whom the certificates in `ca` name. Raises ValueError."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except ssl.SSLError:
            raise ValueError(f"{ca} holds no certificate in PEM") from None
        except OSError as error:
            raise ValueError(f"cannot read {ca}: {error.strerror}") from None
    return context


class Client:
    """Sends requests to one receiver, each on a connection of its own, as a load balancer would see to."""

    def __init__(self, place: Place, trusted: ssl.SSLContext | None = None) -> None:
        """`trusted`: by whom its certificate may be signed; by default whom this machine trusts."""
        self.place = place
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, ssl=trusted or True),
            timeout=aiohttp.ClientTimeout(total=SECONDS),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            auto_decompress=False,
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def send(self, request: Request, *, chunked: bool = False) -> Answer:
        """Its answer. Raises Unreachable (Untrusted too), and ValueError for a header that cannot be sent."""
        # aiohttp writes headers in UTF-8; ours are bytes, written as ISO-8859-1.
        headers = [(name, value.encode("latin-1").decode()) for name, value in request.headers]
        url = URL(self.place.origin + request.target, encoded=True)
        body = chunks(request.body) if chunked else request.body or None
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body, allow_redirects=False
            ) as response:
                return Answer(response.status, await response.read())
        except TimeoutError:
            raise Unreachable(f"{self.place.origin} did not answer within {SECONDS:.0f} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            why = distrust(error.certificate_error)
            raise Untrusted(f"{self.place.origin} is not trusted: {why}") from None
        except aiohttp.ClientConnectorSSLError as error:
            raise Untrusted(f"{self.place.origin} does not speak TLS as we do: {sentence(error.os_error)}") from None
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"nothing answers at {self.place.origin}: {sentence(error.os_error)}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{self.place.origin} hung up: {sentence(error)}") from None


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    for n in range(0, len(body), CHUNK_BYTES):
        yield body[n : n + CHUNK_BYTES]


def distrust(error: Exception) -> str:
    why = getattr(error, "verify_message", "") or sentence(error)
    return f"{why.rstrip('.')}; --ca names a certificate to trust"


def sentence(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:  # whose number is none of the system's
        return error.reason.lower().replace("_", " ")
    number = getattr(error, "errno", None)
    # asyncio's own words for it name the address once more, as Python would write it.
    if number and number > 0:
        return os.strerror(number).lower()
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return words.splitlines()[0]
