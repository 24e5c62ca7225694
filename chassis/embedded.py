"""PostgreSQL from a folder of programs, shared by every process that names the same data folder.

The first to come starts the server, the last to leave stops it. Locks tell who is here, since the kernel drops them
when a process is killed: `users` is shared by all who use the server, `lock` is held by whoever starts or stops it.
Who reaches the socket may log in, and only the owner reaches it: nobody else on the machine, nothing from a network.
"""

import fcntl
import functools
import hashlib
import os
import re
import shlex
import shutil
import socket
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chassis.binaries import (
    EmbeddedError,
    ProgramError,
    Programs,
    binaries,
    caller,
    can_execute,
    server_account,
    within_reach,
)
from chassis.folders import check_private, give, is_alone, make_folder, make_private, opened, plainly, sync

__all__ = ["Embedded", "EmbeddedError", "binaries"]

START_SECONDS_MAX = 600  # crash recovery of max_wal_size from a slow disk
LINGER_SECONDS_MAX = 30  # a server killed with -9 leaves processes behind that first finish what they were doing
SOCKET_BYTES_MAX = 88  # a socket's path has 103 bytes on macOS, 107 on Linux, and PostgreSQL adds /.s.PGSQL.5432

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_wal_size": "2GB",  # bodies fill the default in seconds, and each checkpoint makes the next writes dearer
    "timezone": "UTC",
    "log_timezone": "UTC",
    # One file for each day of the week, begun anew a week later.
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgresql-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
}

READY, GONE = "ready", "gone"
LINGERS = re.compile(r'lock file "[^"]+" already exists|pre-existing shared memory block')


class Embedded:
    """`bin` has PostgreSQL's programs, psql among them: the wheel's, unless others are named."""

    def __init__(self, folder: Path, bin: Path | None = None) -> None:  # noqa: A002 - what PostgreSQL calls it
        self.folder = Path(os.path.realpath(folder))  # one name for all, also for a relative path or a link
        self.bin = (bin or binaries()).absolute()
        self._data = self.folder / "postgres"
        self._socket = _socket_folder(self.folder)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """The server's URL, for asyncpg and libpq. The server runs while anybody is in here."""
        make_folder(self.folder)
        with opened(self.folder / "users") as users:
            try:
                with self._locked():
                    fcntl.flock(users, fcntl.LOCK_SH)
                    self._start()
                yield f"postgresql://hookd@/hookd?host={urllib.parse.quote(str(self._socket))}&port=5432"
            finally:
                with self._locked():
                    if is_alone(users):
                        self._stop()

    def revive(self) -> None:
        """Start the server again if it has died. Blocks until it takes connections."""
        with self._locked(), opened(self.folder / "users") as users:
            if is_alone(users):
                raise EmbeddedError(f"nobody uses the server in {self.folder}, so it stays down: enter serve() first")
            self._start()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with plainly(self.folder), opened(self.folder / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _start(self) -> None:
        self._check_major()
        began = time.monotonic()
        while (state := self._state()) != READY:
            waited = time.monotonic() - began
            if state == GONE and self._launch(patient=waited < LINGER_SECONDS_MAX):
                return
            if waited > START_SECONDS_MAX:
                raise EmbeddedError(f"PostgreSQL is still {state}: see its log in {self._data / 'log'}")
            time.sleep(0.1)

    def _stop(self) -> None:
        if self._state() != GONE:
            self._programs.run("pg_ctl", "stop", "--mode=fast", f"--timeout={START_SECONDS_MAX}", data=self._data)
            self._socket.rmdir()

    def _check_major(self) -> None:
        try:
            found = (self._data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return
        ours = Programs(self.bin, caller()).major()
        if found != ours:
            raise EmbeddedError(
                f"{self._data} was made by PostgreSQL {found}, which {ours} cannot read: go back to the hookd that"
                " made it, or choose another HOOKD_DATA_DIR and bring the rows over with pg_dump"
            )

    @functools.cached_property
    def _programs(self) -> Programs:
        account = server_account()
        if not can_execute(account, self.folder):
            raise EmbeddedError(
                f"the system user {account.pw_name}, as whom root runs PostgreSQL, cannot enter {self.folder}:"
                " choose a HOOKD_DATA_DIR below folders that everybody may enter"
            )
        return Programs(within_reach(self.bin, account, self.folder / "binaries"), account)

    def _state(self) -> str:
        """What the server says of itself. Its socket is asked first: what it wrote outlives a kill -9."""
        try:
            check_private(self._socket, self._programs.account)
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(str(self._socket / ".s.PGSQL.5432"))
        except (ConnectionRefusedError, FileNotFoundError):
            return GONE
        except (BlockingIOError, TimeoutError):
            pass  # too busy to answer, so alive
        with suppress(FileNotFoundError, IndexError):
            return (self._data / "postmaster.pid").read_text().splitlines()[7].strip()
        return "starting"

    def _launch(self, *, patient: bool) -> bool:
        """Whether the server was started; while we are patient, not before the last one's processes have gone."""
        self._clear_away()
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        make_private(self._socket, self._programs.account)
        options = f"--options=-k {shlex.quote(str(self._socket))}"
        try:
            self._programs.run("pg_ctl", "start", f"--timeout={START_SECONDS_MAX}", options, data=self._data)
        except ProgramError as error:
            if patient and LINGERS.search(str(error)):
                return False
            words = error.output if error.says_why else self._last_log()
            raise ProgramError(f"server in {self._data}", words) from error
        return True

    def _clear_away(self) -> None:
        """What a killed hookd left unfinished, and the number of a dead server that PostgreSQL would take for alive.

        In a container its first process may leave the dead unburied, and the next container gives out the same numbers
        again. Should any process of that server live, the shared memory it holds stops a second server.
        """
        for leftover in (*self.folder.glob(".initdb-*"), *self.folder.glob(".binaries-*")):
            shutil.rmtree(leftover, ignore_errors=True)
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int((self._data / "postmaster.pid").read_text().partition("\n")[0])
            if not re.match(rf"{pid} \(postgres\) [^Z]", Path(f"/proc/{pid}/stat").read_text()):
                (self._data / "postmaster.pid").unlink()
                (self._socket / ".s.PGSQL.5432.lock").unlink(missing_ok=True)

    def _initialise(self) -> None:
        """Made beside its place and renamed when all of it is on the disk: a folder `postgres` is a whole one."""
        new = Path(tempfile.mkdtemp(prefix=".initdb-", dir=self.folder))
        run = self._programs.run
        try:
            give(new, self._programs.account)
            run("initdb", "-D", new, "-U", "hookd", "-A", "peer", "-E", "UTF8", "--no-locale", "--no-sync")
            _configure(new)
            alone = ("--single", "-D", new, "-F", "-c", "exit_on_error=true", "postgres")
            run("postgres", *alone, given="CREATE DATABASE hookd\n")
            run("initdb", "-D", new, "--sync-only")
            new.rename(self._data)
            sync(self.folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _last_log(self) -> str:
        """What the server wrote since it was last started."""
        logs = sorted(self._data.glob("log/*.log"), key=lambda log: log.stat().st_mtime)
        return logs[-1].read_text(errors="replace").rpartition("starting PostgreSQL")[2] if logs else ""


def _configure(data: Path) -> None:
    """No password and no trust: the kernel names the account at the other end, and only one account is let in."""
    (data / "pg_hba.conf").write_text("local all hookd peer map=hookd\n")
    (data / "pg_ident.conf").write_text(f'hookd "{caller().pw_name}" hookd\n')
    with (data / "postgresql.conf").open("a") as settings:
        settings.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())


def _socket_folder(folder: Path) -> Path:
    """In the data folder; in /tmp where that path is too long for a socket, or takes a URL's list of hosts apart."""
    inside = folder / "socket"
    if len(os.fsencode(inside)) <= SOCKET_BYTES_MAX and "," not in str(inside) and str(inside).isprintable():
        return inside
    return Path(f"/tmp/hookd-{os.geteuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}")  # noqa: S108 - see make_private
