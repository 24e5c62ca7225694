"""hookd processor: the scheduled processor."""

import asyncio
import os
import re
import sys
from typing import NoReturn

import click
import uvloop

from chassis.database import Database
from chassis.lifeline import Lifeline
from hookd.apps import loaded
from hookd.configuration import Configuration, configure, database_of
from hookd.options import app_option
from processor.daemon import once, run
from processor.handling.dispatch import Dispatch
from processor.sifting.registry import Unjudgeable

EPILOG = """\b
Examples:
  hookd processor --app handlers.py
  hookd processor --app mycompany.webhooks --app billing/handlers.py --concurrency 16
  hookd processor --app handlers.py --reload
  * * * * * hookd processor --app /srv/handlers.py --once      (a crontab line)

\b
An app is a Python module, a package with its modules, or a file:
  import hookd

\b
  @hookd.on("github", event="push")
  async def deploy(event: hookd.Event) -> None:
      print(event.json()["repository"]["full_name"])
"""

ONCE_SECONDS = 50.0  # cron starts the next one after a minute


class Seconds(click.ParamType[float]):
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)?", str(value))
        if match is None:
            self.fail(f"{value!r}: expected a duration such as 50s or 2m", param, ctx)
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


@click.command(epilog=EPILOG)
@app_option
@click.option("--concurrency", type=int, help="Handlers that run at once [HOOKD_CONCURRENCY].")
@click.option("--once", "is_once", is_flag=True, help="Drain what is due now, then end: for cron or a systemd timer.")
@click.option("--for", "for_seconds", type=Seconds(), help="With --once: at most so long.  [default: 50s]")
@click.option(
    "--reload", "is_reload", is_flag=True, help="Development: start anew when a Python file of the app changes."
)
@click.option("--grace-seconds", type=float, hidden=True)
@click.option("--lifeline-fd", type=int, hidden=True)
def command(
    app: str | None,
    concurrency: int | None,
    is_once: bool,
    for_seconds: float | None,
    is_reload: bool,
    grace_seconds: float | None,
    lifeline_fd: int | None,
) -> int:
    """Run the scheduled processor: claim what is due, run your handlers, settle.

    SIGTERM or Ctrl-C: running handlers may end, the rest is handed back. With --once one summary line is printed; exit
    code 1 when the database is away. With --reload events wait while the app does not import.
    """
    if is_once and is_reload:
        raise click.UsageError("--once or --reload, not both")
    if for_seconds is not None and not is_once:
        raise click.UsageError("--for goes with --once")
    configuration = configure(app=app, concurrency=concurrency, grace_seconds=grace_seconds)
    app = configuration.processor.app
    if app is None:
        raise click.UsageError("no app: name your handlers with --app or HOOKD_APP (hookd up has a demo built in)")
    lifeline = Lifeline(lifeline_fd, os.getppid()) if lifeline_fd is not None else None
    if is_reload:
        return _reload(configuration, app, lifeline)
    if is_once and for_seconds is None:
        for_seconds = ONCE_SECONDS
    return _run(configuration, app, for_seconds, lifeline)


def _reload(configuration: Configuration, app: str, lifeline: Lifeline | None) -> int:
    from chassis.supervisor import Child  # noqa: PLC0415 - cron's processor, each minute, starts nobody
    from hookd.reload import GRACE_SECONDS_MAX, folders_of, keep_fresh, require_watchfiles  # noqa: PLC0415 - as above

    require_watchfiles()
    folders = folders_of(app)
    grace_seconds = min(configuration.common.grace_seconds, GRACE_SECONDS_MAX)
    concurrency = str(configuration.processor.concurrency)
    words = ("processor", "--app", app, "--concurrency", concurrency, "--grace-seconds", str(grace_seconds))
    with database_of(configuration.common):  # an embedded server stays up from one life to the next
        return asyncio.run(keep_fresh(Child("processor", words), folders, lifeline, grace_seconds=grace_seconds))


def _run(configuration: Configuration, app: str, for_seconds: float | None, lifeline: Lifeline | None) -> NoReturn:
    dispatch = loaded(app)
    with database_of(configuration.common) as database:
        try:
            code = uvloop.run(_work(configuration, database, dispatch, app, for_seconds, lifeline))
        except Unjudgeable as error:
            raise click.ClickException(str(error)) from None
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without waiting for threads: a handler that hangs in one cannot be cancelled


async def _work(
    configuration: Configuration,
    database: Database,
    dispatch: Dispatch,
    app: str,
    for_seconds: float | None,
    lifeline: Lifeline | None,
) -> int:
    if for_seconds is None:
        return await run(configuration.common, configuration.processor, database, dispatch, app, lifeline)
    code, summary = await once(configuration.common, configuration.processor, database, dispatch, app, for_seconds)
    click.echo(" ".join(f"{name}={value}" for name, value in summary.items()))
    return code
