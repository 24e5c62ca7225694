"""What `add` and `edit` are given on the command line, and what comes of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from hookd import asking
from hookd.options import Duration, Pair, Text
from hookd.registry.plan import Fresh, faults_of_fresh
from protocol.providers import PROVIDERS
from protocol.providers.provider import Success
from protocol.source import DUPLICATES, MODES, SECRET, Draft

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT = "default"  # takes back what was said


class OrDefault(click.ParamType[Any]):
    """A value of that type, or the word default."""

    def __init__(self, of: click.ParamType[Any]) -> None:
        self._of = of
        self.name = f"{of.name} or default"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return DEFAULT if value == DEFAULT else self._of.convert(value, param, ctx)


class FileOf(Pair):
    """`NAME=FILE`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name, file = super().convert(value, param, ctx)
        return name, Path(file)


SOURCE = (
    click.option("--provider", type=Text(), metavar="P", help="Who sends; see: hookd sources providers."),
    click.option("--mode", type=Text(), metavar="M", help=f"When it is judged: {', '.join(MODES)}."),
    click.option(
        "--option", "options", multiple=True, type=Pair("NAME=VALUE", "="),
        help="What the provider needs besides; an empty value takes it back.",
    ),
    click.option(
        "--option-file", "option_files", multiple=True, type=FileOf("NAME=FILE", "="),
        help="An option that is a secret."
    ),
    click.option("--method", "methods", multiple=True, metavar="M", help="Stored; POST alone where none is named."),
    click.option("--answer-status", type=OrDefault(click.INT), metavar="N", help="To what is stored; or: default."),
    click.option(
        "--answer-header", "answer_headers", multiple=True, type=Pair("'Name: value'", ":"), help="Of that answer."
    ),
    click.option("--answer-body", type=Text(), help="In the place of the row's id."),
    click.option("--body-bytes-max", type=OrDefault(click.INT), metavar="N", help="Or: default."),
    click.option("--duplicates", type=Text(), metavar="WHICH", help=f"Which are looked for: {', '.join(DUPLICATES)}."),
    click.option("--window", type=Duration(), help="How long a delivery's key is remembered.  [default: 7d]"),
    click.option(
        "--commit-timeout", type=OrDefault(click.FLOAT), metavar="SECONDS",
        help="Then 503; or: default, the provider's patience less a second.",
    ),
)  # fmt: skip
SECRETS = (
    click.option(
        "--secret-file", "secret_files", multiple=True, type=click.Path(path_type=Path, allow_dash=True),
        help="A file with the secret; - is standard input.",
    ),
    click.option("--secret-env", "secret_variables", multiple=True, metavar="VAR", help="A variable that holds it."),
)  # fmt: skip


def taking(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    """A command that takes all of these."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def a_new_draft(name: str, provider: str, window_seconds: int, given: Mapping[str, Any]) -> Draft:
    return drafted(Draft(name, provider, usual_mode(provider), window_seconds=window_seconds), given)


def edited(former: Draft, given: Mapping[str, Any]) -> Draft:
    """A mode that was what the former provider has where nobody says otherwise becomes what the new one has."""
    draft = drafted(former, given)
    keeps = given["mode"] is not None or former.mode != usual_mode(former.provider)
    return draft if keeps else replace(draft, mode=usual_mode(draft.provider))


def usual_mode(provider: str) -> str:
    """For a provider that nobody can judge, off."""
    known = PROVIDERS.get(provider)
    return "deferred" if known is None or known.credential else "off"


def drafted(base: Draft, given: Mapping[str, Any]) -> Draft:
    """The draft with what was given in the place of what it had."""
    options = {name: value for name, value in {**base.options, **dict(given["options"])}.items() if value}
    window: timedelta | None = given["window"]
    return replace(
        base,
        provider=given["provider"] or base.provider,
        mode=given["mode"] or base.mode,
        options=options,
        methods=tuple(dict.fromkeys(each.upper() for each in given["methods"])) or base.methods,
        answer=_answered(base, given["answer_status"], given["answer_headers"], given["answer_body"]),
        body_bytes_max=_or_default(given["body_bytes_max"], base.body_bytes_max),
        duplicates=given["duplicates"] or base.duplicates,
        window_seconds=int(window.total_seconds()) if window is not None else base.window_seconds,
        commit_timeout_seconds=_or_default(given["commit_timeout"], base.commit_timeout_seconds),
    )


def _or_default(given: Any, former: Any) -> Any:
    return former if given is None else None if given == DEFAULT else given


def _answered(
    base: Draft, status: int | str | None, headers: Sequence[tuple[str, str]], body: str | None
) -> Success | None:
    former = None if status == DEFAULT else base.answer
    if status in (None, DEFAULT) and not headers and body is None:
        return former
    known = PROVIDERS.get(base.provider)
    start = former or (known.success if known else Success())
    return Success(
        status if isinstance(status, int) else start.status,
        tuple(headers) or start.headers,
        body.encode() if body is not None else start.body,
    )


def fresh_of(
    files: Iterable[Path] = (),
    variables: Iterable[str] = (),
    option_files: Iterable[tuple[str, Path]] = (),
    option_variables: Iterable[tuple[str, str]] = (),
) -> tuple[Fresh, list[str]]:
    """The secrets and secret options at those places, and what is wrong with them."""
    faults, unread = list[str](), list[str]()

    def taken(name: str, take: Callable[[], bytes]) -> Iterator[tuple[str, bytes]]:
        try:
            yield name, take()
        except asking.Unreadable as why:
            unread.append(name)
            faults.append(f"{name}: {why}")

    secrets = [each for file in files for each in taken(SECRET, partial(asking.secret_in, file))]
    secrets += [each for name in variables for each in taken(SECRET, partial(asking.secret_of, name))]
    options = [each for name, file in option_files for each in taken(name, partial(asking.secret_in, file))]
    options += [each for name, place in option_variables for each in taken(name, partial(asking.secret_of, place))]
    fresh = Fresh(tuple(value for _, value in secrets), dict(options), tuple(unread))
    return fresh, faults + faults_of_fresh(fresh)


def noted(fresh: Fresh) -> Fresh:
    """The same; what looks like a mistake in it is said, and kept as it is."""
    for secret in (*fresh.secrets, *fresh.options.values()):
        if asking.is_padded(secret):
            click.echo("warning: a secret begins or ends with white space, which is taken for a part of it", err=True)
    return fresh
