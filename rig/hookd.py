"""hookd's processes, as a test starts and ends them."""

import asyncio
import json
import os
import signal
import sys
from asyncio import StreamReader
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 30


class Process(Protocol):
    """What asyncio tells of a process that it started."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    @property
    def stdout(self) -> StreamReader | None: ...
    @property
    def stderr(self) -> StreamReader | None: ...
    def send_signal(self, signal: int) -> None: ...
    def terminate(self) -> None: ...
    async def wait(self) -> int: ...


class Hookd:
    """A `hookd` command that runs. Its log lines are kept, and can be waited for."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._grew = asyncio.Condition()
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.lines.append({"event": "unstructured", "text": line.decode(errors="replace")})
            async with self._grew:
                self._grew.notify_all()

    async def logged(self, event: str, count: int = 1) -> dict[str, Any]:
        """The line of that event, once it has been logged `count` times."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines if line["event"] == event]

        async with asyncio.timeout(PATIENCE_SECONDS), self._grew:
            await self._grew.wait_for(lambda: len(found()) >= count)
        return found()[count - 1]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.shield(self._reading)
            return await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.ended()


@asynccontextmanager
async def hookd(
    *arguments: str,
    cwd: Path | None = None,
    module: Sequence[str] = ("hookd",),
    within: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    **settings: str,
) -> AsyncIterator[Hookd]:
    """Run `hookd *arguments`; `settings` without their prefix. Killed at the end, if it still runs.

    `within`: a command that becomes the one it is given, as `env` or `unshare` do.
    """
    process = await asyncio.create_subprocess_exec(
        *within, sys.executable, "-P", "-m", *module, *arguments,
        cwd=cwd, env=surroundings(environment, settings), stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    async with running(process) as hookd:
        yield hookd


def surroundings(environment: Mapping[str, str] | None, settings: Mapping[str, str]) -> dict[str, str]:
    """Our environment, without the settings of a hookd that lives on this machine, and with these."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HOOKD_")}
    ours |= {"HOOKD_METRICS_PORT": "0", "PYTHONPATH": str(ROOT), **(environment or {})}
    return ours | {f"HOOKD_{name.upper()}": value for name, value in settings.items()}


@asynccontextmanager
async def running(process: Process) -> AsyncIterator[Hookd]:
    """That process, killed at the end, if it still runs."""
    running = Hookd(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            running.kill()
        await running.ended()
