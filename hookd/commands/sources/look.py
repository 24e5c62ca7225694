"""hookd sources list, show, providers: looking, without a secret."""

from collections.abc import Iterator
from typing import Any

import click

from hookd import show as printing
from hookd.commands.sources.session import session
from hookd.options import Text
from hookd.registry.file import table_of
from hookd.registry.plan import Kept, Registered, words_of
from hookd.show import Table, as_json, iso
from protocol.providers import PROVIDERS
from protocol.providers.provider import Provider
from protocol.source import deadline_seconds


@click.command(
    "list",
    short_help="The registered sources.",
    epilog="""\b
Examples:
  hookd sources list
  hookd sources list --json | jq -r 'select(.mode == "off").name'
""",
)
@click.option("--json", "is_json", is_flag=True, help="One JSON object a source.")
def list_(is_json: bool) -> None:
    """The registered sources."""
    with session() as open_session:
        known = open_session.read()
    if is_json:
        for each in known.values():
            as_json(in_json(each))
    elif known:
        printing.out(table(known.values()))
    else:
        click.echo("no source is registered yet: hookd sources add --help", err=True)


def table(sources: Any) -> Table:
    rows = [
        (
            each.draft.name,
            each.draft.provider,
            f"{each.draft.mode}{', probe' if each.is_probe else ''}",
            str(len(each.good)),
            ", ".join(iso(secret.expires_at) for secret in each.good if secret.expires_at),
            each.draft.duplicates,
            iso(each.changed_at),
        )
        for each in sources
    ]
    headings = ("name", "provider", "mode", "secrets", "ending", "duplicates", "changed")
    return Table(headings, rows, right=("secrets",), whole=("name",))


@click.command(
    short_help="All that is known of a source but its secrets.",
    epilog="""\b
Examples:
  hookd sources show github
  hookd sources show github --json | jq .secrets
""",
)
@click.argument("name", type=Text())
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def show(name: str, is_json: bool) -> None:
    """All that is known of a source; of its secrets only how many, since when and until when."""
    with session() as open_session:
        source, prefix = open_session.one(name), open_session.configuration.ingest.prefix
    if is_json:
        as_json(in_json(source))
        return
    rows = [("name", name), ("path", f"{prefix}/{name}"), *words_of(source.draft).items(), *implied(source)]
    rows += [("secret", said(each)) for each in source.good]
    rows += [(f"options.{each}", "(sealed)") for each in source.secret_options]
    rows += [("added", iso(source.added_at)), ("changed", iso(source.changed_at))]
    printing.out(Table(("", ""), rows, whole=("",)))


def implied(source: Registered) -> Iterator[tuple[str, str]]:
    """What the provider says where the source does not."""
    provider = PROVIDERS.get(source.draft.provider)
    if provider is None:
        yield "fault", "this hookd does not know the provider: nothing of it is verified"
        return
    deadline = deadline_seconds(provider)
    if source.draft.commit_timeout_seconds is None and deadline is not None:
        yield "commit_timeout_seconds", f"{deadline:g} (the provider waits {provider.patience_seconds:g} s)"
    if provider.setup:
        yield "to enter there", provider.setup
    if source.is_probe:
        yield "probe", "made by hookd doctor: no handler runs"


def said(secret: Kept) -> str:
    return f"since {iso(secret.added_at)}" + (f", until {iso(secret.expires_at)}" if secret.expires_at else "")


def in_json(source: Registered) -> dict[str, Any]:
    return {
        "name": source.draft.name,
        **table_of(source.draft),
        "window_seconds": source.draft.window_seconds,
        "secrets": [
            {"since": iso(each.added_at), "until": iso(each.expires_at) if each.expires_at else None}
            for each in source.good
        ],
        "secret_options": source.secret_options,
        "is_probe": source.is_probe,
        "added_at": iso(source.added_at),
        "changed_at": iso(source.changed_at),
    }


@click.command(
    short_help="The senders hookd knows, and their secrets' names.",
    epilog="""\b
Examples:
  hookd sources providers
  hookd sources providers --json | jq -r .provider
""",
)
@click.option("--json", "is_json", is_flag=True, help="One JSON object a provider.")
def providers(is_json: bool) -> None:
    """The senders hookd knows, and what the secret of each is; docs/providers.md says the rest."""
    if is_json:
        for name, provider in PROVIDERS.items():
            as_json(provider_in_json(name, provider))
        return
    rows = [
        (
            name,
            each.title,
            each.credential or "none",
            ", ".join(option.name for option in each.options if option.needed),
        )
        for name, each in PROVIDERS.items()
    ]
    headings = ("provider", "sender", "secret", "needed besides")
    printing.out(Table(headings, rows, whole=("provider", "sender"), wrapped=("secret",)))


def provider_in_json(name: str, provider: Provider) -> dict[str, Any]:
    return {
        "provider": name,
        "title": provider.title,
        "secret": provider.credential or None,
        "options": [each._asdict() for each in provider.options],
        "handshake": provider.handshake is not None,
        "patience_seconds": provider.patience_seconds,
        "setup": provider.setup,
    }
