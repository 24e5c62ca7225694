"""docs/providers.md, as the declarations have it."""

from collections.abc import Iterator, Mapping

from protocol.providers.provider import Fact, Provider, Sure

MARKS = {Sure.READ: "✓", Sure.QUOTED: "“", Sure.MEMORY: "?", Sure.OURS: "·"}
TOPICS = {
    "signature": "Signature",
    "names": "Names",
    "handshake": "Handshake",
    "success": "Counts as success",
    "patience": "Waits",
    "retries": "Tries again",
}
HEAD = """# Providers

Who sends, how hookd knows that it was them, and what they expect. This page is written by `python -m rig.providers`
from the declarations in `protocol/providers/`: adding a sender is a file there and a line in its table.

Every fact has a mark: {marks}.
The link behind a mark leads to where the fact was read, or to where it can be checked.

The **signature** is made over the body's very bytes; hookd judges those, in constant time, with each of the source's
secrets. A time that is signed is compared with the time of receipt, never with the time of processing; the option
`tolerance_seconds` of a source changes what is tolerated, 0 is for ever.

A **duplicate** is a second delivery with the same id from the same source. Where the sender gives none, a key is
derived from what tells its deliveries apart; where nothing does, each is handled: rather twice than never.
"""


def render(providers: Mapping[str, Provider]) -> str:
    """The whole page."""
    marks = ", ".join(f"{MARKS[sure]} {sure.value}" for sure in Sure)
    lines = [HEAD.format(marks=marks), *overview(providers)]
    for name, provider in providers.items():
        lines += section(name, provider)
    return "\n".join(lines).rstrip() + "\n"


def overview(providers: Mapping[str, Provider]) -> Iterator[str]:
    yield "| `--provider` | sender | waits | handshake | judged time |"
    yield "| --- | --- | --- | --- | --- |"
    for name, each in providers.items():
        waits = f"{each.patience_seconds:g} s" if each.patience_seconds else "not stated"
        times = f"{seconds} s" if (seconds := tolerance_of(each)) else ""
        yield f"| [`{name}`](#{name}) | {each.title} | {waits} | {'yes' if each.handshake else ''} | {times} |"
    yield ""


def tolerance_of(provider: Provider) -> int | None:
    """How old a delivery may be without the source's saying so; None where no time is judged."""
    return provider.scheme.tolerance_seconds


def section(name: str, provider: Provider) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    yield f"{provider.title}."
    yield ""
    if provider.setup:
        yield f"* **To enter there:** {provider.setup}"
    yield f"* **The secret:** {provider.credential or 'none'}"
    for option in provider.options:
        yield f"* **Option `{option.name}`**{' (needed)' if option.needed else ''}: {option.says}"
    for topic, title in TOPICS.items():
        yield from facts_about(title, [fact for fact in provider.facts if fact.topic == topic])
    yield f"* **Named by:** {named(provider)}"
    yield f"* **A duplicate:** {provider.duplicates}"
    yield f"* **Answered with:** {answered(provider)}"
    yield ""


def facts_about(title: str, facts: list[Fact]) -> Iterator[str]:
    for fact in facts:
        source = f"[{MARKS[fact.sure]}]({fact.source})" if "://" in fact.source and " " not in fact.source else ""
        yield f"* **{title}:** {fact.says} {source or f'{MARKS[fact.sure]} ({fact.source})'}"


def named(provider: Provider) -> str:
    """Where event type and delivery id are looked for."""
    event_type = place(provider.event_type, bool(provider.event_types), "event type")
    return f"{event_type}; {place(provider.delivery_id, bool(provider.delivery_ids), 'delivery id')}"


def place(header: str | None, in_body: bool, what: str) -> str:
    if header:
        return f"{what} in the header {header}"
    return f"{what} in the body, by the processor" if in_body else f"no {what}"


def answered(provider: Provider) -> str:
    body = "the row's id" if provider.success.body is None else "nothing"
    return f"{provider.success.status} and {body}"
