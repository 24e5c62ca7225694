"""What each command of `hookd sources` does its work with: the settings, the vault, the registry."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import click

from chassis.database import Database
from chassis.vault import Vault, VaultError, open_vault
from hookd.configuration import Configuration, WrongSettings, configure, database_of
from hookd.registry.plan import Faults, Known, Limits, Registered, Step, without_known
from hookd.registry.store import Resealed, Store, Write
from protocol.source import SECRET

T = TypeVar("T")


class WrongSource(WrongSettings):
    """What is wrong with a source, all of it; exit code 2."""


def limits_of(configuration: Configuration) -> Limits:
    return Limits(configuration.processor.retention_days, configuration.ingest.body_bytes_max)


@dataclass(frozen=True)
class Session:
    """An open database. Each call opens a connection of its own."""

    configuration: Configuration
    vault: Vault
    _database: Database

    @property
    def limits(self) -> Limits:
        return limits_of(self.configuration)

    def read(self) -> Known:
        return asyncio.run(self._do(lambda store: store.read()))

    def read_sealed(self) -> Known:
        """The same with the secrets, sealed; for who may read those."""
        return asyncio.run(self._do(lambda store: store.read(sealed=True)))

    def count_new(self, name: str) -> int:
        """How many of its events are still new."""
        return asyncio.run(self._do(lambda store: store.count_new(name)))

    def one(self, name: str) -> Registered:
        return one_of(self.read(), name)

    def change(self, plan: Callable[[Known], Sequence[Step]]) -> list[Step]:
        """Do the steps, in one transaction; those that change something. Faults of any forbid all."""
        done: list[Step] = []

        def decide(known: Known) -> Sequence[Write]:
            done[:] = [step for step in self.settled(plan(known)) if step.action != "unchanged"]
            check(done, self.limits)
            return self._sealed(done, known)

        asyncio.run(self._do(lambda store: store.change(decide)))
        return done

    def rewrite(self, decide: Callable[[Known], Sequence[Resealed]]) -> None:
        asyncio.run(self._do(lambda store: store.change(decide)))

    def settled(self, steps: Sequence[Step]) -> list[Step]:
        """Without those of the new secrets that the source has already."""
        return [
            Step(
                each.name, each.former, each.draft, without_known(each.fresh, each.former, self.unsealed), each.overlap
            )
            for each in steps
        ]

    def unsealed(self, sealed: str) -> bytes | None:
        """None where it cannot be read."""
        try:
            return self.vault.unseal(sealed)
        except VaultError:
            return None

    def _sealed(self, steps: Sequence[Step], known: Known) -> list[Write]:
        if any(step.fresh for step in steps):
            self._check_key(known)
        return [Write(step, [*self._seal(step)]) for step in steps]

    def _seal(self, step: Step) -> Iterator[tuple[str, str]]:
        for secret in reversed(step.fresh.secrets):
            yield SECRET, self.vault.seal(secret)
        for name, value in step.fresh.options.items():
            yield name, self.vault.seal(value)

    def _check_key(self, known: Known) -> None:
        """What another key sealed is read elsewhere by that key: what ours sealed would be unreadable there."""
        self.vault.check()
        sealed = [each.sealed for source in known.values() for each in source.kept]
        if sealed and all(self.unsealed(each) is None for each in sealed):
            raise VaultError(
                f"the secrets in this database were sealed with another key than that of {self.vault.origin}: set "
                "HOOKD_SECRET_KEY as the receivers and processors have it (or, is it lost: hookd sources rekey --help)"
            )

    async def _do(self, work: Callable[[Store], Awaitable[T]]) -> T:
        store = Store(self._database)
        try:
            return await work(store)
        finally:
            await store.close()


@contextmanager
def session() -> Iterator[Session]:
    """What goes wrong in it becomes a line or a few, and exit code 1; faults of what somebody gave exit code 2."""
    configuration = configure()
    try:
        with database_of(configuration.common) as database:
            yield Session(configuration, open_vault(configuration.common), database)
    except Faults as error:
        raise WrongSource(str(error)) from None
    except VaultError as error:
        raise click.ClickException(str(error)) from None


def one_of(known: Known, name: str) -> Registered:
    if name not in known:
        names = ", ".join(known) or "there is none"
        raise click.ClickException(f"no source {name!r} is registered (registered: {names})")
    return known[name]


def check(steps: Sequence[Step], limits: Limits) -> None:
    """Raises Faults, with the faults of all; each names its source where there are several."""
    faults = [(step.name, fault) for step in steps for fault in step.faults(limits) or step.faults_of_keys()]
    if faults:
        raise Faults([f"{name}: {fault}" if len(steps) > 1 else fault for name, fault in faults])
