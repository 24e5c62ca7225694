"""What lies below deploy/ runs as it stands, but for names and ports: the units, the crontab, the image."""

import asyncio
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from asyncio import create_subprocess_exec
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click
import pytest

from chassis.database import Connection
from chassis.settings import CommonSettings
from chassis.supervisor import HOOKD, Supervisor
from hookd.cli import hookd as command_line
from hookd.configuration import GROUPS
from rig.hookd import PATIENCE_SECONDS
from tests.born import hookd
from tests.deployed import ALL_STORED, DEPLOY, PROGRAM, ROOT, SAMPLE_APP, SERVICES, UNITS, exec_start, receiver, setting
from tests.needs import needs

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]

needs_systemd = needs(shutil.which("systemd-analyze") is not None, "systemd-analyze is not installed")
needs_yaml = needs(importlib.util.find_spec("yaml") is not None, "PyYAML is not installed")


# systemd


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with a program that exists here."""
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace(PROGRAM, f'"{sys.executable}"'))
    return [tmp_path / unit.name for unit in UNITS]


@needs_systemd
def test_systemd_accepts_the_units(units: list[Path]) -> None:
    """systemd finds nothing wrong with the units, not even a setting that it does not know."""
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    verified = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@needs_systemd
def test_the_services_are_hardened(units: list[Path]) -> None:
    """systemd rates the exposure of each service below 2 of 10, "OK"."""
    for unit in units:
        if unit.suffix == ".service":
            command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", str(unit)]
            rated = subprocess.run(command, capture_output=True, text=True, check=False)
            assert rated.returncode == 0, rated.stdout[-200:] + rated.stderr


def test_a_stop_is_given_its_grace() -> None:
    """systemd and Docker kill nothing before hookd's own grace has ended; workers are told to stop by hookd alone."""
    margin = inspect.signature(Supervisor).parameters["margin_seconds"].default
    needed = CommonSettings().grace_seconds + margin
    for unit in SERVICES:
        if unit.name != "hookd-migrate.service":
            assert float(setting(unit.name, "TimeoutStopSec")) > needed
            assert (setting(unit.name, "KillMode"), setting(unit.name, "KillSignal")) == ("mixed", "SIGTERM")
    text = (DEPLOY / "docker" / "compose.yaml").read_text()
    (seconds,) = re.findall(r"stop_grace_period: (\d+)s  # more than HOOKD_GRACE_SECONDS", text)
    assert float(seconds) > needed


async def test_the_processor_unit_runs(database_url: str) -> None:
    """hookd-processor.service needs no more than hookd.env and an app, and ends with exit code 0 on SIGTERM."""
    text = (DEPLOY / "systemd" / "hookd.env").read_text()
    sample = {name.lower(): value for name, value in re.findall(r"^HOOKD_([A-Z_]+)=(.*)$", text, re.MULTILINE)}
    assert {"database_url", "app"} <= set(sample)
    settings = sample | {"database_url": database_url, "app": str(SAMPLE_APP)}
    async with hookd(*exec_start("hookd-processor.service")[1:], cwd=None, environment=None, **settings) as processor:
        await processor.logged("processor.started")
        assert await processor.stop() == 0


# cron


@dataclass(frozen=True)
class Crontab:
    environment: dict[str, str]
    when: list[str]
    user: str
    command: str


def crontab() -> Crontab:
    lines = [line for line in (DEPLOY / "cron" / "hookd").read_text().splitlines() if line and line[0] != "#"]
    *assignments, job = lines
    *when, user, command = job.split(maxsplit=6)
    return Crontab(dict(line.split("=", 1) for line in assignments), when, user, command)


async def test_cron_runs_one_drain(database_url: str, connection: Connection) -> None:
    """The crontab's line, in the crontab's environment and no other, turns what has arrived into processed rows."""
    async with (
        receiver(database_url) as (_, port),
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{port}/demo", data=b"{}") as answer,
    ):
        assert answer.status == 200
    cron = crontab()
    assert (cron.when, cron.user) == (["*"] * 5, "hookd")
    drain, _, log = cron.command.partition(" 2>&1 | ")
    assert log == "logger -t hookd-processor"
    drained = await create_subprocess_exec(
        cron.environment["SHELL"],
        "-c",
        drain.replace(PROGRAM, shlex.join(HOOKD)),
        cwd=ROOT,
        env=cron.environment | {"HOOKD_DATABASE_URL": database_url, "HOOKD_APP": str(SAMPLE_APP)},
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await drained.wait() == 0
    assert [row["status"] for row in await connection.fetch(ALL_STORED)] == ["processed"]


# Docker


def dockerfile(instruction: str) -> list[str]:
    """The arguments of each such instruction."""
    return re.findall(rf"^{instruction} (.*)$", (DEPLOY / "docker" / "Dockerfile").read_text(), re.MULTILINE)


def compose() -> dict[str, Any]:
    read: dict[str, Any] = importlib.import_module("yaml").safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
    return read


def test_the_image_holds_every_package() -> None:
    """The Dockerfile copies what the wheel is made of and nothing else, and the image does not run as root."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {source for each in dockerfile("COPY") if "--from" not in each for source in each.split()[:-1]}
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_through == {*packages, "pyproject.toml", "README.md", "LICENSE"}
    assert dockerfile("USER") == ["10001"]


@needs_yaml
def test_compose_names_what_it_takes() -> None:
    """compose.yaml: PostgreSQL on a named volume, the schema once, then receiver and processor, both watched."""
    services, volumes = compose()["services"], compose()["volumes"]
    assert set(services) == {"postgres", "migrate", "ingest", "processor"}
    assert services["postgres"]["image"] == "postgres:18"
    assert services["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    assert list(volumes) == ["postgres"]
    for name in ("migrate", "ingest", "processor"):
        confined = [services[name][key] for key in ("init", "read_only", "cap_drop", "security_opt")]
        assert confined == [True, True, ["ALL"], ["no-new-privileges:true"]]
    for name in ("ingest", "processor"):
        assert services[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
        _, python, option, script = services[name]["healthcheck"]["test"]
        assert (python, option) == ("python", "-c")
        compile(script, name, "exec")


# What is written


def command_lines() -> Iterator[Any]:
    for unit in SERVICES:
        yield pytest.param(exec_start(unit.name)[1:], id=unit.name)
    yield pytest.param(shlex.split(crontab().command.partition(" 2>&1")[0])[1:], id="cron")
    yield pytest.param(json.loads(dockerfile("CMD")[0]), id="Dockerfile")


@pytest.mark.parametrize("arguments", list(command_lines()))
def test_every_command_line_is_understood(arguments: list[str]) -> None:
    """What the units, the crontab and the image run are commands and options that hookd has."""
    assert_understood(arguments)


@needs_yaml
@pytest.mark.parametrize("service", ["migrate", "ingest", "processor"])
def test_every_command_of_compose_is_understood(service: str) -> None:
    """What compose.yaml runs are commands and options that hookd has."""
    assert_understood(compose()["services"][service]["command"])


def assert_understood(arguments: Sequence[str]) -> None:
    name, *rest = arguments
    command = command_line.get_command(click.Context(command_line), name)
    assert command is not None, f"no command {name}"
    command.make_context(name, rest)


def test_every_name_is_a_setting() -> None:
    """Each HOOKD_ name in a file below deploy/ is a setting that hookd has."""
    known = {f"HOOKD_{name.upper()}" for group in GROUPS for name in group.model_fields}
    for path in files():
        assert set(re.findall(r"HOOKD_[A-Z_]+", path.read_text())) <= known, path


def test_the_readme_knows_every_file() -> None:
    """deploy/README.md says what each file below deploy/ is for."""
    readme = (DEPLOY / "README.md").read_text()
    for path in files():
        assert path.name in readme or str(path.relative_to(DEPLOY)) in readme, path


def files() -> list[Path]:
    found = [path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [path for path in found if path.name != "README.md"]
