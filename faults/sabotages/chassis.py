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
