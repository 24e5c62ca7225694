"""TLS as a server speaks it: its certificate and key, from two files that may be replaced while it serves."""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from chassis.logs import get_logger

# Everything older is forbidden by RFC 8996, and no sender that verifies certificates is without it. Not 1.3 at least:
# some providers' proxies, and Java 8 as it was for years, end at 1.2. What 1.2 may agree on is Python's own choice
# (3.10 and later: forward secrecy and authenticated encryption, or AES-CBC with SHA-2).
VERSION_MIN = ssl.TLSVersion.TLSv1_2

log = get_logger()


class TLSError(Exception):
    """Why certificate and key cannot be used: one sentence, with the files' names and nothing of their contents."""


class Identity:
    """Who a server says it is. `context` is for the next connection; those that are open keep theirs."""

    context: ssl.SSLContext

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises TLSError."""
        self._certificate = certificate
        self._key = key
        self.load()

    def load(self) -> None:
        """Read both files. Raises TLSError, and then what was read before still counts."""
        validity = _validity(self._certificate)
        self.context = _context(self._certificate, self._key)
        self._since, self._until = validity

    def load_again(self) -> None:
        """The same while it serves: what is wrong goes to the log."""
        try:
            self.load()
        except TLSError as error:
            log.error("tls.unchanged", reason=str(error), hint="the certificate from before still serves")
        else:
            self.tell()

    def tell(self) -> None:
        """Log which certificate it is. One that is out of date is served all the same: some senders do not look."""
        facts = {"certificate": str(self._certificate), "until": self._until.isoformat()}
        now = datetime.now(UTC)
        if now > self._until:
            log.warning("tls.expired", **facts, hint="senders that verify it hang up: renew it, then SIGHUP")
        elif now < self._since:
            log.warning(
                "tls.not_yet_good", **facts, since=self._since.isoformat(), hint="is this machine's clock right?"
            )
        else:
            log.info("tls.loaded", **facts)


def identity_of(certificate: Path | None, key: Path | None) -> Identity | None:
    """None where TLS is not asked for. Raises TLSError."""
    return Identity(certificate, key) if certificate is not None and key is not None else None


def _validity(certificate: Path) -> tuple[datetime, datetime]:
    from chassis.certificate import validity  # noqa: PLC0415 - 40 ms, for those alone who serve TLS

    try:
        return validity(_read(certificate))
    except ValueError:
        raise TLSError(f"{certificate} holds no certificate in PEM") from None


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSION_MIN
    context.options |= ssl.OP_NO_RENEGOTIATION  # 1.2 would let a sender ask for it without end, at our cost
    context.set_alpn_protocols(["http/1.1"])
    _read(key)  # Python's own error would not say which of the two cannot be read

    def no_password() -> NoReturn:
        raise TLSError(f"{key} is encrypted: write it without a password, for its owner alone to read")

    try:
        context.load_cert_chain(certificate, key, no_password)
    except (ssl.SSLError, OSError) as error:
        raise TLSError(_in_words(getattr(error, "reason", None), certificate, key)) from None
    return context


def _in_words(reason: str | None, certificate: Path, key: Path) -> str:
    if reason == "KEY_VALUES_MISMATCH":
        return f"the key in {key} is not the one of the certificate in {certificate}"
    if reason is not None and reason.endswith(("TOO_SMALL", "TOO_WEAK")):
        return f"the certificate in {certificate} is too weak: make it anew, with ECDSA P-256 or RSA of 2048 bits"
    return f"{key} holds no private key in PEM"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TLSError(f"cannot read {path}: {error.strerror}") from None
