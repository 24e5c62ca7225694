"""A delivery as each sender would send it, signed: for trying a source out. All that it says is made up."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypeAlias

from protocol import content, keys
from protocol.providers.provider import Provider, Sample
from protocol.request import Request
from protocol.shaping import sized, typed
from protocol.signature import NO_OPTIONS, judge
from protocol.verdict import Refused, UnverifiedError

OLD_SECONDS = 24 * 3600  # more than any provider tolerates
HOST = "hooks.example.com"
ED25519_SEED = "68" * 32

Fault: TypeAlias = Literal["bad-signature", "old"]


class Credentials(NamedTuple):
    """What a sample is signed with (`key`) and verified with. Everybody knows them: never a source's own."""

    key: str
    secret: str
    certificate: bytes | None = None


def credentials(provider: Provider, at: float) -> Credentials:
    """Credentials for the provider's sample, good at that time."""
    sample = sample_of(provider)
    if sample.key == "secret":
        return Credentials(sample.credential, sample.credential)
    if sample.key == "rsa":
        key = keys.sample_rsa()
        return Credentials(key, sample.credential, keys.self_signed(key, int(at // 86400)))
    key = ED25519_SEED if sample.key == "ed25519" else keys.sample_p256()
    return Credentials(key, keys.public_text(key))


def sample_delivery(
    provider: Provider,
    key: str,
    at: float,
    *,
    delivery: str = "0001",
    fault: Fault | None = None,
    target: str = "/sample",
    host: str = HOST,
    options: Mapping[str, str] = NO_OPTIONS,
    event_type: str | None = None,
    body_bytes: int | None = None,
    happened: float | None = None,
) -> Request:
    """The provider's sample, signed with `key` at `at` (seconds since 1970).

    `delivery` makes it another one each time. `happened`: when what it tells of happened, so that a retry can say the
    same; by default when it is signed. `fault`: "bad-signature" is signed with another key, "old" a day before.
    Raises ValueError where the key is not of the provider's kind, and where no sample has that type or size.
    """
    sample = sample_of(provider)
    signed_at = at - OLD_SECONDS if fault == "old" else at
    signing_key = another(sample, key) if fault == "bad-signature" else key

    def sign(request: Request) -> Request:
        try:
            return provider.scheme.sign(request, signing_key, signed_at, options)
        except UnverifiedError as error:
            raise ValueError(str(error)) from None
        except ValueError:
            raise ValueError("this key is not one that the sender signs with") from None

    request = draft(sample, delivery, signed_at if happened is None else happened, target, host)
    request = typed(provider, request, event_type) if event_type is not None else request
    return sized(request, body_bytes, sign) if body_bytes is not None else sign(request)


def has_time(provider: Provider, at: float) -> bool:
    """Whether its sample of yesterday is refused for that."""
    keys_, options = credentials(provider, at), sample_of(provider).options
    old = sample_delivery(provider, keys_.key, at, fault="old", options=options)
    verdict = judge(provider, old, [keys_.secret], at, options=options, certificate=keys_.certificate)
    return isinstance(verdict, Refused) and verdict.check == "timestamp"


def sample_of(provider: Provider) -> Sample:
    """Raises ValueError where the provider has no sample."""
    if provider.sample is None:
        raise ValueError("this provider has no sample")
    return provider.sample


def draft(sample: Sample, delivery: str, at: float, target: str, host: str) -> Request:
    """The sample before it is signed."""
    iso = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = sample.body if isinstance(sample.body, bytes) else content.to_json(sample.body)
    body = body.replace(b"{delivery}", delivery.encode()).replace(b"{iso}", iso.encode())
    headers = [(name, value.replace("{delivery}", delivery)) for name, value in sample.headers.items()]
    return Request("POST", target, [("Host", host), ("Content-Type", sample.content_type), *headers], body)


def another(sample: Sample, key: str) -> str:
    """A key of the same kind that is not this one."""
    if sample.key == "secret" and key.startswith("whsec_"):
        return "whsec_YW5vdGhlci1zaWduaW5nLXNlY3JldC1vZi0zMi1ieXQ="
    if sample.key == "secret":
        return f"not-{key}"
    if sample.key == "ed25519":
        return "69" * 32
    return keys.sample_p256(0x07EA) if sample.key == "p256" else keys.sample_rsa(1)
