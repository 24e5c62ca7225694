"""hookd's processes as `rig.hookd` starts them, but born in the nursery: none has to import anything first."""

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from asyncio import ReadTransport, StreamReader, StreamReaderProtocol
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from rig.hookd import Hookd, running, surroundings
from tests.commands import nursery

PATIENCE_SECONDS = 120

ASK = """
import json, os, socket, sys
told, tells = os.pipe()
asked = {"arguments": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}
with socket.socket(fileno=int(sys.argv[1])) as door:
    socket.send_fds(door, [json.dumps(asked).encode()], [0, 1, 2, tells])
os.close(tells)
with os.fdopen(told) as answer:
    sys.exit(int(answer.read().split()[1]) & 0xFF)
"""


async def shell(script: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a script of sh, for which `hookd` is born in the nursery; what it wrote. It has to end well."""
    door = nursery().door
    with TemporaryDirectory() as programs:
        ask, program = Path(programs) / "ask.py", Path(programs) / "hookd"
        ask.write_text(ASK)
        program.write_text(f'#!/bin/sh\nexec {shlex.join((sys.executable, "-IS", str(ask), str(door)))} "$@"\n')
        program.chmod(0o755)
        process = await asyncio.create_subprocess_exec(
            "sh", "-eux", "-c", script, cwd=folder, pass_fds=(door,), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
            env=os.environ | environment | {"PATH": f"{programs}:{os.environ['PATH']}"},
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_SECONDS):
            said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


@asynccontextmanager
async def hookd(
    *arguments: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None, **settings: str
) -> AsyncIterator[Hookd]:
    """Run `hookd *arguments`; `settings` without their prefix. Killed at the end, if it still runs.

    Where its memory is looked at, or what it imported, it has to be `rig.hookd`'s.
    """
    where = {"folder": str(cwd or Path.cwd()), "environment": surroundings(environment, settings)}
    process = await Born.of({"arguments": arguments, **where})
    try:
        async with running(process) as hookd:
            yield hookd
    finally:
        process.close()


class Born:
    """What asyncio tells of a process that it started, told of one that the nursery did."""

    def __init__(self, pid: int, told: StreamReader, stdout: StreamReader, stderr: StreamReader) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self._transports: list[ReadTransport] = []
        self._ending = asyncio.get_running_loop().create_task(_number(told))

    @classmethod
    async def of(cls, asked: Mapping[str, Any]) -> "Born":
        (out, outs), (err, errs) = os.pipe(), os.pipe()
        with open(os.devnull) as nothing:  # noqa: ASYNC230 - it is there at once
            told = nursery().bear(asked, nothing.fileno(), outs, errs)
        os.close(outs)
        os.close(errs)
        read = [await _reading(file) for file in (told, os.fdopen(out), os.fdopen(err))]
        (lines, _), (stdout, _), (stderr, _) = read
        born = cls(await _number(lines), lines, stdout, stderr)
        born._transports = [transport for _, transport in read]
        return born

    @property
    def returncode(self) -> int | None:
        return self._ending.result() if self._ending.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ending)

    def send_signal(self, signal: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, and we are about to be told
            os.kill(self.pid, signal)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def close(self) -> None:
        for each in self._transports:
            each.close()


async def _number(told: StreamReader) -> int:
    return int(await told.readline())


async def _reading(file: IO[str]) -> tuple[StreamReader, ReadTransport]:
    stream, loop = StreamReader(), asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: StreamReaderProtocol(stream), file)
    return stream, transport
