"""The programs that are measured: each in a process group of its own, stopped by its number, whatever happens."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
STOP_SECONDS_MAX = 30
PYTHON = (sys.executable, "-P", "-m")
HOOKD = (*PYTHON, "hookd")


class BenchmarkError(Exception):
    """Why there is no figure, in a sentence."""


class Child:
    """A program that runs, and the file its words go to."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.log = log

    def require_alive(self) -> None:
        """Raise BenchmarkError, with its last words, for a program that has ended."""
        if self.process.returncode is not None:
            raise BenchmarkError(f"a program ended with {self.process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:].strip()

    async def ended(self, seconds_max: float) -> int:
        """Its exit code, once it has ended by itself."""
        async with asyncio.timeout(seconds_max):
            return await self.process.wait()


@asynccontextmanager
async def running(
    folder: Path, *command: str | Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """The program, until the block ends; then SIGTERM, and SIGKILL to its group when that does not help.

    It runs in `folder`, where no .env and no hookd.toml of anybody's lies, with the code of this very tree.
    """
    log = folder / f"log-{asyncio.get_running_loop().time():.6f}"
    with log.open("wb") as words:
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            cwd=folder,
            env=_environment(environment or {}),
            start_new_session=True,
        )
    try:
        yield Child(process, log)
    finally:
        await _stop(process)


async def output_of(folder: Path, *command: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """What the program wrote, once it has ended well. Raises BenchmarkError."""
    async with running(folder, *command, environment=environment) as child:
        if await child.process.wait() != 0:
            raise BenchmarkError(f"{Path(command[0]).name} failed: {child.last_words()}")
        return child.log.read_text()


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Ours, without the settings of a hookd that lives on this machine; and byte code is kept, as anywhere else."""
    unwanted = ("HOOKD_", "PYTHONDONTWRITEBYTECODE")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**ours, "PYTHONPATH": str(ROOT), "HOOKD_METRICS_PORT": "0", **given}


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS_MAX):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
