"""A processor in the test's own event loop with handlers as the test gives them, and an eye on the table."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from chassis.database import Connection, Database
from chassis.vault import Vault
from processor.handling.declare import ANY, Declaration, Retry
from processor.handling.dispatch import Dispatch
from processor.handling.event import Event
from processor.handling.handler import Handler, handler_of
from processor.parts import Parts
from processor.settings import ProcessorSettings
from processor.sifting.certificates import Amazon
from tests.registering import VAULT

PATIENCE_SECONDS = 60.0

Function = Callable[..., Any]

TELL = """
CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NOTIFY changed; RETURN NULL; END $$;
CREATE TRIGGER tell AFTER UPDATE ON hookd.events FOR EACH STATEMENT EXECUTE FUNCTION public.tell();
"""


def a_handler(function: Function, source: str = ANY, event_type: str | None = None, place: str = "app.py:1") -> Handler:
    event_types = () if event_type is None else (event_type,)
    return handler_of(Declaration(function, place, source=source, event_types=event_types))


def an_app(folder: Path, code: str, name: str = "app.py") -> str:
    """The path of an app with that code."""
    path = folder / name
    path.write_text(f"import asyncio, os, signal, sys, time\nimport hookd\n{code}")
    return str(path)


class Watch:
    """Told of every change in hookd.events, so that a test need not ask again and again."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._changed = asyncio.Event()

    @classmethod
    async def over(cls, connection: Connection) -> "Watch":
        watch = cls(connection)
        await connection.execute(TELL)
        await connection.add_listener("changed", lambda *_: watch._changed.set())
        return watch

    async def until(self, condition: str, *arguments: object) -> None:
        """Return once there is an event of that condition."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                self._changed.clear()
                if await self._connection.fetchval(
                    f"SELECT EXISTS (SELECT FROM hookd.events WHERE {condition})", *arguments
                ):
                    return
                await self._changed.wait()

    async def settled(self) -> dict[UUID, tuple[str, str | None]]:
        """{id: (status, reason)} once no event is new."""
        await self.until("NOT EXISTS (SELECT FROM hookd.events WHERE status = 'new')")
        rows = await self._connection.fetch("SELECT id, status, reason FROM hookd.events ORDER BY id")
        return {row["id"]: (row["status"], row["reason"]) for row in rows}


def parts_of(
    database: Database,
    *handlers: Handler | Function,
    app: str = "",
    vault: Vault = VAULT,
    amazon: Amazon | None = None,
    **settings: Any,
) -> Parts:
    """A processor that is not at work."""
    dispatch = Dispatch(each if isinstance(each, Handler) else a_handler(each) for each in handlers)
    return Parts(ProcessorSettings(**{"poll_seconds": 0.05, **settings}), database, dispatch, app, vault, amazon)


@asynccontextmanager
async def processing(
    database: Database, *handlers: Handler | Function, grace_seconds: float = 5.0, **settings: Any
) -> AsyncIterator[Parts]:
    """A processor at work; at the end it is told to stop, as SIGTERM would."""
    parts = parts_of(database, *handlers, **settings)
    async with parts.at_work():
        try:
            yield parts
        finally:
            await parts.drain.stop(grace_seconds, asyncio.Event())
    await parts.store.close()


class Handled:
    """A handler that notes what it handled."""

    def __init__(self) -> None:
        self.ids: list[UUID] = []

    async def note(self, event: Event) -> None:
        self.ids.append(event.id)


async def fail_once(event: Event) -> None:
    """A handler that puts its event off for an hour, the first time."""
    if event.attempt == 1:
        raise Retry("later", after=3600)


class Gate:
    """A handler that waits inside until the gate is open, and tells who has entered and how each has left."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.inside: list[UUID] = []
        self.most_inside = 0
        self.ended: list[tuple[UUID, str]] = []
        self._moved = asyncio.Condition()
        self._open = asyncio.Event()
        if is_open:
            self._open.set()

    async def pass_through(self, event: Event) -> None:
        self.inside.append(event.id)
        self.most_inside = max(self.most_inside, len(self.inside))
        end = "cut"
        try:
            await self._notify()
            await self._open.wait()
            end = "done"
        finally:
            self.inside.remove(event.id)
            self.ended.append((event.id, end))
            await self._notify()

    async def _notify(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def until(self, is_so: Callable[["Gate"], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), self._moved:
            await self._moved.wait_for(lambda: is_so(self))

    async def entered(self, count: int = 1) -> None:
        await self.until(lambda gate: len(gate.inside) >= count)

    def open(self) -> None:
        self._open.set()
