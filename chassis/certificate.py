"""Certificates: one that signs itself, made for some names; and how long any of them is good."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?"
HOST = re.compile(rf"(\*\.)?{LABEL}(\.{LABEL})*", re.IGNORECASE)
HOST_CHARACTERS_MAX = 253
COMMON_NAME_CHARACTERS_MAX = 64  # X.520's ub-common-name; who verifies looks at the alternative names alone
BACKDATED = timedelta(hours=1)  # for senders whose clocks are behind


@dataclass(frozen=True)
class SelfSigned:
    """A certificate and its key, both in PEM, and the moment it ends."""

    certificate: bytes
    key: bytes = field(repr=False)
    until: datetime


def made(names: Sequence[str], days: int) -> SelfSigned:
    """For these host names and IP addresses. Raises ValueError for what is neither."""
    alternatives = [a_name(name) for name in dict.fromkeys(names)]
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC).replace(microsecond=0)
    until = now + timedelta(days=days)
    itself = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:COMMON_NAME_CHARACTERS_MAX])])
    # No key usage: OpenSSL before 3.0 takes a certificate for self-signed only where it may sign certificates, and
    # rustls takes none for a server's that may.
    certificate = (
        x509.CertificateBuilder(issuer_name=itself, subject_name=itself, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return SelfSigned(certificate.public_bytes(Encoding.PEM), key_pem, until)


def a_name(name: str) -> x509.GeneralName:
    """A host's name, `*.` before it or not, or an IP address. Raises ValueError."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    is_number = name.rpartition(".")[2].isdigit()  # 10.0.0.300 is a slip
    if is_number or len(name) > HOST_CHARACTERS_MAX or not HOST.fullmatch(name):
        raise ValueError(f"{name!r}: expected a host's name, in ASCII (xn--… for others), or an IP address")
    return x509.DNSName(name.lower())


def validity(pem: bytes) -> tuple[datetime, datetime]:
    """From when until when the first certificate is good. Raises ValueError where there is none."""
    first = x509.load_pem_x509_certificates(pem)[0]
    return first.not_valid_before_utc, first.not_valid_after_utc
