"""Keys and certificates: the one door of `cryptography`, which is imported when the first key is needed."""

import base64
import binascii
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

KEYS_MAX = 1024  # remembered: a source has a few, and reading one costs more than the verification
CERTIFICATE_BYTES_MAX = 64 * 1024
STANDARD_PUBLIC, STANDARD_PRIVATE = "whpk_", "whsk_"  # how Standard Webhooks marks its keys


@lru_cache(KEYS_MAX)
def public_key(text: str) -> Any:
    """A public key: PEM, base64 of DER, or an Ed25519 key's 32 bytes as hex or base64. Raises ValueError."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key  # noqa: PLC0415

    text = text.strip().removeprefix(STANDARD_PUBLIC)
    try:
        if text.startswith("-----"):
            return load_pem_public_key(text.encode())
        raw = raw_key(text)
        return Ed25519PublicKey.from_public_bytes(raw) if len(raw) == 32 else load_der_public_key(raw)
    except UnsupportedAlgorithm:
        raise ValueError("a key of a kind that is not supported") from None


def raw_key(text: str) -> bytes:
    """Hex, or base64 with or without its padding. Raises ValueError."""
    if len(text) == 64:
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    return padded_base64(text)


def padded_base64(text: str) -> bytes:
    """Base64 with or without its padding. Raises ValueError."""
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def is_ed25519(key: Any) -> bool:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    return isinstance(key, Ed25519PublicKey)


def algorithm_of(key: Any) -> str | None:
    """The name that HTTP message signatures give to what this key verifies; None for a key of another kind."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurvePublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415

    if is_ed25519(key):
        return "ed25519"
    if isinstance(key, RSAPublicKey):
        return "rsa-pss-sha512"
    if isinstance(key, EllipticCurvePublicKey):
        curves = {SECP256R1.name: "ecdsa-p256-sha256", SECP384R1.name: "ecdsa-p384-sha384"}
        return curves.get(key.curve.name)
    return None


def ed25519_fits(key: Any, signature: bytes, message: bytes) -> bool:
    return is_ed25519(key) and _passes(lambda: key.verify(signature, message))


def ecdsa_fits(key: Any, signature: bytes, message: bytes) -> bool:
    """ECDSA over P-256 and SHA-256; the signature is DER."""
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        return False
    return _passes(lambda: key.verify(signature, message, ECDSA(SHA256())))


def message_signature_fits(key: Any, algorithm: str, signature: bytes, message: bytes) -> bool:
    """A signature in the form that RFC 9421, section 3.3, gives to the algorithm."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature  # noqa: PLC0415

    if algorithm == "ed25519":
        return ed25519_fits(key, signature, message)
    if algorithm == "rsa-pss-sha512":
        padding = PSS(MGF1(hashes.SHA512()), 64)
        return _passes(lambda: key.verify(signature, message, padding, hashes.SHA512()))
    if algorithm == "rsa-v1_5-sha256":
        return _passes(lambda: key.verify(signature, message, PKCS1v15(), hashes.SHA256()))
    size, digest = (32, hashes.SHA256()) if algorithm == "ecdsa-p256-sha256" else (48, hashes.SHA384())
    if len(signature) != 2 * size:
        return False
    r, s = int.from_bytes(signature[:size]), int.from_bytes(signature[size:])
    return _passes(lambda: key.verify(encode_dss_signature(r, s), message, ECDSA(digest)))


@lru_cache(KEYS_MAX)
def certificate_key(pem: bytes) -> tuple[Any, float, float]:
    """The certificate's key, and from when to when it is valid, in seconds since 1970. Raises ValueError."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.x509 import load_pem_x509_certificate  # noqa: PLC0415

    if len(pem) > CERTIFICATE_BYTES_MAX:
        raise ValueError("too long for a certificate")
    try:
        certificate = load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except UnsupportedAlgorithm:
        raise ValueError("a certificate of a kind that is not supported") from None
    return key, certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def rsa_fits(key: Any, signature: bytes, message: bytes, algorithm: str) -> bool:
    """RSA, PKCS #1 v1.5, over SHA-1 or SHA-256."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey  # noqa: PLC0415

    if not isinstance(key, RSAPublicKey):
        return False
    digest = hashes.SHA256() if algorithm == "sha256" else hashes.SHA1()  # noqa: S303 - SNS's version 1 is SHA-1
    return _passes(lambda: key.verify(signature, message, PKCS1v15(), digest))


def _passes(verify: Callable[[], None]) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    try:
        verify()
    except InvalidSignature:
        return False
    return True


# What follows makes keys and signs with them: samples and tests are its only use.


def private_key(text: str) -> "PrivateKeyTypes":
    """A private key: PEM, or an Ed25519 seed in hex or base64. Raises ValueError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    text = text.strip().removeprefix(STANDARD_PRIVATE)
    if text.startswith("-----"):
        return load_pem_private_key(text.encode(), None)
    return Ed25519PrivateKey.from_private_bytes(raw_key(text)[:32])


def signed(text: str, message: bytes, algorithm: str = "") -> bytes:
    """The signature that the `…_fits` functions accept from this private key."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415

    key = private_key(text)
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, EllipticCurvePrivateKey):
        return key.sign(message, ECDSA(hashes.SHA256()))
    if isinstance(key, RSAPrivateKey):
        digest = hashes.SHA1() if algorithm == "sha1" else hashes.SHA256()  # noqa: S303 - as above
        return key.sign(message, PKCS1v15(), digest)
    raise ValueError("a key of a kind that signs no sample")


def public_text(text: str) -> str:
    """The public half of a private key: an Ed25519 key as hex, any other as base64 of its DER."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    key = private_key(text).public_key()
    if isinstance(key, Ed25519PublicKey):
        return binascii.hexlify(key.public_bytes_raw()).decode()
    return base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


@lru_cache(2)
def sample_p256(number: int = 0x5EC4E7) -> str:
    """A key that everybody knows: for samples alone."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key  # noqa: PLC0415

    return _pem(derive_private_key(number, SECP256R1()))


@lru_cache(2)
def sample_rsa(number: int = 0) -> str:
    """A new RSA key for each number; the same one until the process ends."""
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key  # noqa: PLC0415

    return _pem(generate_private_key(65537, 2048))


@lru_cache(64)
def self_signed(text: str, day: int) -> bytes:
    """A certificate of the private key, valid for a week around that day since 1970."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    key: Any = private_key(text)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sample.invalid")])
    begins = datetime.fromtimestamp(day * 86400, UTC) - timedelta(days=3)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(begins).not_valid_after(begins + timedelta(days=7))
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def _pem(key: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()
