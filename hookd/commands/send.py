"""hookd send: a delivery as a sender would send it, signed."""

import asyncio
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import orjson

from chassis.settings import environment
from chassis.vault import open_vault
from hookd import show
from hookd.client import Answer, Client, Place, Unreachable, Untrusted, place_by, place_of, trust
from hookd.configuration import Configuration, configure, database_of
from hookd.doctor.store import Store
from hookd.options import Text, ca_option
from protocol.providers import PROVIDERS
from protocol.providers.provider import Provider
from protocol.request import SOURCE, Request
from protocol.samples import Fault, credentials, has_time, sample_delivery, sample_of
from protocol.schemes.shown import Nothing
from protocol.source import Source, source_of

BODY_BYTES_MAX = 512 * 1024 * 1024
ANSWER_CHARACTERS_SHOWN = 200

EPILOG = """\b
Examples:
  hookd send github                          signed with the registered source's own secret
  hookd send github --type pull_request
  hookd send payments --provider stripe --secret-env STRIPE_SECRET --twice
  hookd send github --bad-signature          to see it refused
  hookd send github --to https://hooks.example.com
  hookd send github --to https://localhost:8080 --ca hookd-cert.pem
"""


@dataclass(frozen=True)
class Sender:
    """Who is to be imitated: its key, what the source says beyond it, and what a person should know of both."""

    name: str
    key: str
    options: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def provider(self) -> Provider:
        return PROVIDERS[self.name]


@click.command(epilog=EPILOG)
@click.argument("source", type=Text())
@click.option(
    "--provider",
    type=click.Choice(sorted(PROVIDERS)),
    metavar="NAME",
    help="Who sends it; default: the registered source's provider, else the one of that name, else none.",
)
@click.option("--type", "event_type", type=Text(), help="The event type, where this sender puts it.")
@click.option("--secret-file", type=click.Path(path_type=Path), help="A file with what it is signed with.")
@click.option("--secret-env", metavar="NAME", help="A variable that holds it; default: the registered source's secret.")
@click.option("--bad-signature", is_flag=True, help="Signed with another key.")
@click.option("--old", is_flag=True, help="Signed a day ago.")
@click.option("--twice", is_flag=True, help="The same delivery two times, as a retry comes.")
@click.option("--chunked", is_flag=True, help="In chunks, with no length told.")
@click.option("--size", type=click.IntRange(1, BODY_BYTES_MAX), metavar="N", help="With a body of exactly N bytes.")
@click.option("--to", metavar="URL", help="The receiver; default: HOOKD_HOST, HOOKD_PORT and HOOKD_PREFIX.")
@ca_option
@click.option("--json", "is_json", is_flag=True, help="One JSON object for each delivery.")
def command(
    source: str,
    provider: str | None,
    event_type: str | None,
    secret_file: Path | None,
    secret_env: str | None,
    bad_signature: bool,
    old: bool,
    twice: bool,
    chunked: bool,
    size: int | None,
    to: str | None,
    ca: Path | None,
    is_json: bool,
) -> int:
    """Send a realistic delivery, signed as its sender would, and print what is answered.

    Exit code 0 when every answer is a 2xx. A sender with a private key of its own signs with the sample's: the source
    must then have that public key, which is shown.
    """
    fault = one_of(bad_signature=bad_signature, old=old)
    if not SOURCE.fullmatch(source):
        raise click.UsageError(f"{source!r}: expected a source's name: [a-z0-9][a-z0-9._-]{{0,63}}")
    configuration = configure()
    place = place_from(to, configuration)
    trusted = trust_from(ca, place, configuration)
    given = secret_from(secret_file, secret_env)
    registered = None if provider and (given or signs_nothing(provider)) else look_up(configuration, source)
    sender = sender_for(source, provider, given, registered)
    for note in (*sender.notes, *notes_on(sender.provider, fault)):
        click.echo(note, err=True)

    delivery, happened = str(uuid4()), time.time()

    def make() -> Request:
        return sample_delivery(
            sender.provider, sender.key, time.time(), delivery=delivery, fault=fault, target=place.target(source),
            host=place.host, options=sender.options, event_type=event_type, body_bytes=size, happened=happened,
        )  # fmt: skip

    answers = []
    for _ in range(2 if twice else 1):
        with explained():
            request = make()
            answer = asyncio.run(deliver(place, trusted, request, chunked=chunked))
        report(sender, request, answer, is_json=is_json)
        answers.append(answer)
    return 0 if all(answer.is_success for answer in answers) else 1


@contextmanager
def explained() -> Iterator[None]:
    """What cannot be made, or delivered, becomes a sentence."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except Untrusted as error:
        raise click.ClickException(str(error)) from None
    except Unreachable as error:
        raise click.ClickException(f"{error}; start a receiver with hookd up or hookd ingest") from None


def one_of(*, bad_signature: bool, old: bool) -> Fault | None:
    if bad_signature and old:
        raise click.UsageError("--bad-signature or --old, not both")
    return "bad-signature" if bad_signature else "old" if old else None


def place_from(to: str | None, configuration: Configuration) -> Place:
    try:
        return place_of(to) if to else place_by(configuration.ingest)
    except ValueError as error:
        raise click.UsageError(f"--to: {error}" if to else str(error)) from None


def trust_from(ca: Path | None, place: Place, configuration: Configuration) -> ssl.SSLContext | None:
    """Who may have signed the receiver's certificate. The one that the settings have it show is trusted as it is."""
    if not place.is_https:
        return None
    try:
        return trust(ca or configuration.ingest.tls_cert)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def secret_from(file: Path | None, variable: str | None) -> str | None:
    """As it is given; a line's end at the end of a file is not part of it."""
    if file and variable:
        raise click.UsageError("--secret-file or --secret-env, not both")
    if variable:
        if variable not in environment():
            raise click.UsageError(f"--secret-env {variable}: there is no such variable")
        return environment()[variable]
    if file is None:
        return None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror}") from None
    return content.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")


def signs_nothing(name: str) -> bool:
    return isinstance(PROVIDERS[name].scheme, Nothing)


def look_up(configuration: Configuration, name: str) -> tuple[str, Source] | None:
    """The registered source and its provider's name; None where nobody registered it."""
    vault = open_vault(configuration.common)
    with database_of(configuration.common) as database:
        record = asyncio.run(_look_up(Store(database), name))
    return (record["provider"], source_of(record, vault.unseal)) if record is not None else None


async def _look_up(store: Store, name: str) -> dict[str, Any] | None:
    try:
        return await store.source(name)
    finally:
        await store.close()


def sender_for(source: str, chosen: str | None, given: str | None, registered: tuple[str, Source] | None) -> Sender:
    """Whom to imitate: what is given counts before what is registered, and that before the sample's own."""
    if registered is not None and chosen in (None, registered[0]):
        name, known = registered
        if name not in PROVIDERS:
            raise click.ClickException(f"{source}: this hookd knows no provider {name!r}")
        return sender_of(name, given, known)
    name = chosen or (source if source in PROVIDERS else "none")
    options = sample_of(PROVIDERS[name]).options
    if given is not None or signs_nothing(name):
        return Sender(name, given or "", options)
    key, secret, _ = credentials(PROVIDERS[name], time.time())
    why = f"{source} is registered with another provider" if registered else f"{source} is not registered"
    return Sender(name, key, options, (f"{why}: signed as the sample is, {which(name, secret)}",))


def sender_of(name: str, given: str | None, known: Source) -> Sender:
    """As a registered source has it."""
    provider = PROVIDERS[name]
    if given is not None or signs_nothing(name):
        return Sender(name, given or "", known.options)
    if sample_of(provider).key != "secret":
        key, secret, _ = credentials(provider, time.time())
        fits = secret.encode() in known.secrets_at(time.time())
        note = (
            ()
            if fits and sample_of(provider).key != "rsa"
            else (f"{name} signs with a private key: signed with the sample's, {which(name, secret)}",)
        )
        return Sender(name, key, known.options, note)
    if known.fault is not None:
        raise click.ClickException(f"{known.name}: {known.fault}")
    secrets = known.secrets_at(time.time())
    if not secrets:
        raise click.ClickException(f"{known.name} has no secret: give it one, or sign with --secret-file")
    return Sender(name, secrets[0].decode("utf-8", "surrogateescape"), known.options)


def which(name: str, secret: str) -> str:
    """What the source must have for the sample's signature to be a good one."""
    kind = sample_of(PROVIDERS[name]).key
    if kind == "rsa":
        return "whose certificate is not Amazon's: it will not be verified"
    return f"which is good where its {'secret' if kind == 'secret' else 'public key'} is {secret}"


def notes_on(provider: Provider, fault: Fault | None) -> tuple[str, ...]:
    if fault == "bad-signature" and isinstance(provider.scheme, Nothing):
        raise click.UsageError("--bad-signature: this sender signs nothing")
    if fault == "old" and not has_time(provider, time.time()):
        return ("this sender signs no time that is judged: an old delivery is as good as a new one",)
    return ()


async def deliver(place: Place, trusted: ssl.SSLContext | None, request: Request, *, chunked: bool) -> Answer:
    async with Client(place, trusted) as client:
        return await client.send(request, chunked=chunked)


def report(sender: Sender, request: Request, answer: Answer, *, is_json: bool) -> None:
    said = {
        "request": f"{request.method} {request.target}",
        "bytes": len(request.body),
        "provider": sender.name,
        "event_type": sender.provider.event_type_of(request),
        "delivery_id": sender.provider.delivery_id_of(request),
        "status": answer.status,
        "id": id_in(answer.body),
        "answer": answer.body.decode("utf-8", "backslashreplace"),
    }
    if is_json:
        show.as_json(said)
        return
    names = ", ".join(f"{word} {said[name]}" for name, word in NAMES.items() if said[name])
    click.echo(show.cell(f"{said['request']}, {len(request.body):,} bytes" + (f", {names}" if names else "")))
    click.echo(f"{answer.status} {show.cell(str(said['answer']).strip(), ANSWER_CHARACTERS_SHOWN) or '(no body)'}")
    if said["id"]:
        click.echo(f"id {said['id']}")


NAMES = {"event_type": "type", "delivery_id": "delivery"}


def id_in(body: bytes) -> str | None:
    """The row's id, where the answer tells it."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    found = said.get("id") if isinstance(said, dict) else None
    return show.cell(found) if isinstance(found, str) else None
