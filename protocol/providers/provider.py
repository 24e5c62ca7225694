"""What is declared of each sender."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from protocol.challenge import Handshake
from protocol.naming import Header, Naming, first_of
from protocol.request import Request
from protocol.schemes.shown import Nothing
from protocol.verdict import Scheme


class Sure(Enum):
    """How sure a fact is."""

    READ = "read in the provider's documentation or code"
    QUOTED = "quoted by somebody else, not seen at the provider"
    MEMORY = "from memory, not checked"
    OURS = "our own choice"


READ, QUOTED, MEMORY, OURS = Sure.READ, Sure.QUOTED, Sure.MEMORY, Sure.OURS

Topic: TypeAlias = Literal["signature", "names", "handshake", "success", "patience", "retries"]


class Fact(NamedTuple):
    """One thing that is known of a sender, and where from."""

    topic: Topic
    says: str
    source: str
    sure: Sure


class Option(NamedTuple):
    """What a source may say beyond its secrets. `needed`: nothing is verified, or no handshake answered, without it.

    `is_secret`: it is kept and shown as secrets are.
    """

    name: str
    says: str
    needed: bool = False
    is_secret: bool = False


class Shape(NamedTuple):
    """What every secret of a provider looks like, in whole; `says` names it, with an example."""

    pattern: re.Pattern[str]
    says: str


ANY_SHAPE = Shape(re.compile(".*", re.DOTALL), "a secret")


class Success(NamedTuple):
    """The answer to a delivery that is stored; `body` None is the receiver's own, with the row's id."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


STORED = Success()


class Sample(NamedTuple):
    """A delivery as the sender would send it, before it is signed. A dict or a list is sent as JSON."""

    body: Mapping[str, Any] | Sequence[Any] | bytes
    headers: Mapping[str, str] = MappingProxyType({})
    credential: str = "a-secret-of-the-sample"
    key: Literal["secret", "ed25519", "p256", "rsa"] = "secret"  # which kind of key signs it
    options: Mapping[str, str] = MappingProxyType({})
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Provider:
    """The headers that bear a sender's names for the event and the delivery, and all else that is known of it.

    `event_types` and `delivery_ids` are the places where these names stand when that header does not bear them, the
    body above all. `credential` says what the source's secret is, and `shape` what it
    looks like: anything, but where only that can ever verify.
    `patience_seconds`: how long the sender waits for the answer; None where it does not say.
    """

    event_type: str | None
    delivery_id: str | None
    title: str = ""
    scheme: Scheme = field(default_factory=Nothing)
    event_types: tuple[Naming, ...] = ()
    delivery_ids: tuple[Naming, ...] = ()
    handshake: Handshake | None = None
    options: tuple[Option, ...] = ()
    check_options: Callable[[Mapping[str, str]], object] | None = None
    success: Success = STORED
    patience_seconds: float | None = None
    setup: str = ""
    credential: str = ""
    shape: Shape = ANY_SHAPE
    duplicates: str = ""
    facts: tuple[Fact, ...] = ()
    sample: Sample | None = None

    def event_type_of(self, request: Request) -> str | None:
        """The sender's name for the event, wherever it stands."""
        header = (Header(self.event_type),) if self.event_type else ()
        return first_of((*header, *self.event_types), request)

    def delivery_id_of(self, request: Request) -> str | None:
        """The sender's name for the delivery, or a key derived where it gives none; the same in a redelivery."""
        header = (Header(self.delivery_id),) if self.delivery_id else ()
        return first_of((*header, *self.delivery_ids), request)

    def takes(self, secret: bytes) -> bool:
        """Whether something could be verified by the secret, for all that its form says."""
        return self.shape.pattern.fullmatch(secret.decode("utf-8", "replace")) is not None

    def faults_of(self, options: Mapping[str, str]) -> list[str]:
        """What is wrong with a source's options; nothing is verified before it is mended."""
        known = {option.name for option in self.options} | {"tolerance_seconds"}
        faults = [f"{name}: there is no such option" for name in sorted(set(options) - known)]
        faults += [
            f"{each.name}: needed: {each.says}" for each in self.options if each.needed and not options.get(each.name)
        ]
        if "url" in options and not is_url(options["url"]):
            faults.append("url: https:// or http://, a host, and a path")
        stated = options.get("tolerance_seconds", "0")
        if not (stated.isascii() and stated.isdecimal() and len(stated) < 10):
            faults.append("tolerance_seconds: a whole number of seconds; 0 for none")
        elif self.check_options is not None:
            try:
                self.check_options(options)
            except ValueError as error:
                faults.append(str(error))
        return faults


def is_url(text: str) -> bool:
    """Whether a sender could call it."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port beyond all, a bracket too few
        return False


TOLERANCE = "tolerance_seconds"
URL = Option("url", "the URL as entered at the provider, where a proxy changes it on the way here")


def told(source: str, sure: Sure, **topics: str) -> tuple[Fact, ...]:
    """Facts from one source, by their topic."""
    return tuple(Fact(topic, says, source, sure) for topic, says in topics.items())  # type: ignore[arg-type]
