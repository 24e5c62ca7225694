"""The `hookd` command as people run it: a process of its own, into a file, a pipe or on a terminal."""

import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO

import orjson

HOOKD = (sys.executable, "-P", "-m", "hookd")
SECONDS_MAX = 30


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> list[dict[str, object]]:
        return [orjson.loads(line) for line in self.lines]


@dataclass(frozen=True)
class Hookd:
    """Where commands run: a folder, and the settings in their environment."""

    folder: Path
    settings: Mapping[str, str]

    def having(self, **settings: str) -> "Hookd":
        """The same with these in the environment."""
        return replace(self, settings={**self.settings, **settings})

    def __call__(self, *arguments: str, into: Path | None = None) -> Ran:
        """Run one to its end, its output into a file."""
        return self._run({"arguments": arguments}, into)

    def python(self, program: str, *arguments: str) -> Ran:
        """Run a program of Python in the command's place, as `python -P -c` would; hookd is imported already."""
        return self._run({"arguments": arguments, "program": program})

    def _run(self, what: Mapping[str, object], into: Path | None = None) -> Ran:
        with tempfile.TemporaryDirectory() as name:
            out, err = into or Path(name) / "out", Path(name) / "err"
            where = {"folder": str(self.folder), "environment": self.environment()}
            with open(os.devnull) as nothing, out.open("a") as outs, err.open("a") as errs:
                code = nursery().run({**what, **where}, nothing.fileno(), outs.fileno(), errs.fileno())
            return Ran(code, "" if into else out.read_text(), err.read_text())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start one in a process group of its own, as a shell would, with pipes to read it by."""
        return subprocess.Popen(
            [*HOOKD, *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def on_terminal(self, *arguments: str, width: int = 160) -> Ran:
        """Run one to its end on a terminal; what it wrote there, both streams together."""
        ours, theirs = a_terminal(width)
        where = {"folder": str(self.folder), "environment": self._on_terminal()}
        with nursery().bear({"arguments": arguments, **where}, theirs, theirs, theirs) as told:
            os.close(theirs)
            written = b"".join(iter(lambda: read(ours), b""))
            os.close(ours)
            _, code = told.read().split()
        return Ran(int(code), written.decode(), "")

    def start_on_terminal(self, *arguments: str, width: int = 160) -> tuple[subprocess.Popen[bytes], int]:
        """Start one on a terminal; the process, and our end of the terminal."""
        ours, theirs = a_terminal(width)
        child = subprocess.Popen(
            [*HOOKD, *arguments],
            cwd=self.folder,
            env=self._on_terminal(),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        return child, ours

    def _on_terminal(self) -> dict[str, str]:
        # COLUMNS, which a test runner may set, would count for more than the terminal's own word.
        known = {name: value for name, value in self.environment().items() if name != "COLUMNS"}
        return known | {"TERM": "xterm-256color"}

    def environment(self) -> dict[str, str]:
        return {**os.environ, "HOOKD_METRICS_PORT": "0", **self.settings}


class Nursery:
    """Where commands are born that have all their imports already (see tests/nursery.py)."""

    def __init__(self) -> None:
        # Its standard error is ours. It ends when this process does, for nobody can ask it any more.
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.door = self._door.fileno()  # whoever inherits it can ask, too
        command = (sys.executable, "-P", "-m", "tests.nursery", str(theirs.fileno()))
        path = {"PYTHONPATH": str(Path(__file__).parents[1])}
        with theirs:
            self._process = subprocess.Popen(
                command, env=os.environ | path, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),)
            )

    def bear(self, asked: Mapping[str, object], *files: int) -> IO[str]:
        """Two lines to be read: its number, and its exit code. `files`: for its input and both outputs."""
        told, tells = os.pipe()
        socket.send_fds(self._door, [json.dumps(asked).encode()], [*files, tells])
        os.close(tells)
        return os.fdopen(told)

    def run(self, asked: Mapping[str, object], *files: int) -> int:
        """Its exit code. Raises TimeoutError."""
        with self.bear(asked, *files) as told:
            pid = int(told.readline())
            if not select.select([told], [], [], SECONDS_MAX)[0]:
                os.kill(pid, signal.SIGKILL)
                told.readline()
                raise TimeoutError(f"{asked['arguments']} took longer than {SECONDS_MAX} s")
            return int(told.readline())


def nursery() -> Nursery:
    """One for those whose lines are counted, and one for all others."""
    return _nursery(any(name.startswith("COVERAGE_") for name in os.environ))


@cache
def _nursery(_is_measured: bool) -> Nursery:
    return Nursery()


def a_terminal(width: int) -> tuple[int, int]:
    """Our end of it, and a command's."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    return ours, theirs


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the last to write there has ended
        return b""
