"""What a processor says it has done, and how it ended."""

import asyncio
from collections.abc import Sequence

from rig.hookd import Hookd

KILLED = "a process was killed"
ENDED_SECONDS_MAX = 30.0


async def require_ended(processor: Hookd, exit_code: int) -> None:
    """It ends by itself, and so."""
    async with asyncio.timeout(ENDED_SECONDS_MAX):
        ended = await processor.process.wait()
    assert ended == exit_code, f"the processor ended with {ended} instead of {exit_code}"


def total(processor: Hookd, kind: str = "processed") -> int:
    """How many events the processor says it has settled so."""
    return sum(line.get(kind, 0) for line in processor.lines if line["event"] == "processor.summary")


def logged_rows(processors: Sequence[Hookd], event: str) -> int:
    return sum(line["rows"] for each in processors for line in each.lines if line["event"] == event)
