"""aiohttp has no processes of its own: as many as are wanted, each on uvloop, on a port that they share."""

import multiprocessing
import signal
import sys
from collections.abc import Awaitable, Callable
from types import FrameType

import uvloop

Serve = Callable[[int], Awaitable[None]]


def serve(program: Serve, port: int, workers: int) -> None:
    """Run it in this process, and in others beside it, which end with it."""
    others = [multiprocessing.Process(target=run, args=(program, port), daemon=True) for _ in range(workers - 1)]
    for other in others:
        other.start()
    signal.signal(signal.SIGTERM, leave)
    run(program, port)


def run(program: Serve, port: int) -> None:
    uvloop.run(_run(program, port))


async def _run(program: Serve, port: int) -> None:
    await program(port)


def leave(_number: int, _frame: FrameType | None) -> None:
    """Through Python's own exit, which ends the daemonic children."""
    sys.exit(0)
