"""hookd doctor: is all well? Every provider is tried against the receiver and the processor that run."""

import asyncio
import ssl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from chassis.database import Database, Unavailable, open_database
from chassis.vault import Vault, VaultError, open_vault
from hookd import show
from hookd.client import Client, Place, Unreachable
from hookd.commands.send import place_from, trust_from
from hookd.configuration import configure
from hookd.doctor.environment import Check, examine
from hookd.doctor.store import Store
from hookd.doctor.visit import Finding, Tell, Unknown, visit
from hookd.options import ca_option
from protocol.providers import PROVIDERS

NEEDED = ("database", "secret key", "receiver", "processor")  # without any of them there is nothing to try

EPILOG = """\b
Examples:
  hookd doctor
  hookd doctor --provider github --provider stripe
  hookd doctor --to https://hooks.example.com --json | jq .ok
"""


@click.command(epilog=EPILOG)
@click.option("--to", metavar="URL", help="The receiver; default: HOOKD_HOST, HOOKD_PORT and HOOKD_PREFIX.")
@ca_option
@click.option(
    "--provider", "chosen", multiple=True, type=click.Choice(sorted(PROVIDERS)), metavar="NAME", help="Only this one's."
)
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
@click.option("--keep", is_flag=True, help="Leave the probes and their events to be looked at, until the next doctor.")
def command(to: str | None, ca: Path | None, chosen: tuple[str, ...], is_json: bool, keep: bool) -> int:
    """Look at database, clocks, keys, receiver and processor; then register a probe for every provider, send it good,
    copied, forged and old deliveries and its handshake, and see what becomes of them.

    No handler of yours is run. At the end the probes are removed, with their events. Exit code 0 when all is well.
    """
    configuration = configure(log_level="error")
    place = place_from(to, configuration)
    trusted = trust_from(ca, place, configuration)
    names = list(chosen) if chosen else list(PROVIDERS)
    vault = open_vault(configuration.common)
    checks: list[Check] = []
    found: list[Finding] = []
    trouble = ""
    try:
        with open_database(configuration.common) as database, progress() as tell:
            asyncio.run(see(database, place, trusted, vault, names, checks, found, keep=keep, tell=tell))
    except Unavailable as error:
        checks = checks or [Check("database", False, str(error))]
        trouble = str(error)
    except (Unknown, Unreachable, VaultError) as error:
        trouble = str(error)
    report(checks, found, trouble, is_json=is_json)
    return 0 if is_well(checks, found, trouble) else 1


async def see(
    database: Database,
    place: Place,
    trusted: ssl.SSLContext | None,
    vault: Vault,
    names: Sequence[str],
    checks: list[Check],
    found: list[Finding],
    *,
    keep: bool,
    tell: Tell,
) -> None:
    """Fill in what is seen, as it is seen: what comes before a failure is told too."""
    store = Store(database)
    async with Client(place, trusted) as client:
        try:
            checks += await examine(store, client, vault)
            if all(check.ok for check in checks if check.name in NEEDED):
                found += await visit(store, client, vault, names, keep=keep, tell=tell)
        finally:
            await store.close()


def is_well(checks: Sequence[Check], found: Sequence[Finding], trouble: str) -> bool:
    return not trouble and bool(found) and all(check.ok for check in checks) and all(each.ok for each in found)


@contextmanager
def progress() -> Iterator[Tell]:
    """One line that changes, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - not paid for by those who see none

    with Console(stderr=True).status("looking around") as status:
        yield status.update


def report(checks: Sequence[Check], found: Sequence[Finding], trouble: str, *, is_json: bool) -> None:
    if is_json:
        show.as_json(
            {
                "ok": is_well(checks, found, trouble),
                "checks": [check._asdict() for check in checks],
                "providers": [{**vars(each), "ok": each.ok} for each in found],
                "error": trouble or None,
            }
        )
        return
    show.out(show.Table(("looked at", "is", "how"), [(c.name, mark(c.ok), c.says) for c in checks], wrapped=("how",)))
    if found:
        rows = [(each.provider, mark(each.ok), how(each)) for each in found]
        show.out("", show.Table(("provider", "is", "how"), rows, wrapped=("how",)))
    if trouble and not any(trouble == check.says for check in checks):
        click.echo(f"Error: {show.escaped(trouble)}", err=True)
    elif not found:
        click.echo("no provider was tried: mend the above first", err=True)


def mark(ok: bool) -> str:
    return "ok" if ok else "WRONG"


def how(each: Finding) -> str:
    """What is wrong, or what was tried."""
    words = [*each.faults] or [", ".join(each.tried)]
    return "; ".join([*words, f"not tried: {each.not_tried}"] if each.not_tried else words)
