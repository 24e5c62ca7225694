"""Embedded servers in folders of their own, used by this process, by others and by other users."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qs, urlsplit

import pytest

from chassis.embedded import Embedded, EmbeddedError, binaries
from tests.needs import needs
from tests.waiting import PATIENCE_SECONDS

Begun: TypeAlias = Callable[..., Embedded]

REPOSITORY = Path(__file__).parent.parent
IS_ROOT = os.geteuid() == 0
NOBODY, NO_ACCOUNT = 65534, 54321

WHEEL = binaries()
DEBIAN = max((found.parent for found in Path("/usr/lib/postgresql").glob("*/bin/postgres")), default=Path("/missing"))

only_root = pytest.mark.skipif(not IS_ROOT, reason="only root can be somebody else, or mount a small disk")
may_mount = needs(
    subprocess.run(["/bin/sh", "-c", "unshare --mount true"], capture_output=True, check=False).returncode == 0,
    "needs unshare (apt install util-linux) and the right to mount",
)
has_debian = needs(DEBIAN.exists(), "needs a second PostgreSQL: apt install postgresql")

HOOKD = """
import subprocess, sys
from pathlib import Path
from chassis.embedded import Embedded
with Embedded(Path(sys.argv[1]), Path(sys.argv[2])).serve() as url:
    child = subprocess.Popen(["cat"], stdout=subprocess.DEVNULL, close_fds=False)
    print(url, flush=True)
    child.wait()
"""

SOMEBODY_ELSE = """
import asyncio, asyncpg, getpass, os, sys, uuid
from pathlib import Path
from chassis.embedded import Embedded, EmbeddedError
def become(uid):  # not sooner: the interpreter's own files may be closed to them
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
become(int(sys.argv[1]))
"""


@contextmanager
def an_open_folder() -> Iterator[Path]:
    """A folder that every account may enter, as those above /var/lib/hookd are; pytest's own are closed.

    In memory where there is enough: a disk makes these tests three times as long, and proves nothing more.
    """
    memory = Path("/dev/shm")
    ample = memory.exists() and shutil.disk_usage(memory).free > 2**30 and not os.statvfs(memory).f_flag & os.ST_NOEXEC
    with tempfile.TemporaryDirectory(prefix="hookd-", dir=memory if ample else "/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def a_place() -> Iterator[Path]:
    """A folder for data folders; no server in it outlives the test."""
    with an_open_folder() as place:
        yield place
        for data in place.glob("**/postgres/postmaster.pid"):
            os.kill(server_pid(data.parent.parent), signal.SIGQUIT)


@contextmanager
def beginning() -> Iterator[Begun]:
    """Embedded servers that ran before, for tests to which the first start does not matter: a copy is quicker."""
    with an_open_folder() as seeds:

        def copied(folder: Path, programs: Path = WHEEL) -> Embedded:
            first = seeds / programs.parent.name
            if not first.exists():
                with Embedded(first, programs).serve():
                    pass
            subprocess.run(["cp", "-a", first, folder], check=True)
            return Embedded(folder, programs)

        yield copied


def start_hookd(folder: Path, programs: Path = WHEEL) -> subprocess.Popen[str]:
    """Another process, which says its URL and serves until its standard input ends, as does a child of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", HOOKD, folder, programs],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def said_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def as_somebody_else(uid: int, program: str, *arguments: str | Path) -> str:
    """What the program prints when another user runs it."""
    command = [sys.executable, "-c", SOMEBODY_ELSE + program, str(uid), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(url: str, sql: str) -> str:
    asked = subprocess.run([WHEEL / "psql", "-XAtq", "-d", url, "-c", sql], capture_output=True, text=True, check=False)
    return (asked.stdout or asked.stderr).strip()


def keep_a_row(url: str) -> None:
    ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")


def kept_row(url: str) -> str:
    return ask(url, "SELECT answer FROM kept")


def server_pid(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().split()[0])


def kill_server(folder: Path, url: str) -> None:
    """kill -9, and not back before its socket is closed: whoever looks sooner finds the server as it was."""
    os.kill(server_pid(folder), signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while is_listening(url):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_listening(url: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(socket_folder(url) / ".s.PGSQL.5432")) == 0


def is_stopped(folder: Path) -> bool:
    """A server that is stopped takes its pid file along, and hookd the folder of its socket."""
    return not (folder / "postgres" / "postmaster.pid").exists() and not (folder / "socket").exists()


def socket_folder(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(folder: Path, programs: Path = WHEEL) -> str:
    """The sentence by which serving from the folder is refused."""
    with pytest.raises(EmbeddedError) as refused, Embedded(folder, programs).serve():
        pass
    return str(refused.value)
