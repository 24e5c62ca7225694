"""hookd's own handler in this company: it does nothing but say when it started."""

import hookd
from benchmarks.rivals.notes import note


@hookd.on("*")
async def event(event: hookd.Event) -> None:
    note(event.id)
