"""hookd's processes, as a test starts and ends them."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 30


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
    environment: Mapping[str, str] | None = None,
    **settings: str,
) -> AsyncIterator[Hookd]:
    """Run `hookd *arguments`; `settings` without their prefix. Killed at the end, if it still runs."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HOOKD_")}
    ours |= {"HOOKD_METRICS_PORT": "0", "PYTHONPATH": str(ROOT), **(environment or {})}
    ours |= {f"HOOKD_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", *module, *arguments, cwd=cwd, env=ours, stdout=PIPE, stderr=PIPE
    )  # fmt: skip
    running = Hookd(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            running.kill()
        await running.ended()
