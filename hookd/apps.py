"""The user's app, as commands load it and speak of it."""

from pathlib import Path

import click

from chassis import logs
from processor.handling import app as apps
from processor.handling.dispatch import Dispatch
from processor.handling.handler import Handler


def loaded(app: str | None) -> Dispatch:
    """Its handlers. What is wrong with it becomes a few lines and exit code 2."""
    if app is None:
        raise click.UsageError("no app: name your handlers with --app or HOOKD_APP")
    try:
        dispatch = apps.load(app)
    except apps.AppError as error:
        raise click.UsageError(str(error)) from None
    logs.share()
    return dispatch


def place_of(handler: Handler) -> str:
    """`file:line`, from here where that is shorter."""
    file, colon, line = handler.place.rpartition(":")
    try:
        return f"{Path(file).relative_to(Path.cwd())}{colon}{line}"
    except ValueError:
        return handler.place
