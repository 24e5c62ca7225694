"""TLS, broken on purpose."""

import socket
import ssl
import time

from chassis.tls import Identity
from faults.sabotage import sabotage
from ingest.tls import Door

READING_SECONDS = 0.3


@sabotage
def take_any_certificate() -> None:
    """A certificate that cannot be used takes the place of the one that could."""
    load_again = Identity.load_again

    def take(self: Identity) -> None:
        before = self.context
        load_again(self)
        if self.context is before:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    Identity.load_again = take  # type: ignore[method-assign]


@sabotage
def closed_while_reading() -> None:
    """Whoever comes while a new certificate is read is sent away."""
    load_again, accept, until = Identity.load_again, Door._accept, 0.0

    def read(self: Identity) -> None:
        nonlocal until
        until = time.monotonic() + READING_SECONDS
        load_again(self)

    def send_away(self: Door, listener: socket.socket) -> None:
        if time.monotonic() < until:
            listener.accept()[0].close()
        else:
            accept(self, listener)

    Identity.load_again = read  # type: ignore[method-assign]
    Door._accept = send_away  # type: ignore[method-assign]
