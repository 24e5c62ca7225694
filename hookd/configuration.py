"""All settings of all processes, loaded together; and the errors a person may expect, as one line each."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import click

from chassis import logs
from chassis.database import Database, Unavailable, open_database
from chassis.settings import CommonSettings, Settings, SettingsError, load
from ingest.settings import IngestSettings
from processor.settings import ProcessorSettings

GROUPS: tuple[type[Settings], ...] = (CommonSettings, IngestSettings, ProcessorSettings)


class WrongSettings(click.ClickException):
    exit_code = 2

    def format_message(self) -> str:
        return self.message if "\n" not in self.message else "\n  " + self.message.replace("\n", "\n  ")


@dataclass(frozen=True)
class Configuration:
    common: CommonSettings
    ingest: IngestSettings
    processor: ProcessorSettings


def configure(**given: Any) -> Configuration:
    """Load every setting (`given`: from the command line) and set up the logs. All faults are reported together."""
    configuration = read(**given)
    logs.configure(configuration.common.log_level, configuration.common.log_format)
    return configuration


def read(**given: Any) -> Configuration:
    try:
        loaded = load(GROUPS, given)
    except SettingsError as error:
        raise WrongSettings(str(error)) from None
    return Configuration(*(cast(Any, loaded[group]) for group in GROUPS))


@contextmanager
def database_of(common: CommonSettings) -> Iterator[Database]:
    """The database, embedded or not; what is wrong with it becomes one line and exit code 1."""
    try:
        with open_database(common) as database:
            yield database
    except Unavailable as error:
        raise click.ClickException(str(error)) from None
