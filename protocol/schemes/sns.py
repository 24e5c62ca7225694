"""Amazon SNS: an RSA signature in the body, by a certificate that the body names; and where that may come from."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import urlsplit

from protocol import content, keys
from protocol.naming import json_of
from protocol.request import Request
from protocol.signature import no_secret, same, unfit
from protocol.verdict import Case, UnverifiedError

# AWS's own rule (aws/aws-js-sns-message-validator, index.js).
HOST = re.compile(r"sns\.[a-zA-Z0-9-]{3,}\.amazonaws\.com(\.cn)?")
CERTIFICATE = re.compile(r"https://[a-z0-9.-]+/[A-Za-z0-9_-]+\.pem")
URL_CHARACTERS_MAX = 2048
URL_SAFE = re.compile(r"[!-~]+")
SIGNED = ("Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
OPTIONAL = frozenset({"Subject", "SubscribeURL", "Token"})
CONFIRMATIONS = ("SubscriptionConfirmation", "UnsubscribeConfirmation")
HASHES = {"1": "sha1", "2": "sha256"}


@dataclass(frozen=True, slots=True)
class Sns:
    """The secrets are the ARNs of the topics: anybody's topic bears a good signature, only yours bears its name."""

    tolerance_seconds: ClassVar[int | None] = None

    def check(self, case: Case) -> int:
        message = message_of(case.request)
        if not case.secrets:
            raise no_secret()
        topic = message["TopicArn"].encode("utf-8", "surrogatepass")
        number = next((number for number, arn in enumerate(case.secrets) if same(arn, topic)), None)
        if number is None:
            raise UnverifiedError("topic", "the message is of another topic than the source's")
        if certificate_url(case.request) is None:
            raise UnverifiedError("certificate", "SigningCertURL is not one of Amazon's")
        self.check_signature(case, message)
        if "tolerance_seconds" in case.options:
            case.judge_moment(moment(message["Timestamp"]), None)
        return number

    def check_signature(self, case: Case, message: Mapping[str, str]) -> None:
        if case.certificate is None:
            raise UnverifiedError("certificate", "no certificate was handed in")
        key, begins, ends = certificate_of(case.certificate)
        if not begins <= case.received_at <= ends:
            raise UnverifiedError("certificate", "the certificate was not valid when this was received")
        if message.get("SignatureVersion") not in HASHES:
            raise UnverifiedError("format", "SignatureVersion is neither 1 nor 2")
        try:
            signature = base64.b64decode(message.get("Signature", ""), validate=True)
        except ValueError:
            raise UnverifiedError("format", "Signature is not base64") from None
        if not keys.rsa_fits(key, signature, canonical(message), HASHES[message["SignatureVersion"]]):
            raise unfit("Signature", case)

    def sign(self, request: Request, key: str, at: float, options: Mapping[str, str]) -> Request:
        document = content.parse_json(request.body)
        document["Timestamp"] = (
            datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
        signature = keys.signed(key, canonical(document), HASHES[document["SignatureVersion"]])
        document["Signature"] = base64.b64encode(signature).decode()
        return replace(request, body=content.to_json(document))

    def headers(self) -> tuple[str, ...]:
        return ()


def message_of(request: Request) -> dict[str, str]:
    """The message's fields. Raises UnverifiedError where one that is signed is missing or no text."""
    document = content.parse_json(request.body)
    if not isinstance(document, dict):
        raise UnverifiedError("format", "the body is no SNS message")
    needed = set(SIGNED) - OPTIONAL
    if document.get("Type") in CONFIRMATIONS:
        needed |= {"SubscribeURL", "Token"}
    missing = sorted(name for name in needed if not isinstance(document.get(name), str))
    if missing:
        raise UnverifiedError("format", f"the body has no {missing[0]}")
    return {name: value for name, value in document.items() if isinstance(value, str)}


def canonical(message: Mapping[str, Any]) -> bytes:
    """The text that is signed: the names in their order, each with its value, each on a line of its own."""
    confirming = message.get("Type") in CONFIRMATIONS
    names = [name for name in SIGNED if name != "Subject"] if confirming else list(SIGNED)
    if not confirming:
        names = [name for name in names if name not in ("SubscribeURL", "Token")]
    text = "".join(f"{name}\n{message[name]}\n" for name in names if name in message)
    return text.encode("utf-8", "surrogatepass")


def certificate_of(pem: bytes) -> tuple[Any, float, float]:
    """Raises UnverifiedError."""
    try:
        return keys.certificate_key(pem)
    except ValueError:
        raise UnverifiedError("certificate", "what was handed in is no certificate") from None


def moment(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time in UTC. Raises ValueError."""
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("a time without its zone")
    return when.timestamp()


def certificate_url(request: Request) -> str | None:
    """The certificate's URL, where it may be fetched from: https, a host of Amazon's SNS, a .pem file; else None.

    In one writing alone: with a query, a dot in its path or other letters in its host one certificate would be fetched
    by any number of names.
    """
    url = _amazons(request, "SigningCertURL")
    return url if url is not None and CERTIFICATE.fullmatch(url) else None


def subscribe_url(request: Request) -> str | None:
    """The URL whose fetching confirms the subscription, if it is SNS's own; else None."""
    return _amazons(request, "SubscribeURL")


def _amazons(request: Request, name: str) -> str | None:
    document = json_of(request)
    url = document.get(name) if isinstance(document, dict) else None
    if not isinstance(url, str) or len(url) > URL_CHARACTERS_MAX or not URL_SAFE.fullmatch(url) or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    # The whole of netloc: neither a user before the host nor a port behind it.
    if parts.scheme != "https" or not HOST.fullmatch(parts.netloc):
        return None
    return url
