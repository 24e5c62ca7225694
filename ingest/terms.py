"""On what terms a source's requests are taken: methods, limits, answer. Pure; made once for each change."""

from dataclasses import dataclass, replace

from protocol.providers import PROVIDERS, UNNAMED
from protocol.providers.provider import Provider, Success
from protocol.source import METHODS, Source

RECEIPT_STATUSES = (200, 201, 202)  # with these the row's id is told, where the source has no body of its own


@dataclass(frozen=True, slots=True)
class Terms:
    """`heard`: methods of requests that are read; those not in `methods` too are taken for handshakes alone.

    `ruled`: those that are taken only where somebody replies to them. `event_type`, `delivery_id`: the headers that
    bear the sender's names. `answer` None: the plain receipt. `source`: only where requests are looked into. `fault`:
    why nothing of it can be taken.
    """

    body_bytes_max: int
    event_type: str | None = None
    delivery_id: str | None = None
    methods: tuple[str, ...] = ("POST",)
    heard: tuple[str, ...] = ("POST",)
    ruled: tuple[str, ...] = ()
    commit_timeout_seconds: float | None = None
    answer: Success | None = None
    source: Source | None = None
    fault: str | None = None


def unregistered(body_bytes_max: int) -> tuple[dict[str, Terms], Terms]:
    """The terms of those that bear a provider's name, which get its naming and nothing more; and of all others."""

    def terms(provider: Provider) -> Terms:
        return Terms(body_bytes_max, provider.event_type, provider.delivery_id)

    return {name: terms(provider) for name, provider in PROVIDERS.items()}, terms(UNNAMED)


def replied(terms: Terms, methods: tuple[str, ...]) -> Terms:
    """The terms of a source that nobody registered, and whose rules take these methods beside."""
    ruled = tuple(each for each in methods if each not in terms.methods)
    return replace(terms, methods=(*terms.methods, *ruled), heard=(*terms.heard, *ruled), ruled=ruled)


def registered(source: Source, body_bytes_max: int) -> Terms:
    """The source's own terms; of the receiver's limits none is exceeded."""
    greets = source.provider.handshake is not None
    looked_into = greets or source.mode == "edge"
    return Terms(
        min(source.body_bytes_max or body_bytes_max, body_bytes_max),
        source.provider.event_type,
        source.provider.delivery_id,
        source.methods,
        METHODS if greets else source.methods,
        commit_timeout_seconds=source.commit_timeout_seconds,
        answer=_answer(source),
        source=source if looked_into else None,
        fault=source.fault if looked_into else None,
    )


def _answer(source: Source) -> Success | None:
    return None if source.answer == Success() and "HEAD" not in source.methods else source.answer
