"""A PostgreSQL that may be ill-treated: killed, stopped, frozen, started with other settings, its disk slow or full."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

from chassis.binaries import PLAIN, Programs, binaries, server_account, within_reach
from chassis.database import Database
from chassis.embedded import Embedded
from migrations.upgrade import upgrade
from rig.interpose import COMPILER, Disk
from rig.postgres import connected

START_SECONDS_MAX = 60


def template(folder: Path) -> Path:
    """A data folder with a migrated database, made once and copied for each server."""
    with Embedded(folder).serve() as url:
        database = Database(url)
        upgrade(lambda: database.connect("migrate"), lambda: None)
    return folder / "postgres"


class Server:
    """One server in `folder`, with the data of a template. `folder` and those above may be entered by anybody."""

    def __init__(self, folder: Path, data: Path) -> None:
        account = server_account()
        self.folder = folder
        self.disk = Disk(folder) if COMPILER else None
        self.environment: dict[str, str] = {}  # what its next start finds there besides: a wrong clock, say
        self._programs = Programs(within_reach(binaries(), account, folder / "binaries"), account)
        self._data = folder / "postgres"
        self._socket = folder / "socket"
        self._process: subprocess.Popen[bytes] | None = None
        self._socket.mkdir()
        subprocess.run(["cp", "-a", data, self._data], check=True)
        os.chown(self._socket, account.pw_uid, account.pw_gid)
        self.url = f"postgresql://hookd@/hookd?host={urllib.parse.quote(str(self._socket))}&port=5432"
        self.socket = self._socket / ".s.PGSQL.5432"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def launch(self, **settings: str) -> None:
        """Start it, and do not wait."""
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        environment: Mapping[str, str] = PLAIN | (self.disk.environment if self.disk else {}) | self.environment
        account = self._programs.account
        other = account.pw_uid != os.geteuid()
        with (self.folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs.bin / "postgres", "-D", self._data, "-k", self._socket, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=environment,
                user=account.pw_uid if other else None, group=account.pw_gid if other else None,
                extra_groups=[] if other else None, start_new_session=True,
            )  # fmt: skip

    async def start(self, **settings: str) -> None:
        """Start it, and return when it takes connections."""
        self.launch(**settings)
        await self.until_ready()

    async def until_ready(self) -> None:
        async with asyncio.timeout(START_SECONDS_MAX):
            while True:
                try:
                    async with connected(self.url):
                        return
                except Exception:  # noqa: BLE001 - whatever a starting server says
                    self._require_alive()
                    await asyncio.sleep(0.05)

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _require_alive(self) -> None:
        if not self.runs:
            raise RuntimeError(f"PostgreSQL does not run: {self.last_words()}")

    def last_words(self) -> str:
        logs = [self.folder / "postgres.log", *sorted(self._data.glob("log/*.log"))]
        return "\n".join(log.read_text(errors="replace")[-1500:] for log in logs if log.exists())

    def kill(self) -> None:
        """SIGKILL to the postmaster alone; its children notice and go."""
        self._signal(signal.SIGKILL)
        self._wait()

    async def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: fast, SIGQUIT: at once, without a checkpoint."""
        self._signal(how)
        await asyncio.to_thread(self._wait)

    def freeze(self) -> None:
        """SIGSTOP to the postmaster and all of its children."""
        os.killpg(self.pid, signal.SIGSTOP)
        for pid in self.children():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in (*self.children(), self.pid):
            os.kill(pid, signal.SIGCONT)

    def children(self) -> list[int]:
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in listed]

    def _signal(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)

    def _wait(self) -> None:
        if self._process is not None:
            self._process.wait(START_SECONDS_MAX)

    def end(self) -> None:
        """Whatever state it is in: all of its processes gone, its files removed."""
        if self._process is not None and self._process.poll() is None:
            with_children = [*self.children(), self.pid]
            for pid in with_children:
                for how in (signal.SIGKILL, signal.SIGCONT):
                    try:
                        os.kill(pid, how)
                    except ProcessLookupError:
                        break
            self._wait()
        for _ in range(50):  # orphans of a postmaster that was killed write a moment longer
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.1)


async def on(server: Server, sql: str, *arguments: object) -> object:
    """One value."""
    async with connected(server.url) as connection:
        return await connection.fetchval(sql, *arguments)
