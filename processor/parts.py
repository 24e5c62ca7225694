"""A processor's parts, put together: in a process of its own, or in a receiver that replies."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack, asynccontextmanager

from chassis import collector, metrics
from chassis.database import Database
from chassis.logs import get_logger
from chassis.vault import Vault
from processor.chooser import Chooser
from processor.claiming.claimer import Claimer
from processor.drain import Drain
from processor.effects.store import Transactions
from processor.handling.dispatch import Dispatch
from processor.holding.holding import Holding
from processor.holding.lease import Leases
from processor.running.intake import Intake
from processor.running.runner import Runner
from processor.running.suspects import Suspects
from processor.running.watchdog import Watchdog
from processor.settings import ProcessorSettings
from processor.settling.settler import Settler
from processor.settling.tally import Tally
from processor.sifting.certificates import Amazon
from processor.sifting.registry import Registry
from processor.sifting.sieve import Sieve
from processor.store import Store
from processor.upkeep.maintenance import Maintenance

LEAVE_SECONDS = 2.0  # for coroutines to end when they are cancelled

log = get_logger()


class Parts:
    """Each handed what it needs. `name`: of whoever is one."""

    def __init__(
        self,
        settings: ProcessorSettings,
        database: Database,
        dispatch: Dispatch,
        app: str,
        vault: Vault,
        amazon: Amazon | None = None,
        *,
        name: str = "processor",
    ) -> None:
        self.folded = metrics.Folded()
        self.tally = Tally(self.folded, name)
        self.holder = f"{socket.gethostname()} {os.getpid()}"
        self.store = Store(database, self.holder, lease_seconds=settings.lease_seconds, name=name)
        self.leases = Leases(database, lease_seconds=settings.lease_seconds, lost=self._lose, name=name)
        self.transactions = Transactions(database, settings.handler_connections)
        self.registry = Registry(self.store.sources, vault)
        self.maintenance = Maintenance(
            self.store.upkeep, retention_days=settings.retention_days, refused_hours=settings.refused_hours
        )
        self._amazon = amazon or Amazon()
        bell = asyncio.Event()
        chooser = Chooser(dispatch, settings)
        sieve = Sieve(self.registry, self.store.deliveries, chooser, self._amazon, settings)
        holding = Holding(self.leases, settings.held_bytes_max // 2)
        settler = Settler(self.store.results, holding, chooser, self.tally, settings, bell)
        self.runner = Runner(self.store.bodies, sieve, chooser, self.transactions, holding, settler, settings)
        self.watchdog = Watchdog(self.runner.crews, chooser, settings)
        self.suspects = Suspects(
            app,
            database,
            content_bytes_max=settings.content_bytes_max,
            timeout_seconds=chooser.timeout_seconds,
            ready=self.runner.ready_at_last,
            finish=settler.finish,
            conclude=settler.conclude,
            seal=self.runner.seal,
        )
        self.intake = Intake(holding, sieve, chooser, self.runner, self.watchdog, self.suspects, settler)
        self.claimer = Claimer(self.store.queue, holding, self.intake, self.runner, settler, settings, bell)
        self.drain = Drain(self.claimer, self.runner, self.watchdog, self.suspects, settler, holding)
        self._show_figures()

    def _show_figures(self) -> None:
        runner, claimer, leases = self.runner, self.claimer, self.leases
        self.tally.watch("hookd_running", "Handlers that run", lambda: runner.running)
        self.tally.watch(
            "hookd_transactions", "Of these, handlers with a transaction of their own", lambda: runner.connected.running
        )
        self.tally.watch("hookd_held", "Rows this process holds", lambda: len(leases))
        self.tally.watch(
            "hookd_lag_seconds", "How long the oldest due event waited for a claim", lambda: claimer.lag_seconds
        )

    def _lose(self) -> None:
        self.drain.lose()

    @asynccontextmanager
    async def at_work(self, *others: Awaitable[None], claims: bool = True) -> AsyncIterator[None]:
        """Claiming (unless told not to), running, settling, renewing, and `others` beside, until the block ends."""
        collector.spare()
        self.leases.start()
        with ExitStack() as left:
            async with asyncio.TaskGroup() as group:
                for crew in self.runner.crews:
                    crew.start(group)
                tasks = [group.create_task(_run(work)) for work in (*self.drain.loops(claims=claims), *others)]
                try:
                    yield
                finally:
                    self.leases.end()
                    for crew in self.runner.crews:
                        crew.end()
                    for task in tasks:
                        task.cancel()
                    left.callback(asyncio.get_running_loop().call_later(LEAVE_SECONDS, _leave).cancel)
            await self.transactions.close()
            await self._amazon.close()


async def _run(work: Awaitable[None]) -> None:
    await work


def _leave() -> None:
    log.error("processor.left", hint="a handler would not be cancelled; the lease of its event runs out")
    os._exit(1)
