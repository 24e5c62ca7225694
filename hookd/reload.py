"""Development: a processor that is started anew whenever a Python file of its app changes."""

import asyncio
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from chassis.lifeline import Lifeline
from chassis.logs import get_logger
from chassis.process import hear
from chassis.supervisor import WRONG_USAGE, Child, Supervisor

# -B: a file that changes twice in a second, at the same size, would be taken for the one that was compiled before.
HOOKD = (sys.executable, "-P", "-B", "-m", "hookd")
GRACE_SECONDS_MAX = 2.0  # whoever saved a file waits for its effect; what still runs is handed back, and runs again

log = get_logger()


def require_watchfiles() -> None:
    """It is an extra: a processor in production has no use for it. Raises UsageError."""
    if importlib.util.find_spec("watchfiles") is None:
        raise click.UsageError("--reload needs watchfiles: pip install 'hookd[reload]'")


async def keep_fresh(child: Child, folders: Sequence[Path], lifeline: Lifeline | None, *, grace_seconds: float) -> int:
    """Keep `child` alive until SIGTERM or SIGINT, and start it anew after each change of a Python file in `folders`.

    Returns the exit code: 1 where the folders cannot be watched.
    """
    lives = Lives(child, grace_seconds)
    hear(lives.end)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(folders, lives))
        heeding = group.create_task(_heed(lifeline, lives))
        await lives.run()
        heeding.cancel()
        return 0 if await watching else 1


class Lives:
    """One child, which has as many lives as its files have changes, one at a time.

    Over a successor that proves itself while the old one works on: what arrived after a change would be handled by the
    code from before it. So that of an app that does not import there is no processor, and events wait in the table.
    """

    def __init__(self, child: Child, grace_seconds: float) -> None:
        self.ended = asyncio.Event()
        self._child = child
        self._grace_seconds = grace_seconds
        self._begin()

    def _begin(self) -> None:
        self._over, self._changed = asyncio.Event(), asyncio.Event()
        self._supervisor = Supervisor([self._child], grace_seconds=self._grace_seconds, program=HOOKD)

    async def run(self) -> None:
        """Live, until it is told to end."""
        while not self.ended.is_set():
            self._begin()
            if await self._supervisor.run(self._over) == WRONG_USAGE:
                log.warning("reload.waiting", hint="the app is tried again when a file changes; events wait meanwhile")
                await self._changed.wait()

    def change(self) -> None:
        """This life is over."""
        self._changed.set()
        self._over.set()

    def end(self) -> None:
        """There is no other; told so twice, it ends without any grace."""
        if self.ended.is_set():
            self._supervisor.stop_now()
        self.ended.set()
        self.change()


async def _watch(folders: Sequence[Path], lives: Lives) -> bool:
    """Until they end; or until nothing can be seen, which ends them."""
    import watchfiles  # noqa: PLC0415 - an extra

    log.info("reload.watching", folders=", ".join(map(str, folders)))
    only_python = watchfiles.PythonFilter()
    try:
        async for changes in watchfiles.awatch(*folders, watch_filter=only_python, stop_event=lives.ended):
            log.info("reload.changed", files=", ".join(named(path for _, path in changes)))
            lives.change()
    except OSError as error:  # no file watches are left, above all
        log.error("reload.blind", reason=str(error))
        lives.end()
        return False
    return True


def named(paths: Iterable[str]) -> list[str]:
    return sorted({Path(path).name for path in paths})


async def _heed(lifeline: Lifeline | None, lives: Lives) -> None:
    if lifeline is not None:
        await lifeline.watch()
        lives.end()
