"""All settings of all processes, loaded together; and the errors a person may expect, as one line each."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import click

from chassis import logs
from chassis.database import Database, Unavailable, open_database
from chassis.settings import CommonSettings, Settings, SettingsError, load
from hookd.store import READ_SECONDS, Store
from ingest.settings import IngestSettings
from processor.settings import ProcessorSettings

T = TypeVar("T")

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


def consult(name: str, work: Callable[[Store], Awaitable[T]], seconds: float = READ_SECONDS) -> T:
    """Do `work` on the database the settings name; no statement of it may take longer than `seconds`."""
    with database_of(configure().common) as database:
        return asyncio.run(_consult(Store(database, name, seconds), work))


async def _consult(store: Store, work: Callable[[Store], Awaitable[T]]) -> T:
    try:
        return await work(store)
    finally:
        await store.close()
