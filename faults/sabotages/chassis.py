"""What both stand on, broken on purpose."""

from typing import Any

from chassis.database import Link, Unavailable
from faults.sabotage import sabotage


@sabotage
def never_connect_again() -> None:
    """A connection that was lost is not opened again."""
    ready = Link._ready
    had: set[int] = set()

    async def once(self: Link) -> Any:
        if (self._connection is None or self._connection.is_closed()) and id(self) in had:
            raise Unavailable("sabotaged")
        had.add(id(self))
        return await ready(self)

    Link._ready = once  # type: ignore[method-assign]


@sabotage
def no_time_outs() -> None:
    """An answer of PostgreSQL's is waited for as long as it takes."""
    run = Link.run

    async def patiently(self: Link, work: Any, *, timeout: float) -> Any:
        return await run(self, work, timeout=max(timeout, 3600.0))

    Link.run = patiently  # type: ignore[method-assign]


@sabotage
def open_in_a_senders_patience() -> None:
    """Opening a connection ends with the time of whoever waits for it, as one of his statements would."""

    async def ready(self: Link) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._open()
        return self._connection

    Link._ready = ready  # type: ignore[method-assign]
