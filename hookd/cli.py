"""The `hookd` command. Names and one-line helps are data, so that `hookd --help` imports no command."""

import importlib
import os
import signal
import sys
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from chassis import collector

COMMANDS = {
    "up": "Run everything on this machine: database, receiver, processor.",
    "ingest": "Run the receiver: each POST becomes a committed row.",
    "processor": "Run the scheduled processor: your handlers take each row.",
    "routes": "Which handler takes what, in the order they are asked.",
    "test": "Try a handler on a request: here, without HTTP and without a row.",
    "migrate": "Bring the database's schema up to date.",
    "status": "How it stands: counts, what waits, last failures.",
    "events": "List events.",
    "event": "Look at one event, or write its exact body.",
    "replay": "Set settled events back to new.",
    "sources": "Who sends: register, change, rotate secrets, export and apply.",
    "verify": "Did the sender sign this? Judge a delivery by its bytes.",
    "send": "Send a delivery as its sender would, signed.",
    "doctor": "Is all well? Try every provider against what runs.",
    "certificate": "Make a certificate that signs itself, for https.",
    "psql": "psql on the very database hookd uses.",
    "settings": "Each setting with its value, origin and meaning.",
}

EPILOG = """\b
Example:
  hookd up                                  # then, in another terminal:
  curl -d '{"hello":"world"}' localhost:8080/demo
  hookd events
"""


class LazyGroup(click.Group):
    """Imports a command's module only to run it, or to print its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        if cmd_name not in COMMANDS:
            raise click.exceptions.NoSuchCommand(cmd_name, possibilities=COMMANDS, ctx=ctx)
        command: click.Command = importlib.import_module(f"hookd.commands.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `hookd events | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still wants to flush
            return 0

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="hookd")
def hookd() -> None:
    """A webhook inbox: point providers at it, and every POST is a committed PostgreSQL row before it is answered.
    A separate processor runs your Python handlers and turns each row into processed or failed.
    """


class Terminated(SystemExit):
    """SIGTERM, as an exception: whatever a command holds is let go, an embedded server above all."""


def main() -> NoReturn:
    """Run the command line; every expected error is one line on stderr, never a traceback."""
    open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    signal.signal(signal.SIGTERM, terminate)
    collector.relax()
    try:
        code = hookd.main(prog_name="hookd", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        sys.exit(2)
    except click.UsageError as error:
        click.echo(f"Error: {error.format_message()}{where_to_look(error)}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    except OSError as error:
        click.echo(f"Error: {error}", err=True)
        # What is still to be written to a full disk would fail once more as Python ends, and turn the code into 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def where_to_look(error: click.UsageError) -> str:
    """For what click says in general; our own words say what was expected."""
    is_ours = type(error) in (click.UsageError, click.BadParameter)
    return "" if is_ours or error.ctx is None else f" See: {error.ctx.command_path} --help"


def open_closed() -> None:
    """Who starts us may have closed them (`>&-`): the next socket would get the number, and what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def terminate(*_: object) -> NoReturn:
    raise Terminated(128 + signal.SIGTERM)
