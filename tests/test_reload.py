"""`--reload`: what was saved is what runs, and no event pays for a slip of the pen."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chassis.database import Connection
from rig.hookd import ROOT, Hookd, hookd
from tests import commands
from tests.factories import an_event
from tests.processing import Watch

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]

PATIENCE_SECONDS = 30.0
NOWHERE = "postgresql://127.0.0.1:1/nowhere"

# Who handled an event stands in its reason.
AN_APP = """
import hookd

@hookd.on("*")
async def handle(event: hookd.Event) -> None:
    raise hookd.Reject("{by}")
"""
ONE_THAT_HANGS = """
import asyncio
import hookd

@hookd.on("*")
async def handle(event: hookd.Event) -> None:
    await asyncio.Event().wait()
"""


@pytest.fixture
async def watch(connection: Connection) -> Watch:
    return await Watch.over(connection)


@contextlib.asynccontextmanager
async def reloading(database_url: str, folder: Path, app: str = "app.py") -> AsyncIterator[Hookd]:
    """`hookd processor --reload`, watching."""
    arguments = ("processor", "--app", app, "--reload")
    async with hookd(
        *arguments, cwd=folder, environment=None, database_url=database_url, poll_seconds="0.05"
    ) as processor:
        await processor.logged("reload.watching")
        yield processor
        assert await processor.stop() == 0


def write(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)


async def test_what_was_saved_is_what_runs(
    database_url: str, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """Also when it is as long as it was before, and was saved in the same second.

    Whatever a handler writes beside its app restarts nothing, unless it is Python.
    """
    write(tmp_path / "app.py", AN_APP.format(by="one"))
    async with reloading(database_url, tmp_path) as processor:
        for count, by in enumerate(("one", "two", "six"), start=1):
            write(tmp_path / "app.py", AN_APP.format(by=by))
            await processor.logged("processor.started", count)
            event_id = await an_event(connection)
            assert (await watch.settled())[event_id] == ("failed", by)
            write(tmp_path / "notes.json", f'"{by}"')
        changes = [line["files"] for line in processor.lines if line["event"] == "reload.changed"]
    assert set(changes) == {"app.py"}


@pytest.mark.parametrize(
    ("app", "changed"),
    [
        ("app", ["helper.py"]),
        ("package", ["package/below/helper.py"]),
        ("other/handlers.py,app.py", ["other/handlers.py", "helper.py"]),
    ],
)
async def test_what_an_app_is_made_of_is_watched(
    database_url: str, tmp_path: Path, app: str, changed: list[str]
) -> None:
    """A file beside it, a module of its package, any of several apps."""
    write(tmp_path / "app.py", AN_APP.format(by="one"))
    write(tmp_path / "package" / "__init__.py", AN_APP.format(by="one"))
    write(tmp_path / "package" / "below" / "__init__.py", "")
    write(tmp_path / "other" / "handlers.py", AN_APP.format(by="one").replace("*", "other"))
    async with reloading(database_url, tmp_path, app) as processor:
        await processor.logged("processor.started")
        for count, name in enumerate(changed, start=1):
            write(tmp_path / name, "import hookd\n")
            assert (await processor.logged("reload.changed", count))["files"] == Path(name).name
            await processor.logged("processor.started", count + 1)


BROKEN = ("def handle(:", "import nothing_of_that_name", "raise SystemExit(0)", "import hookd\n")


async def test_no_event_pays_for_a_slip_of_the_pen(
    database_url: str, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """While the app does not import its events wait, with no attempt of theirs spent; the next change is taken up."""
    write(tmp_path / "app.py", AN_APP.format(by="one"))
    async with reloading(database_url, tmp_path) as processor:
        await processor.logged("processor.started")
        for count, broken in enumerate(BROKEN, start=1):
            write(tmp_path / "app.py", broken)
            await processor.logged("reload.waiting", count)
            if count == 1:
                event_id = await an_event(connection)
        waits = await connection.fetchrow("SELECT status, attempts, claims FROM hookd.events")
        assert waits is not None
        assert tuple(waits) == ("new", 0, 0)
        write(tmp_path / "app.py", AN_APP.format(by="two"))
        assert (await watch.settled())[event_id] == ("failed", "two")
        said = [line["text"] for line in processor.lines if line["event"] == "unstructured"]
    *faults, last = [line for line in said if line.startswith("Error: ")]
    assert [str(tmp_path / "app.py") in line for line in faults] == [True] * 3
    assert "declares" in last
    assert "Traceback" not in str(said)
    assert await connection.fetchval("SELECT attempts FROM hookd.events") == 1


async def test_a_handler_that_runs_is_handed_back(
    database_url: str, connection: Connection, watch: Watch, tmp_path: Path
) -> None:
    """After a short grace, whatever HOOKD_GRACE_SECONDS says; the new code runs it, and its attempt is not lost.

    An app that is not there yet is waited for.
    """
    async with reloading(database_url, tmp_path) as processor:
        await processor.logged("reload.waiting")
        event_id = await an_event(connection)
        write(tmp_path / "app.py", ONE_THAT_HANGS)
        await watch.until("held_by IS NOT NULL")
        write(tmp_path / "app.py", AN_APP.format(by="two"))
        assert (await watch.settled())[event_id] == ("failed", "two")
        assert (await processor.logged("processor.stopping"))["grace_seconds"] == 2.0
    assert await connection.fetchval("SELECT attempts FROM hookd.events") == 1


async def test_a_processor_that_is_killed_is_started_again(database_url: str, tmp_path: Path) -> None:
    """As in production. After a kill -9 of who keeps it, the processor ends by itself."""
    write(tmp_path / "app.py", AN_APP.format(by="one"))
    async with hookd(
        "processor", "--app", "app.py", "--reload", cwd=tmp_path, environment=None, database_url=database_url
    ) as processor:
        await processor.logged("processor.started")
        killed = (await processor.logged("child.started"))["pid"]
        os.kill(killed, signal.SIGKILL)
        await processor.logged("processor.started", 2)
        assert (await processor.logged("child.started", 2))["pid"] != killed
        processor.kill()
        assert await processor.ended() == -signal.SIGKILL  # heard when the last of them has gone
        assert processor.lines[-1]["event"] == "processor.stopped"


def test_what_cannot_be_reloaded_is_refused(tmp_path: Path) -> None:
    """With --once, without an app, without a folder to watch: exit code 2 and a sentence."""
    run = commands.Hookd(tmp_path, {"HOOKD_DATABASE_URL": NOWHERE})
    for arguments, said in (
        (("processor", "--app", "app.py", "--once", "--reload"), "--once or --reload, not both"),
        (("processor", "--reload"), "no app: name your handlers"),
        (("processor", "--app", "no/where.py", "--reload"), f"there is no folder {tmp_path / 'no'}"),
        (("up", "--port", "0", "--reload"), "nothing of yours to watch"),
    ):
        done = run(*arguments)
        assert (done.code, said in done.err) == (2, True), done.err


@pytest.mark.parametrize("command", ["processor", "up"])
def test_watchfiles_is_an_extra(tmp_path: Path, command: str) -> None:
    """Where it is not installed --reload says how to install it; nothing else misses it."""
    program = "import sys; sys.modules['watchfiles'] = None; from hookd.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, command, "--app", "app.py", "--reload"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "HOOKD_DATABASE_URL": NOWHERE}, capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--reload needs watchfiles: pip install 'hookd[reload]'" in done.stderr
