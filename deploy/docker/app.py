"""A sample app: says what arrived. APP_FILE names yours to compose.yaml."""

from structlog import get_logger

import hookd

log = get_logger()


@hookd.on("*")
async def show(event: hookd.Event) -> None:
    """Log who sent how much."""
    log.info("event.shown", id=str(event.id), source=event.source, bytes=len(event.body))
