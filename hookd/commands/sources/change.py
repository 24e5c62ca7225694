"""hookd sources add, edit, rotate, remove: one source."""

import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from hookd import asking, show
from hookd.commands.sources.given import (
    SECRETS,
    SOURCE,
    a_new_draft,
    edited,
    fresh_of,
    noted,
    taking,
)
from hookd.commands.sources.session import Session, WrongSource, limits_of, one_of, session
from hookd.configuration import Configuration, configure
from hookd.options import Duration, Text, in_units
from hookd.registry.plan import OVERLAP, Fresh, Known, Step
from protocol.providers import PROVIDERS
from protocol.source import SECRET, WINDOW_SECONDS, Draft


@click.command(
    short_help="Register a source.",
    epilog="""\b
Examples:
  hookd sources add github --provider github              asks for the secret
  hookd sources add stripe --provider stripe --secret-env STRIPE_SECRET --mode edge
  pass show slack | hookd sources add slack --provider slack --secret-file -
  hookd sources add meta --provider meta --secret-file app.secret --option-file verify_token=meta.token
  hookd sources add ours --provider hmac --secret-file s --option header=X-Sig --option encoding=base64
  hookd sources add lamps --provider none

\b
Modes:
  deferred   stored and answered; the processor judges, unverified events fail (the default)
  edge       judged before the answer: 401; what is refused is kept for a while as a failed event
  monitor    judged, and the verdict recorded; nothing is refused
  off        not judged (the default where a provider proves nothing)
Duplicates are looked for among verified events (verified), all, or none.
Of several secrets the first is the current one; each is good.
A line's end at the end of a file is not part of the secret.
""",
)
@click.argument("name", type=Text())
@taking((*SOURCE, *SECRETS))
def add(
    name: str,
    secret_files: tuple[Path, ...],
    secret_variables: tuple[str, ...],
    option_files: tuple[tuple[str, Path], ...],
    **given: Any,
) -> None:
    """Register a source: NAME is the first segment of its path. From then on it is known, and judged."""
    if given["provider"] is None:
        raise click.UsageError("--provider is missing: who sends? See: hookd sources providers")
    fresh, faults = fresh_of(secret_files, secret_variables, option_files)
    configuration = configure()
    limits = limits_of(configuration)
    draft = a_new_draft(name, given["provider"], min(WINDOW_SECONDS, limits.window_seconds), given)
    asked = to_ask(draft, fresh)
    as_if = with_asked(fresh, dict.fromkeys(asked, b"*"))
    faults += Step(name, None, draft, as_if).faults(limits) or Step(name, None, draft, fresh).faults_of_keys()
    if asked and not asking.can_ask():
        faults += [f"a secret is needed, {what}: {HOW[bool(option)]}" for option, what in asked.items()]
    if faults:
        raise WrongSource("\n".join(faults))
    with session() as open_session:
        refuse_known(open_session.read(), name)
        fresh = noted(with_asked(fresh, {option: asking.secret_asked(what) for option, what in asked.items()}))
        is_first = False

        def plan(known: Known) -> list[Step]:
            nonlocal is_first
            refuse_known(known, name)
            is_first = all(each.is_probe for each in known.values())
            return [Step(name, None, draft, fresh)]

        open_session.change(plan)
    click.echo(f"registered {name}: {PROVIDERS[draft.provider].title}, mode {draft.mode}")
    say_setup(draft, configuration)
    if is_first and configuration.ingest.unknown_sources == "auto":
        click.echo(
            "it is the first one: from now on every source that is not registered is answered 404 "
            "(HOOKD_UNKNOWN_SOURCES=auto)"
        )


HOW = {False: "--secret-file, --secret-env, or a terminal to ask at", True: "--option-file, or a terminal to ask at"}


def to_ask(draft: Draft, fresh: Fresh) -> dict[str, str]:
    """What was not given and is needed: the option's name ("" for the secret), and what it is."""
    provider = PROVIDERS.get(draft.provider)
    if provider is None:
        return {}
    needs_secret = bool(provider.credential) and draft.mode != "off" and not (fresh.secrets or SECRET in fresh.unread)
    asked = {"": provider.credential} if needs_secret else {}
    given = {*draft.options, *fresh.options, *fresh.unread}
    return asked | {
        each.name: each.says for each in provider.options if each.is_secret and each.needed and each.name not in given
    }


def with_asked(fresh: Fresh, typed: Mapping[str, bytes]) -> Fresh:
    options = {name: value for name, value in typed.items() if name}
    return Fresh((*((typed[""],) if "" in typed else ()), *fresh.secrets), {**fresh.options, **options}, fresh.unread)


def refuse_known(known: Known, name: str) -> None:
    if name in known:
        raise click.ClickException(
            f"{name} is registered already: hookd sources edit {name}, or rotate for a new secret"
        )


def say_setup(draft: Draft, configuration: Configuration) -> None:
    """What to enter at the provider."""
    provider = PROVIDERS[draft.provider]
    click.echo(f"its URL: https://YOUR-HOST{configuration.ingest.prefix}/{draft.name}")
    if provider.setup:
        click.echo(f"at {provider.title}: {provider.setup}")


@click.command(
    short_help="Change what is said of a source.",
    epilog="""\b
Examples:
  hookd sources edit github --mode edge
  hookd sources edit ours --option timestamp_header=X-Time --option separator=
  hookd sources edit slack --answer-status default --window 1d
  hookd sources edit lamps --provider github --secret-file github.secret

\b
The word default, as a value of --answer-status, --body-bytes-max and --commit-timeout, takes back what was said.
--method and --answer-header take the place of all that there were. Secrets stay, unless there is a new one: that
takes their place as with hookd sources rotate. Where the mode was the usual one of the former provider, it is that of
the new one: what was off because nothing could be judged is judged now.
""",
)
@click.argument("name", type=Text())
@taking((*SOURCE, *SECRETS))
def edit(
    name: str,
    secret_files: tuple[Path, ...],
    secret_variables: tuple[str, ...],
    option_files: tuple[tuple[str, Path], ...],
    **given: Any,
) -> None:
    """Change what is said of a source; what is not given stays as it is."""
    places = (secret_files, secret_variables, option_files)
    if not any(places) and not any(value not in (None, ()) for value in given.values()):
        raise click.UsageError("nothing to change: hookd sources edit --help")
    fresh, faults = fresh_of(*places)
    if faults:
        raise WrongSource("\n".join(faults))
    with session() as open_session:
        former = open_session.one(name)
        asked = {} if former.good or not asking.can_ask() else to_ask(edited(former.draft, given), fresh)
        fresh = noted(with_asked(fresh, {option: asking.secret_asked(what) for option, what in asked.items()}))

        def plan(known: Known) -> list[Step]:
            former = one_of(known, name)
            return [Step(name, former, edited(former.draft, given), fresh)]

        say_done(open_session.change(plan), name)


@click.command(
    short_help="Give a source a new secret.",
    epilog="""\b
Examples:
  hookd sources rotate github                               asks for the new secret
  hookd sources rotate github --secret-file new.secret --overlap 2h
  hookd sources rotate github --secret-file new.secret --overlap 0s    the old one leaked

\b
The new secret is current at once. The old ones are good for what is received until the overlap ends, and what was
received before then stays judged by them.
""",
)
@click.argument("name", type=Text())
@taking(SECRETS)
@click.option("--overlap", type=Duration(), default=OVERLAP, help="How long the old ones stay good.  [default: 24h]")
def rotate(name: str, secret_files: tuple[Path, ...], secret_variables: tuple[str, ...], overlap: timedelta) -> None:
    """Give a source a new secret; the old ones end after an overlap."""
    fresh, faults = fresh_of(secret_files, secret_variables)
    if not fresh and not faults and not asking.can_ask():
        faults.append(f"a secret is needed: {HOW[False]}")
    if faults:
        raise WrongSource("\n".join(faults))
    with session() as open_session:
        credential = credential_of(open_session.one(name).draft)
        fresh = noted(fresh or Fresh((asking.secret_asked(credential),)))

        def plan(known: Known) -> list[Step]:
            former = one_of(known, name)
            return [Step(name, former, former.draft, fresh, overlap)]

        done = open_session.change(plan)
    if not done:
        raise click.ClickException(f"that is the secret of {name} already: nothing was changed")
    ending = len(done[0].ending())
    former = f"; {the(ending)} {'ends' if ending == 1 else 'end'} {in_time(overlap)}" if ending else ""
    click.echo(f"{name} has a new secret{former}")


def credential_of(draft: Draft) -> str:
    provider = PROVIDERS.get(draft.provider)
    return provider.credential if provider and provider.credential else "the new secret"


def the(count: int) -> str:
    return "the former one" if count == 1 else f"the {count} former ones"


def in_time(length: timedelta) -> str:
    return f"in {in_units(length)}" if length else "now"


@click.command(
    short_help="Forget a source and its secrets.",
    epilog="""\b
Examples:
  hookd sources remove github
  hookd sources remove github --yes
""",
)
@click.argument("name", type=Text())
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:
    """Forget a source and its secrets. Its events stay; those still new are handled as nobody's: not judged."""
    with session() as open_session:
        open_session.one(name)
        consequences = said_of_removal(open_session, name)
        if not yes:
            confirm(f"{consequences}\nremove {name} and its secrets?")

        def plan(known: Known) -> list[Step]:
            return [Step(name, one_of(known, name), None)]

        open_session.change(plan)
        is_last = all(each.is_probe for each in open_session.read().values())
    click.echo(f"removed {name}" + ("" if not yes else f"; {consequences}"))
    if is_last and open_session.configuration.ingest.unknown_sources == "auto":
        click.echo("no source is registered now: receivers store every name again (HOOKD_UNKNOWN_SOURCES=auto)")


def said_of_removal(open_session: Session, name: str) -> str:
    waiting = open_session.count_new(name)
    judged = "; its events that are still new will be handled without being judged" if waiting else ""
    return f"its events stay in the table{judged}"


def confirm(question: str) -> None:
    """On a terminal; elsewhere nobody could answer."""
    if not sys.stdin.isatty():
        raise click.UsageError("not asked, for this is no terminal: give --yes")
    click.confirm(question, abort=True, err=True)


def say_done(steps: list[Step], name: str) -> None:
    if not steps:
        click.echo(f"{name} is so already: nothing was changed")
    for step in steps:
        click.echo(f"changed {step.name}")
        for line in lines_of(step):
            click.echo(line)


def lines_of(step: Step) -> list[str]:
    """Each field: what was, what is."""
    return [
        f"  {name}: {show.cell(was) or '(none)'} → {show.cell(will) or '(none)'}" for name, was, will in step.fields()
    ]
