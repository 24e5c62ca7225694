"""The specification: what hookd promises, kept while its processes are killed."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from chassis.database import Connection, Database
from chassis.embedded import Embedded
from migrations.upgrade import upgrade
from rig import hookd as bare
from rig.hookd import Hookd
from rig.load import Load
from tests.born import hookd
from tests.breaking import Proxy
from tests.factories import events
from tests.needs import needs
from tests.processing import Handled, Watch, processing
from tests.receiving import hookd_ingest
from tests.registering import a_source, sent, wire

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]

APART = ("unshare", *(() if os.geteuid() == 0 else ("--user", "--map-current-user")), "--net", "--ipc")

APP = """
import os, hookd

@hookd.on("*")
async def note(event):
    with open(os.path.join(os.path.dirname(__file__), "handled"), "a") as handled:
        handled.write(f"{event.id}\\n")
"""


def may_be_apart() -> bool:
    return (
        bool(shutil.which(APART[0]))
        and not subprocess.run((*APART, "true"), check=False, capture_output=True).returncode
    )


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app that writes down each event it handled."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path / "app.py"


async def url_of(receiver: Hookd) -> str:
    return str((await receiver.logged("ingest.listening"))["url"])


async def after_answers(load: Load, count: int) -> None:
    """Return once the load has had so many more answers."""
    enough = len(load.answered) + count
    async with asyncio.timeout(30):
        while len(load.answered) < enough:  # noqa: ASYNC110 - the load tells nobody
            await asyncio.sleep(0.01)


async def unsettled(connection: Connection) -> int:
    count: int = await connection.fetchval("SELECT count(*) FROM hookd.events WHERE status = 'new'")
    return count


async def until_settled(connection: Connection) -> None:
    async with asyncio.timeout(60):
        while await unsettled(connection):  # noqa: ASYNC110 - the table tells nobody
            await asyncio.sleep(0.05)


async def test_a_killed_receiver_loses_nothing_it_answered(database_url: str, connection: Connection) -> None:
    """A webhook answered with 2xx is a committed row, also when the receiver is killed with -9 under load."""
    stop = asyncio.Event()
    port = "0"
    load: Load | None = None
    sending: asyncio.Task[None] | None = None
    for _ in range(3):
        async with hookd("ingest", "--port", port, database_url=database_url) as receiver:
            url = await url_of(receiver)
            port = url.rpartition(":")[2]
            load = load or Load(url)
            sending = sending or asyncio.create_task(load.run_until(stop))
            await after_answers(load, 200)
            receiver.kill()
    stop.set()
    assert load is not None
    assert sending is not None
    await sending
    assert load.cut > 0
    await load.assert_stored(connection)


async def test_what_was_committed_and_not_answered_is_handled_once(
    database_url: str, database: Database, connection: Connection, handled: Handled
) -> None:
    """A row whose receiver was killed before it answered is handled; what its sender sends again is its duplicate."""
    await a_source(connection, "github")
    delivery = wire(replace(sent("github"), target="/github"))
    async with Proxy(database_url) as proxy, hookd_ingest(proxy.url) as receiver:
        sender = await receiver.sender()
        proxy.swallow(b"COPY 1\0")
        await sender.send(delivery)
        await asyncio.wait_for(proxy.swallowed.wait(), 30)
        receiver.hookd.kill()
        assert await sender.rest() == b""
    async with hookd_ingest(database_url) as receiver:
        retry = (await receiver.ask(delivery)).id
    async with processing(database, handled.note):
        settled = await (await Watch.over(connection)).settled()
    (first,) = settled.keys() - {retry}
    assert handled.ids == [first]
    assert settled == {first: ("processed", None), retry: ("processed", f"duplicate of {first}")}


@needs(may_be_apart(), f"`{' '.join(APART)}` is not allowed here")
async def test_receiver_and_processor_share_nothing_but_the_database(
    database_url: str, connection: Connection, app: Path, tmp_path: Path
) -> None:
    """As on two machines, no network, memory, folder or setting is common to both; and both do their work."""
    rooms = [room_of_its_own(tmp_path / name) for name in ("receiver", "processor")]
    async with (
        bare.hookd("ingest", "--port", "0", database_url=database_url, **rooms[0]) as receiver,
        bare.hookd("processor", "--app", str(app), database_url=database_url, within=APART, **rooms[1]) as processor,
    ):
        await processor.logged("processor.started")
        for kind in ("net", "ipc"):
            assert namespace_of(processor, kind) != namespace_of(receiver, kind)
        load, stop = Load(await url_of(receiver)), asyncio.Event()
        sending = asyncio.create_task(load.run_until(stop))
        await after_answers(load, 50)
        stop.set()
        await sending
        await until_settled(connection)
        assert (await receiver.stop(), await processor.stop()) == (0, 0)
    await load.assert_stored(connection)
    assert len((app.parent / "handled").read_text().split()) == len(load.answered)
    assert [list(room["cwd"].iterdir()) for room in rooms] == [[], []]


def room_of_its_own(folder: Path) -> dict[str, Any]:
    """Where a process runs, and has its home and whatever it may write of its own accord."""
    folder.mkdir()
    names = ("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR")
    return {"cwd": folder, "environment": dict.fromkeys(names, str(folder))}


def namespace_of(process: Hookd, kind: str) -> str:
    return os.readlink(f"/proc/{process.process.pid}/ns/{kind}")


async def test_a_killed_worker_loses_nothing_it_answered(database_url: str, connection: Connection) -> None:
    """With two workers, one that is killed with -9 is replaced, and no answered webhook is lost."""
    async with hookd("ingest", "--port", "0", "--workers", "2", database_url=database_url) as receiver:
        load, stop = Load(await url_of(receiver)), asyncio.Event()
        sending = asyncio.create_task(load.run_until(stop))
        for death in range(1, 4):
            await after_answers(load, 100)
            os.kill((await receiver.logged("child.started", death))["pid"], signal.SIGKILL)
            await receiver.logged("child.died", death)
        await after_answers(load, 100)
        stop.set()
        await sending
        assert await receiver.stop() == 0
    await load.assert_stored(connection)


async def test_a_killed_processor_leaves_nothing_unsettled(
    database_url: str, connection: Connection, app: Path
) -> None:
    """An event leaves `new` for processed or failed, also when its processor is killed with -9 in the middle."""
    ids = await events(connection, 300, source="demo")
    for _ in range(3):
        async with hookd("processor", "--app", str(app), database_url=database_url) as processor:
            await processor.logged("processor.started")
            processor.kill()
        # What the dead one held would be claimed when its lease has run out: it has.
        await connection.execute("UPDATE hookd.events SET due_at = now() WHERE held_by IS NOT NULL")
    async with hookd("processor", "--app", str(app), database_url=database_url) as processor:
        await until_settled(connection)
        assert await processor.stop() == 0
    settled = await connection.fetch("SELECT status, reason FROM hookd.events")
    assert {tuple(row) for row in settled} == {("processed", None)}
    handled = (app.parent / "handled").read_text().split()
    assert set(handled) == {str(event_id) for event_id in ids}


@pytest.fixture
async def own_server() -> AsyncIterator[tuple[Path, str]]:
    """A server that this test may kill: its folder, and the URL of its migrated database."""
    folder = Path(tempfile.gettempdir()) / f"hookd-promises-{uuid4().hex[:12]}"
    with Embedded(folder).serve() as url:
        database = Database(url)
        await asyncio.to_thread(upgrade, lambda: database.connect("migrate"), lambda: None)
        yield folder, url
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_killed_postgres_loses_nothing_that_was_answered(own_server: tuple[Path, str], app: Path) -> None:
    """PostgreSQL killed with -9 under load loses no answered webhook, and both processes go on without a restart."""
    folder, url = own_server
    async with (
        hookd("ingest", "--port", "0", data_dir=str(folder)) as receiver,
        hookd("processor", "--app", str(app), data_dir=str(folder)) as processor,
    ):
        load, stop = Load(await url_of(receiver)), asyncio.Event()
        await processor.logged("processor.started")
        sending = asyncio.create_task(load.run_until(stop))
        for _ in range(2):
            await after_answers(load, 300)
            os.kill(int((folder / "postgres/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        await after_answers(load, 300)
        stop.set()
        await sending
        connection: Connection = await asyncpg.connect(url)
        try:
            await connection.execute("UPDATE hookd.events SET due_at = now() WHERE held_by IS NOT NULL")
            await until_settled(connection)
            await load.assert_stored(connection)
        finally:
            await connection.close()
        assert await processor.stop() == 0
        assert await receiver.stop() == 0
    assert load.statuses.keys() <= {200, 503}
