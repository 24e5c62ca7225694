"""What docs/errbot.md shows is true: its handlers load, and each request has the answer that stands behind it."""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from chassis.database import Connection
from hookd.cli import COMMANDS, hookd
from tests.processing import an_app
from tests.receiving import Remote, hookd_ingest
from tests.waiting import PATIENCE_SECONDS, in_time

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]

DOCUMENT = (Path(__file__).parent.parent / "docs" / "errbot.md").read_text()


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


LINES = [line for block in fenced("sh") for line in block.splitlines()]
REQUESTS = [line for line in LINES if line.startswith("curl ")]


@pytest.fixture(scope="module")
async def receiver(url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Remote]:
    """A receiver with all handlers that the document shows."""
    app = an_app(tmp_path_factory.mktemp("errbot"), "\n".join(fenced("python")), "hooks.py")
    async with hookd_ingest(url, app=app, unknown_sources="reject") as receiver:
        yield receiver


async def test_every_request_is_answered_as_shown(receiver: Remote) -> None:
    """What stands behind a request is what comes back."""
    for line in REQUESTS:
        request, _, expected = line.rpartition("# ")
        command = shlex.split(request.replace("localhost:8080", f"127.0.0.1:{receiver.port}"))
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(PATIENCE_SECONDS):
            said, _ = await process.communicate()
        assert (line, said.decode()) == (line, expected)


async def test_broken_json_fails_the_event(receiver: Remote, table: Connection) -> None:
    """It is stored, and its reason says where it breaks."""
    event_id = (await receiver.post("/strict", b'{"a"')).id
    ask = "SELECT reason FROM hookd.events WHERE id = $1 AND status = 'failed'"
    reason = await in_time(lambda: table.fetchval(ask, event_id), lambda found: found is not None, PATIENCE_SECONDS)
    assert str(reason).startswith("the body is not JSON: ")


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("hookd ")])
def test_every_command_exists(line: str) -> None:
    """Each command and option that is shown exists."""
    _, name, *words = line.split()
    assert name in COMMANDS
    said = CliRunner().invoke(hookd, [name, "--help"]).output
    assert all(word in said for word in words if word.startswith("--"))
