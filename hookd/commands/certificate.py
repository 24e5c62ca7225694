"""hookd certificate: one that signs itself, and what to do with it."""

import shlex
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import click

from chassis.certificate import a_name, made
from hookd import show
from hookd.configuration import read
from hookd.files import Contents, write

LOCAL = ("localhost", "127.0.0.1", "::1")
CERTIFICATE, KEY = "hookd-cert.pem", "hookd-key.pem"
DAYS_MAX = 3650

EPILOG = """\b
Examples:
  hookd certificate
  hookd certificate hooks.example.com 203.0.113.7 --out /etc/hookd
  hookd certificate --days 30 --force && systemctl reload hookd-ingest
"""


@click.command(epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Where they go; default: this folder.",
)
@click.option("--days", type=click.IntRange(1, DAYS_MAX), default=365, show_default=True, help="How long it is good.")
@click.option("--force", is_flag=True, help="Take the place of those that are there.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def command(names: tuple[str, ...], out: Path, days: int, force: bool, is_json: bool) -> None:
    """Make a certificate that signs itself, for these host names and IP addresses, and its private key (ECDSA P-256):
    for a receiver that speaks https to senders who are told to trust it.

    Without names it is for localhost, 127.0.0.1, ::1 and this machine's name. Providers on the internet trust no such
    certificate: for them let nginx have one from Let's Encrypt.
    """
    wanted, port = names or default_names(), read().ingest.port
    try:
        certificate = made(wanted, days)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    cert_file, key_file = (out.absolute() / name for name in (CERTIFICATE, KEY))
    keep({cert_file: Contents(certificate.certificate, 0o644), key_file: Contents(certificate.key, 0o600)}, force=force)
    if is_json:
        facts = {"names": wanted, "until": certificate.until.isoformat()}
        show.as_json({"tls_cert": str(cert_file), "tls_key": str(key_file), **facts})
    else:
        tell(cert_file, key_file, wanted, certificate.until, port)


def default_names() -> tuple[str, ...]:
    """What this machine is called on itself, and by its neighbours where it has a name that a certificate can have."""
    own = socket.gethostname()
    try:
        a_name(own)
    except ValueError:
        return LOCAL
    return tuple(dict.fromkeys((*LOCAL, own)))


def keep(files: Mapping[Path, Contents], *, force: bool) -> None:
    try:
        for folder in {path.parent for path in files}:
            folder.mkdir(parents=True, exist_ok=True)
        write(files, replacing=force)
    except FileExistsError as error:
        raise click.ClickException(f"{error}: --force takes its place, or choose another folder with --out") from None
    except OSError as error:
        raise click.ClickException(f"cannot write {error.filename}: {error.strerror}") from None


def tell(certificate: Path, key: Path, names: Sequence[str], until: datetime, port: int) -> None:
    """What to do with them, in lines to be copied."""
    cert_word, key_word = shlex.quote(str(certificate)), shlex.quote(str(key))
    url = url_for(names, port)
    click.echo(
        f"for {', '.join(names)}, until {until:%Y-%m-%d}:\n"
        f"  {certificate}\n  {key}   (its owner alone may read it)\n\n"
        f"  hookd ingest --tls-cert {cert_word} --tls-key {key_word}\n\n"
        f"or as settings:\n  HOOKD_TLS_CERT={cert_word}\n  HOOKD_TLS_KEY={key_word}\n\n"
        "and then:\n"
        f'  curl --cacert {cert_word} -d \'{{"hello":"world"}}\' {url}/demo\n'
        f"  hookd send demo --ca {cert_word} --to {url}"
    )


def url_for(names: Sequence[str], port: int) -> str:
    """One that such a certificate is good for; where the port is any, hookd's own stands for it."""
    host = next((name for name in names if not name.startswith("*.")), "localhost")
    return f"https://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{port or 8080}"
