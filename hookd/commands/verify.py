"""hookd verify: did the sender sign this? The tool for the day when signatures fail."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import click

from chassis.settings import environment
from hookd import asking
from hookd.options import Pair, moment
from protocol.hints import hints
from protocol.providers import PROVIDERS
from protocol.providers.provider import Provider
from protocol.request import Request
from protocol.signature import judge
from protocol.verdict import Verified

BODY_BYTES_MAX = 64 * 1024 * 1024
EPILOG = """\b
Examples:
  hookd verify --provider github --secret-file secret.txt \\
      -H 'X-Hub-Signature-256: sha256=757107ea…' body.json
  hookd event 01a20040 --raw | hookd verify --provider slack --secret-env SLACK_SECRET \\
      -H 'X-Slack-Signature: v0=…' -H 'X-Slack-Request-Timestamp: 1760000000' --at 2026-01-31T12:00Z -

\b
Give several --secret-file or --secret-env while a secret is being replaced: any of them will do.
A line's end at the end of a secret's file is not part of the secret.
"""


@click.command(epilog=EPILOG)
@click.option("--provider", required=True, type=click.Choice(sorted(PROVIDERS)), metavar="NAME", help="Who sent it.")
@click.option("--secret-file", "files", multiple=True, type=click.Path(path_type=Path), help="A file with the secret.")
@click.option("--secret-env", "variables", multiple=True, metavar="NAME", help="A variable that holds the secret.")
@click.option("--header", "-H", "headers", multiple=True, type=Pair("'Name: value'", ":"), help="As received.")
@click.option("--url", default="/", show_default=True, help="As the sender called it, where the signature covers it.")
@click.option("--method", default="POST", show_default=True)
@click.option("--at", metavar="TIME", help="When it was received, in ISO 8601; default: now.")
@click.option(
    "--option", "options", multiple=True, type=Pair("NAME=VALUE", "="), help="What the provider needs besides."
)
@click.option("--certificate", type=click.Path(path_type=Path), help="PEM, for senders that sign by one (aws-sns).")
@click.option("--json", "as_json", is_flag=True, help="The verdict as JSON.")
@click.argument("body", metavar="BODYFILE", type=click.File("rb"))
def command(
    provider: str,
    files: tuple[Path, ...],
    variables: tuple[str, ...],
    headers: tuple[tuple[str, str], ...],
    url: str,
    method: str,
    at: str | None,
    options: tuple[tuple[str, str], ...],
    certificate: Path | None,
    as_json: bool,
    body: BinaryIO,
) -> None:
    """Judge a delivery: the exact bytes of its body (- for standard input) and its headers.

    Exit code 0 when it is verified, 1 when not; then the usual mistakes are tried, and what would fit is told.
    """
    sender, said = PROVIDERS[provider], dict(options)
    # What is needed is needed for handshakes.
    if faults := sender.faults_of({each.name: "unused" for each in sender.options if each.needed} | said):
        raise click.UsageError("; ".join(faults))
    secrets = secrets_of(sender, files, variables)
    request = request_of(method, url, headers, body.read(BODY_BYTES_MAX))
    received_at = received(at)
    pem = content_of(certificate) if certificate else None
    said = {"url": url, **said} if urlsplit(url).netloc and "url" in known(sender) else said
    verdict = judge(sender, request, secrets, received_at, options=said, certificate=pem)
    is_verified = isinstance(verdict, Verified)
    found = [] if is_verified else hints(sender, request, secrets, received_at, options=said, certificate=pem)
    if not is_verified and not all(map(sender.takes, secrets)):
        found.insert(0, f"the secret is not {sender.shape.says}")
    show(verdict if isinstance(verdict, Verified) else None, *refusal(verdict), found, as_json=as_json)
    raise click.exceptions.Exit(0 if is_verified else 1)


def known(sender: Provider) -> set[str]:
    return {option.name for option in sender.options}


def secrets_of(sender: Provider, files: tuple[Path, ...], variables: tuple[str, ...]) -> list[bytes]:
    """From files and variables, else from a prompt that shows nothing; none where none is asked for."""
    secrets = [content_of(file).removesuffix(b"\n").removesuffix(b"\r") for file in files]
    for name in variables:
        if name not in environment():
            raise click.UsageError(f"--secret-env {name}: there is no such variable")
        secrets.append(environment()[name].encode("utf-8", "surrogateescape"))
    if not secrets and sender.credential:
        if not asking.can_ask():  # the body may be what stands in the terminal's place
            raise click.UsageError(
                f"a secret is needed, {sender.credential}: --secret-file, --secret-env, or a terminal to ask at"
            )
        secrets.append(click.prompt(f"{sender.credential}", hide_input=True, err=True).encode())
    return secrets


def content_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from None


def request_of(method: str, url: str, headers: tuple[tuple[str, str], ...], body: bytes) -> Request:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise click.UsageError(f"--url {url!r}: expected a URL such as https://hooks.example.com/github") from None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = (("Host", parts.netloc),) if parts.netloc and not any(name.lower() == "host" for name, _ in headers) else ()
    return Request(method, target, (*host, *headers), body)


def received(at: str | None) -> float:
    try:
        return moment(at).timestamp() if at else time.time()
    except (ValueError, OverflowError):
        raise click.UsageError(f"--at {at!r}: expected a time such as 2026-01-31T12:00Z") from None


def refusal(verdict: object) -> tuple[str, str]:
    """The check that failed and why; nothing for a verified one."""
    return getattr(verdict, "check", ""), getattr(verdict, "reason", "")


def show(verified: Verified | None, check: str, reason: str, found: list[str], *, as_json: bool) -> None:
    said: Mapping[str, object] = {"verified": verified is not None, "check": check, "reason": reason, "hints": found}
    if as_json:
        click.echo(json.dumps(said))
    elif verified is not None:
        click.echo("verified" if verified.secret is not None else "taken as it is: this provider signs nothing")
    else:
        click.echo(f"not verified ({check}): {reason}")
        for hint in found:
            click.echo(f"  hint: {hint}")
