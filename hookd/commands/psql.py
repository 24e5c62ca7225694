"""hookd psql: psql on the very database hookd uses."""

import shutil
import signal
import subprocess
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

import click

from chassis.settings import environment
from hookd.configuration import configure, database_of

EPILOG = """\b
Examples:
  hookd psql
  hookd psql -c 'SELECT source, status, count(*) FROM events GROUP BY 1, 2'
  hookd psql -- --help          (psql's own)
"""

# libpq's names for what a URL says of the connection; anything else in its query is a setting of the session.
VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "database": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "application_name": "PGAPPNAME",
    "client_encoding": "PGCLIENTENCODING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "channel_binding": "PGCHANNELBINDING",
    "gssencmode": "PGGSSENCMODE",
    "krbsrvname": "PGKRBSRVNAME",
    "requirepeer": "PGREQUIREPEER",
    "sslmode": "PGSSLMODE",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "ssl_min_protocol_version": "PGSSLMINPROTOCOLVERSION",
    "ssl_max_protocol_version": "PGSSLMAXPROTOCOLVERSION",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
}


@click.command(
    epilog=EPILOG,
    options_metavar="",
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": ["--help"],
    },
)
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> int:
    """Run psql on the very database hookd uses, the embedded one included, with schema hookd on its search path.

    All arguments are psql's. Its exit code is ours.
    """
    common = configure().common
    program = psql(embedded=common.database_url is None)
    with database_of(common) as database:
        given = {name: value for name, value in environment().items() if name not in {"PGSERVICE", "PGHOSTADDR"}}
        child = [program, *arguments]
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is psql's, to end a query
        # A child: the embedded server's lock is this process's. And the environment, which only its owner can read:
        # everybody sees the command line, where a password would stand.
        code = subprocess.run(child, env={**given, **libpq(database.url, given)}, check=False).returncode
    return code if code >= 0 else 128 - code


def psql(*, embedded: bool) -> str:
    if embedded:
        from chassis.embedded import EmbeddedError, binaries  # noqa: PLC0415 - not for those with their own server

        try:
            return str(binaries() / "psql")
        except EmbeddedError as error:
            raise click.ClickException(str(error)) from None
    found = shutil.which("psql")
    if found is None:
        raise click.ClickException("there is no psql here: install PostgreSQL's client (apt install postgresql-client)")
    return found


def libpq(url: str, given: Mapping[str, str]) -> dict[str, str]:
    """The environment that leads libpq where the URL leads asyncpg."""
    parts = urlsplit(url)
    log_in, at, place = parts.netloc.partition("@")
    user, _, password = (log_in if at else "").partition(":")
    hosts = [_host(each) for each in (place if at else log_in).split(",")]
    said = {
        "user": unquote(user),
        "password": unquote(password),
        "host": ",".join(host for host, _ in hosts),
        "port": ",".join(port for _, port in hosts),
        "dbname": unquote(parts.path.removeprefix("/")),
    }
    said = {name: value for name, value in said.items() if value.strip(",")}
    session = {}
    options = given.get("PGOPTIONS", "")
    for name, value in parse_qsl(parts.query):
        if name == "options":
            options += f" {value}"
        elif name in VARIABLES:
            said.setdefault(name, value)
        else:
            session[name] = value
    session["search_path"] = "hookd,public"
    options = " ".join((options, *(f"-c {name}={_quoted(value)}" for name, value in session.items()))).strip()
    return {VARIABLES[name]: value for name, value in said.items()} | {"PGOPTIONS": options}


def _host(words: str) -> tuple[str, str]:
    host, colon, port = words.rpartition(":")
    if not colon or port.endswith("]"):  # [::1]
        host, port = words, ""
    return unquote(host.removeprefix("[").removesuffix("]")), port


def _quoted(value: str) -> str:
    return value.replace("\\", r"\\").replace(" ", r"\ ")
