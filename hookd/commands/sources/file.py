"""hookd sources export, apply, rekey: all sources at once."""

import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import click

from chassis.vault import VaultError
from hookd.commands.sources.change import confirm, lines_of
from hookd.commands.sources.given import fresh_of, noted
from hookd.commands.sources.session import check, limits_of, session
from hookd.configuration import configure
from hookd.options import Duration
from hookd.registry.file import Entry, as_toml, parse
from hookd.registry.plan import OVERLAP, Faults, Fresh, Known, Limits, Step, faults_at_best
from hookd.registry.store import Resealed
from hookd.show import as_json
from protocol.source import WINDOW_SECONDS

FILE_BYTES_MAX = 16 * 1024 * 1024
SIGNS = {"add": "+", "change": "~", "remove": "-", "unchanged": "="}


@click.command(
    short_help="Write every source into a file.",
    epilog="""\b
Examples:
  hookd sources export sources.toml
  hookd sources export | less
""",
)
@click.argument("file", default="-", type=click.Path(path_type=Path, allow_dash=True))
def export(file: Path) -> None:
    """Write every source into a file (TOML) that `apply` reads. No secret is in it, only how many there are."""
    with session() as open_session:
        text = as_toml(each for each in open_session.read().values() if not each.is_probe)
    if str(file) == "-":
        click.echo(text, nl=False)
    else:
        file.write_text(text, encoding="utf-8")


@click.command(
    short_help="Make the registry what a file says.",
    epilog="""\b
Examples:
  hookd sources apply sources.toml --dry-run
  hookd sources apply sources.toml --prune --yes

\b
A source in the file:
  [sources.github]
  provider = "github"
  mode = "deferred"
  secret_file = "github.secret"      only for a new secret; or secret_env = "GITHUB_SECRET"
  option_file.NAME = "file"          for an option that is a secret; or option_env.NAME
What is not said of a source has its default. Secrets that are not named stay; one that is named and is the
source's already is no change.
""",
)
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Say what would be done, change nothing.")
@click.option("--prune", is_flag=True, help="Remove the sources that are not in the file.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--overlap", type=Duration(), default=OVERLAP, help="How long replaced secrets stay good.  [default: 24h]"
)
@click.option("--json", "is_json", is_flag=True, help="The plan as JSON, one object a source.")
def apply(file: BinaryIO, dry_run: bool, prune: bool, yes: bool, overlap: timedelta, is_json: bool) -> None:
    """Make the registry what a file says: shows the plan, then does it in one transaction, all or nothing."""
    with session() as open_session:
        limits = limits_of(open_session.configuration)
        entries, fresh = read_file(file, limits)

        def plan(known: Known) -> list[Step]:
            return steps_of(known, entries, fresh, overlap, prune=prune)

        planned = open_session.settled(plan(open_session.read_sealed()))
        check([step for step in planned if step.action != "unchanged"], limits)
        say(planned, is_json=is_json)
        changes = [step for step in planned if step.action != "unchanged"]
        if dry_run or not changes:
            return
        if not yes and (sys.stdin.isatty() or any(step.action == "remove" for step in changes)):
            confirm("do it?")

        def as_shown(known: Known) -> list[Step]:
            steps = open_session.settled(plan(known))
            if [key(each) for each in steps] != [key(each) for each in planned]:
                raise Faults(["sources were changed meanwhile, by another command: nothing was done; look again"])
            return steps

        open_session.change(as_shown)
    click.echo(f"done: {tally(changes)}", err=is_json)


def read_file(file: BinaryIO, limits: Limits) -> tuple[list[Entry], dict[str, Fresh]]:
    """What stands in it, and the secrets that it names. Raises Faults, with all that need no registry to be seen."""
    try:
        text = file.read(FILE_BYTES_MAX).decode()
    except UnicodeDecodeError:
        raise Faults(["no TOML: it is not UTF-8"]) from None
    entries, faults = parse(text, min(WINDOW_SECONDS, limits.window_seconds))
    folder = Path(file.name).parent if file.name != "<stdin>" else Path()
    fresh = {}
    for entry in entries:
        fresh[entry.draft.name], found = fresh_of(
            [folder / each for each in entry.secret_files],
            entry.secret_variables,
            [(name, folder / each) for name, each in entry.option_files.items()],
            entry.option_variables.items(),
        )
        noted(fresh[entry.draft.name])
        faults += [f"{entry.draft.name}: {each}" for each in found]
    if faults:
        at_best = [(each.draft, faults_at_best(each.draft, fresh[each.draft.name], limits)) for each in entries]
        raise Faults(faults + [f"{draft.name}: {fault}" for draft, found in at_best for fault in found])
    return entries, fresh


def steps_of(
    known: Known, entries: Sequence[Entry], fresh: dict[str, Fresh], overlap: timedelta, *, prune: bool
) -> list[Step]:
    """For each source of the file what it takes; the doctor's own are nobody's to remove."""
    steps = [
        Step(each.draft.name, known.get(each.draft.name), each.draft, fresh[each.draft.name], overlap)
        for each in entries
    ]
    named = {step.name for step in steps}
    gone = [each for name, each in known.items() if name not in named and not each.is_probe] if prune else []
    return steps + [Step(each.draft.name, each, None) for each in gone]


def key(step: Step) -> tuple[Any, ...]:
    return step.name, step.action, step.fields()


def say(steps: Sequence[Step], *, is_json: bool) -> None:
    """The plan."""
    for step in steps:
        if is_json:
            fields = {name: {"old": was, "new": will} for name, was, will in step.fields()}
            as_json({"name": step.name, "action": step.action, "fields": fields})
        elif step.action != "unchanged":
            click.echo(f"{SIGNS[step.action]} {step.action} {step.name}")
            for line in lines_of(step) if step.action == "change" else ():
                click.echo(line)
    if not is_json:
        click.echo(tally(steps))


def tally(steps: Sequence[Step]) -> str:
    counts = {action: sum(step.action == action for step in steps) for action in SIGNS}
    said = {"add": "added", "change": "changed", "remove": "removed", "unchanged": "unchanged"}
    return ", ".join(f"{count} {said[action]}" for action, count in counts.items() if count) or "nothing to do"


@click.command(
    short_help="Seal every secret anew.",
    epilog="""\b
Examples:
  hookd sources rekey
  HOOKD_SECRET_KEY="$NEW,$OLD" hookd sources rekey

\b
With a key file (secret.key in the data folder) a new key is made, and the former ones kept in the file, so that
whatever runs goes on. With HOOKD_SECRET_KEY:
  1. make a key:   python -c 'import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())'
  2. set NEW,OLD for every receiver and processor, and restart them
  3. HOOKD_SECRET_KEY=NEW,OLD hookd sources rekey
  4. set NEW alone
Is the old key lost, nothing it sealed can be had back: --drop-unreadable deletes that, and hookd sources rotate
gives those sources new secrets.
""",
)
@click.option("--drop-unreadable", is_flag=True, help="Delete the secrets whose key is lost.")
@click.option("--yes", is_flag=True, help="Do not ask before something is deleted.")
def rekey(drop_unreadable: bool, yes: bool) -> None:
    """Seal every secret anew, with a new key, in one transaction."""
    configure()
    if drop_unreadable and not yes:
        confirm("delete the secrets that cannot be read with the keys at hand?")
    with session() as open_session:
        vault, lost, count = open_session.vault, dict[str, int](), 0

        def decide(known: Known) -> list[Resealed]:
            nonlocal count
            vault.check()
            kept = [(name, each) for name, source in known.items() for each in source.kept]
            opened = {each.number: open_session.unsealed(each.sealed) for _, each in kept}
            unreadable = [name for name, each in kept if opened[each.number] is None]
            lost.update({name: unreadable.count(name) for name in unreadable})
            if lost and not drop_unreadable:
                raise VaultError(
                    f"secrets of {', '.join(lost)} cannot be read with the key of {vault.origin}: nothing was changed "
                    "(hookd sources rekey --help)"
                )
            if not vault.is_given:
                vault.renew()
            count = len(kept) - len(unreadable)
            return [
                Resealed(name, each.number, vault.seal(secret) if (secret := opened[each.number]) is not None else None)
                for name, each in kept
            ]

        open_session.rewrite(decide)
    click.echo(f"sealed {count} secret{'' if count == 1 else 's'} anew, with the first key of {vault.origin}")
    for name, number in lost.items():
        click.echo(f"{name}: {number} unreadable deleted; give it another: hookd sources rotate {name}")
