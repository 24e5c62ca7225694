"""Development: a processor that is started anew whenever a Python file of its app changes, and receivers that reply by
what it says then.
"""

import asyncio
import contextlib
import importlib.util
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

import click

from chassis.lifeline import Lifeline
from chassis.logs import get_logger
from chassis.process import hear
from chassis.supervisor import WRONG_USAGE, Child, Supervisor
from hookd.replying.app import replies

# -B: a file that changes twice in a second, at the same size, would be taken for the one that was compiled before.
HOOKD = (sys.executable, "-P", "-B", "-m", "hookd")
GRACE_SECONDS_MAX = 2.0  # whoever saved a file waits for its effect; what still runs is handed back, and runs again

log = get_logger()


def require_watchfiles() -> None:
    """It is an extra: a processor in production has no use for it. Raises UsageError."""
    if importlib.util.find_spec("watchfiles") is None:
        raise click.UsageError("--reload needs watchfiles: pip install 'hookd[reload]'")


def folders_of(app: str) -> list[Path]:
    """Where the files of an app lie. Raises UsageError."""
    from processor.handling import app as apps  # noqa: PLC0415 - `hookd up` has no other use for what handles

    try:
        return apps.folders_of(app)
    except apps.AppError as error:
        raise click.UsageError(str(error)) from None


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


async def keep_rolling(app: str, folders: Sequence[Path], roll: Callable[[], None], ended: asyncio.Event) -> None:
    """Call `roll` after each change of an app that replies, or did until then: receivers are to be replaced.

    Of an app that does not import they reply to nobody; its processor says why, and also where nothing can be watched.
    """
    replied = True  # for all that is known before the first change
    with contextlib.suppress(OSError):
        async for _ in _changes(folders, ended):
            before, replied = replied, await asyncio.to_thread(replies, app, tells=False)
            if before or replied:
                roll()


async def _changes(folders: Sequence[Path], ended: asyncio.Event) -> AsyncIterator[list[str]]:
    """The names of the Python files that have changed, each time, until the end. Raises OSError."""
    import watchfiles  # noqa: PLC0415 - an extra

    async for changes in watchfiles.awatch(*folders, watch_filter=watchfiles.PythonFilter(), stop_event=ended):
        yield named(path for _, path in changes)


async def _watch(folders: Sequence[Path], lives: Lives) -> bool:
    """Until they end; or until nothing can be seen, which ends them."""
    log.info("reload.watching", folders=", ".join(map(str, folders)))
    try:
        async for names in _changes(folders, lives.ended):
            log.info("reload.changed", files=", ".join(names))
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
