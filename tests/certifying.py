"""Certificates for tests: an authority of their own, and files as a receiver is given them."""

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import trustme


@dataclass(frozen=True)
class Pair:
    """Where a receiver finds its certificate and its key."""

    folder: Path
    authority: trustme.CA

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def settings(self) -> dict[str, Any]:
        return {"tls_cert": self.certificate, "tls_key": self.key}

    def issue(self, *names: str, ends: datetime | None = None) -> bytes:
        """New ones in their place; what a sender is shown then, in DER."""
        issued = self.authority.issue_cert(*(names or ("127.0.0.1", "localhost")), not_after=ends)
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())

    def trusting(self, **chosen: object) -> ssl.SSLContext:
        """A sender that trusts the authority."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        for name, value in chosen.items():
            setattr(context, name, value)
        return context


def a_pair(folder: Path) -> Pair:
    """With a certificate for 127.0.0.1 and localhost."""
    pair = Pair(folder, trustme.CA())
    pair.issue()
    return pair
