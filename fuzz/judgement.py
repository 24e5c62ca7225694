"""Everything that a sender's bytes meet once a source has a provider: one entrance for all providers."""

from collections.abc import Sequence

from protocol import challenge
from protocol.hints import hints
from protocol.providers import PROVIDERS
from protocol.request import Request
from protocol.signature import judge

NAMES = sorted(PROVIDERS)


def judge_anything(
    provider: int, target: str, values: Sequence[str], body: bytes, secret: bytes, received_at: int
) -> None:
    """Judge a delivery, greet its sender, name it and look for mistakes: whatever the bytes are, nothing is raised.

    `values` stand in the headers that the provider looks at, in their order.
    """
    sender = PROVIDERS[NAMES[provider % len(NAMES)]]
    looked_at = [name for name in (*sender.scheme.headers(), sender.event_type, sender.delivery_id) if name]
    request = Request("POST", "/" + target, list(zip(looked_at, values, strict=False)), body)
    options = dict(sender.sample.options) if sender.sample else {}
    judge(sender, request, [secret], received_at, options=options)
    challenge.answer(sender, request, [secret], received_at, options=options)
    sender.event_type_of(request)
    sender.delivery_id_of(request)
    hints(sender, request, [secret], received_at, options=options)
