"""What lies below deploy/, as it is read, and what of it is run."""

import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from yarl import URL

from rig.hookd import Hookd
from tests.born import hookd

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted(path for path in (DEPLOY / "systemd").iterdir() if path.suffix in (".service", ".socket", ".timer"))
SERVICES = [path for path in UNITS if path.suffix == ".service"]
SAMPLE_APP = DEPLOY / "docker" / "app.py"
PROGRAM = "/opt/hookd/bin/hookd"
ALL_STORED = "SELECT payload, target, headers, host(remote) AS remote, status FROM hookd.events ORDER BY id"


@asynccontextmanager
async def receiver(
    database_url: str, *arguments: str, port: int = 0, **settings: str
) -> AsyncIterator[tuple[Hookd, int]]:
    """`hookd ingest`, and the port it listens on."""
    command = ("ingest", "--port", str(port), *arguments)
    async with hookd(*command, cwd=None, environment=None, database_url=database_url, **settings) as program:
        yield program, URL((await program.logged("ingest.listening"))["url"]).port or 0
        assert await program.stop() == 0


def exec_start(unit: str) -> list[str]:
    """The words of a unit's ExecStart=, the program's own name first."""
    return shlex.split(setting(unit, "ExecStart"))


def setting(unit: str, name: str) -> str:
    (value,) = re.findall(rf"^{name}=(.*)$", (DEPLOY / "systemd" / unit).read_text(), re.MULTILINE)
    return str(value)
