"""hookd up: everything on this machine."""

import socket
import subprocess

import click

from chassis import sockets
from chassis.settings import data_folder
from chassis.supervisor import HOOKD, Child
from hookd.configuration import Configuration, configure, database_of
from hookd.replying.app import replies
from hookd.supervise import open_listeners, receivers, supervise

DEMO = "hookd.demo"

EPILOG = """\b
Examples:
  hookd up
  hookd up --app handlers.py --port 8000
  HOOKD_DATABASE_URL=postgresql://me@db/app hookd up --host 0.0.0.0 --workers 2
"""


@click.command(epilog=EPILOG)
@click.option("--host", help="Address to listen on [HOOKD_HOST].")
@click.option("--port", type=int, help="Port to listen on; 0: a free one [HOOKD_PORT].")
@click.option("--workers", type=int, help="Receiver processes [HOOKD_WORKERS].")
@click.option("--app", help="Your handlers: a module, or a path to a .py file [HOOKD_APP]; without it each is logged.")
@click.option("--concurrency", type=int, help="Handlers that run at once [HOOKD_CONCURRENCY].")
def command(host: str | None, port: int | None, workers: int | None, app: str | None, concurrency: int | None) -> int:
    """Run everything on this machine: the database, unless HOOKD_DATABASE_URL names one, its migration, the receiver
    and the processor. A child that dies is started again.

    SIGTERM or Ctrl-C: open requests and running handlers may end, then all stop; a second one ends them at once.
    """
    configuration = configure(host=host, port=port, workers=workers, app=app, concurrency=concurrency)
    sockets.raise_open_files_limit()
    listeners = open_listeners(configuration)
    with database_of(configuration.common):
        migrated = subprocess.run((*HOOKD, "migrate"), check=False)
        if migrated.returncode != 0:
            return 1
        greet(configuration, listeners)
        app = configuration.processor.app
        replying = app if app and replies(app) else ""
        children = [*receivers(configuration, listeners, replying), processor(configuration)]
        return supervise(children, configuration.common.grace_seconds, rolling=False)


def processor(configuration: Configuration) -> Child:
    settings = configuration.processor
    return Child("processor", ("processor", "--app", settings.app or DEMO, "--concurrency", str(settings.concurrency)))


def greet(configuration: Configuration, listeners: list[socket.socket]) -> None:
    """Where to POST, and how to look."""
    common = configuration.common
    url = url_of(listeners[0]) + configuration.ingest.prefix
    rows = "HOOKD_DATABASE_URL" if common.database_url else f"PostgreSQL in {data_folder(common.data_dir)}"
    app = configuration.processor.app or f"{DEMO}, which logs them: name your own with --app"
    click.echo(
        f"hookd takes webhooks at {url}/<source> and keeps them in {rows}\n"
        f"handlers: {app}\n\n"
        f'  curl -d \'{{"hello":"world"}}\' {url}/demo\n'
        "  hookd status\n"
        "  hookd events\n\n"
        "Ctrl-C stops everything."
    )


def url_of(listener: socket.socket) -> str:
    """One that works on this machine."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what it listens on
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
