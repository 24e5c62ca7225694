"""A receiver and a processor at work as users start them, and commands that talk to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rig.hookd import Hookd as Process
from tests.born import hookd
from tests.commands import Hookd, Ran
from tests.processing import an_app
from tests.receiving import Remote, hookd_ingest

KEY = "dGVzdHMtc2VhbC13aXRoLXRoaXMtMzItYnl0ZS1rZXk="  # everybody knows it


@dataclass(frozen=True)
class Inbox:
    """Both, and the command line beside them."""

    receiver: Remote
    processor: Process
    hookd: Hookd

    async def run(self, *arguments: str) -> Ran:
        return await asyncio.to_thread(self.hookd, *arguments)


def commands(database_url: str, folder: Path, port: int) -> Hookd:
    """Commands with the settings of both."""
    settings = {"HOOKD_DATABASE_URL": database_url, "HOOKD_SECRET_KEY": KEY, "HOOKD_PORT": str(port)}
    return Hookd(folder, settings)


@asynccontextmanager
async def inbox(database_url: str, folder: Path) -> AsyncIterator[Inbox]:
    app = an_app(folder, "@hookd.on('*')\nasync def handle(event): ...")
    async with (
        hookd_ingest(database_url, secret_key=KEY) as receiver,
        hookd("processor", "--app", app, database_url=database_url, secret_key=KEY, poll_seconds="0.05") as processor,
    ):
        await processor.logged("processor.started")
        yield Inbox(receiver, processor, commands(database_url, folder, receiver.port))
