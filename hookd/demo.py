"""The app of `hookd up` where none is named: it logs each event."""

import hookd
from chassis.logs import get_logger

log = get_logger()
SHOWN_CHARACTERS = 200


@hookd.on("*")
async def show(event: hookd.Event) -> None:
    """Log an event's first words."""
    log.info(
        "event.shown",
        id=str(event.id),
        source=event.source,
        event_type=event.event_type,
        bytes=len(event.body),
        body=event.body[:SHOWN_CHARACTERS].decode(errors="replace"),
    )
