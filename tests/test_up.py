"""`hookd up`: everything on this machine, from one command, and nothing of it left behind."""

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any
from urllib.request import Request, urlopen

import orjson
import pytest

from tests.commands import Hookd

pytestmark = [pytest.mark.any_server, pytest.mark.unmeasured]  # hookd up brings its own server

PATIENCE_SECONDS = 60.0
LOOKS_SECONDS = 0.1  # between two looks: each is a command that is run, or at every process there is
AN_APP = """
import asyncio
import hookd

@hookd.on("demo")
async def count(event: hookd.Event) -> None:
    print(len(event.body), flush=True)
    if event.body == b"forever":
        await asyncio.Event().wait()
"""
BROKEN = "import hookd\nimport nothing_of_that_name\n"
A_REPLY = """
import hookd

@hookd.webhook(reply=True)
def lamp(payload):
    return "{}"
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every account may enter, as the folders above /var/lib/hookd are. (pytest's own are closed.)"""
    with tempfile.TemporaryDirectory(prefix="hookd-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)
        for pid_file in Path(name).glob("*/postgres/postmaster.pid"):
            os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)


@pytest.fixture
def hookd(place: Path, tmp_path: Path) -> Hookd:
    return Hookd(tmp_path, {"HOOKD_DATA_DIR": str(place / "data"), "HOOKD_LOG_FORMAT": "json"})


@dataclass
class Up:
    """A running `hookd up`: what it printed, and what it and its children log."""

    process: subprocess.Popen[str]
    url: str
    log: "Queue[dict[str, Any] | None]"
    passed: list[dict[str, Any]] = field(default_factory=list)

    def next(self, event: str, **facts: Any) -> dict[str, Any]:
        """The first line of the log that tells of such an event, and was not taken yet.

        (A child may say that it has started before its supervisor says that it was.)
        """
        for line in self._lines():
            if line["event"] == event and facts.items() <= line.items():
                self.passed.remove(line)
                return line
        said = ", ".join(str(line["event"]) for line in self.passed)
        raise AssertionError(f"it ended, or fell silent, without {event}: {said}")

    def _lines(self) -> Iterator[dict[str, Any]]:
        yield from [*self.passed]
        with contextlib.suppress(Empty):
            while line := self.log.get(timeout=PATIENCE_SECONDS):
                self.passed.append(line)
                yield line

    def post(self, body: bytes) -> str:
        """Send a webhook; its id."""
        return str(orjson.loads(self.answer("/demo", body))["id"])

    def answer(self, path: str, body: bytes = b"") -> bytes:
        """Send a webhook; what it is answered."""
        with urlopen(Request(self.url + path, data=body), timeout=PATIENCE_SECONDS) as answer:
            return bytes(answer.read())

    def ended(self) -> int:
        while self.log.get(timeout=PATIENCE_SECONDS) is not None:
            pass
        return self.process.wait(PATIENCE_SECONDS)


@contextlib.contextmanager
def up(hookd: Hookd, *arguments: str) -> Iterator[Up]:
    with hookd.start("up", "--port", "0", *arguments) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        log: Queue[dict[str, Any] | None] = Queue()
        listening = threading.Thread(target=listen, args=(process.stderr, log))
        listening.start()
        try:
            yield Up(process, re.findall(r"webhooks at (http://[0-9.:]+)", greeting(process.stdout))[0], log)
        finally:
            if process.poll() is None:
                process.kill()
            listening.join()


def greeting(printed: IO[str]) -> str:
    """What it prints before anything happens."""
    return "".join(itertools.takewhile(lambda line: line != "Ctrl-C stops everything.\n", printed))


def listen(stream: Any, log: "Queue[dict[str, Any] | None]") -> None:
    for line in stream:
        log.put(orjson.loads(line) if line.startswith("{") else {"event": line})
    log.put(None)


def processes(place: Path) -> list[str]:
    """Who uses that data folder, by their environment or command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            if os.fsencode(place) in words and folder.name != str(os.getpid()):
                found.append((folder / "cmdline").read_bytes().decode())
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(LOOKS_SECONDS)


def processed(hookd: Hookd) -> list[dict[str, object]]:
    """The events that were."""
    return hookd("events", "--status", "processed", "--json").json


def is_stopped(place: Path) -> bool:
    return not (place / "data" / "postgres" / "postmaster.pid").exists()


REPLIES = """
import hookd

@hookd.on("demo", reply=True)
async def reply(event: hookd.Event) -> dict[str, str]:
    return {"id": "of the handler's own"}
"""


def test_one_command_is_all_it_takes(hookd: Hookd, place: Path, tmp_path: Path) -> None:
    """A POST to a fresh `hookd up` is processed, and events, event, status and psql show it; Ctrl-C stops everything,
    and the next start finds the rows. That one has an app: its replies are the receiver's answers, and its handler
    takes what comes and what is replayed.
    """
    (tmp_path / "app.py").write_text(REPLIES)
    with up(hookd) as running:
        event_id = running.post(b'{"hello":"world"}')
        assert running.next("event.shown", id=event_id)["body"] == '{"hello":"world"}'
        until(lambda: bool(hookd("events", "--status", "processed", "--json").out))
        [listed] = hookd("events", "--json").json
        assert (listed["id"], listed["state"], listed["source"], listed["attempts"]) == (
            event_id,
            "processed",
            "demo",
            1,
        )
        assert '\n  {"hello":"world"}\n' in hookd("event", event_id).out
        [standing] = hookd("status", "--json").json
        assert standing["sources"] == {
            "demo": dict.fromkeys(("waiting", "retrying", "running", "parked", "failed"), 0) | {"processed": 1}
        }
        assert hookd("psql", "-XAtc", "SELECT status FROM events").out == "processed\n"
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.ended() == 0
    assert is_stopped(place)
    assert processes(place) == []
    with up(hookd, "--app", "app.py") as running:
        assert [each["id"] for each in hookd("events", "--json").json] == [event_id]
        assert hookd("replay", event_id).out == "replayed 1 event\n"
        assert running.post(b"{}") == "of the handler's own"
        until(lambda: len(processed(hookd)) == 2)
        running.process.terminate()
        assert running.ended() == 0
    assert is_stopped(place)


async def test_it_says_where_to_post_and_how_to_look(hookd: Hookd, database_url: str, tmp_path: Path) -> None:
    """It prints a curl line that works as it stands, and the commands to look."""
    (tmp_path / "handlers.py").write_text(AN_APP)
    hookd = hookd.having(HOOKD_DATABASE_URL=database_url, HOOKD_PREFIX="/hooks")
    with hookd.start("up", "--port", "0", "--app", "handlers.py") as process:
        assert process.stdout is not None
        printed = greeting(process.stdout)
        assert "keeps them in HOOKD_DATABASE_URL\nhandlers: handlers.py\n" in printed
        [curl] = re.findall(r"^  (curl -d '[^']+' http://127\.0\.0\.1:\d+/hooks/demo)$", printed, re.MULTILINE)
        assert "  hookd status\n  hookd events\n" in printed
        answer = subprocess.run(["sh", "-c", f"{curl} -sS"], capture_output=True, check=True)  # noqa: ASYNC221
        assert answer.stdout.startswith(b'{"id"')
        assert process.stdout.readline() == "17\n"
        process.terminate()
        process.communicate()
    assert process.returncode == 0


async def test_a_killed_child_is_restarted(hookd: Hookd, database_url: str, place: Path) -> None:
    """Receivers and processor are started again after a kill -9, and work.

    With HOOKD_DATABASE_URL it uses that database, and starts none. A closed terminal ends it as Ctrl-C does.
    """
    with up(hookd.having(HOOKD_DATABASE_URL=database_url), "--workers", "2") as running:
        names = ("receiver 1", "receiver 2", "processor")
        first = {name: running.next("child.started", child=name)["pid"] for name in names}
        running.next("processor.started")
        for name, pid in first.items():
            os.kill(pid, signal.SIGKILL)
            assert running.next("child.died", child=name)["signal"] == "SIGKILL"
            assert running.next("child.started", child=name)["pid"] != pid
        event_id = running.post(b"again")
        assert running.next("event.shown", id=event_id)
        running.process.send_signal(signal.SIGHUP)
        assert running.ended() == 0
    assert not (place / "data").exists()


async def test_a_change_of_the_app_is_taken_up(hookd: Hookd, database_url: str, tmp_path: Path) -> None:
    """With --reload a file that is saved is what runs; while it does not import the receiver goes on, events wait.

    Senders are answered as the saved file says, from its first reply on; while it does not import they have the usual
    answer.
    """
    app = tmp_path / "handlers.py"
    app.write_text(BROKEN)
    here = hookd.having(HOOKD_DATABASE_URL=database_url)

    def answered(code: str) -> bytes:
        """The answer after that was saved, once the receiver from before has ended."""
        app.write_text(code)
        running.next("child.stopped", child="receiver 1")
        return running.answer("/lamp")

    with up(here, "--app", "handlers.py", "--reload") as running:
        running.next("reload.waiting")
        running.post(b"kept")
        app.write_text(AN_APP)
        running.next("reload.changed", files="handlers.py")
        running.next("processor.started")
        until(lambda: len(processed(here)) == 1)
        assert answered(A_REPLY.format("one")) == b"one"
        assert answered(BROKEN).startswith(b'{"id"')
        assert answered(A_REPLY.format("again")) == b"again"
        until(lambda: len(processed(here)) == 4)
        running.process.terminate()
        assert running.ended() == 0


def test_nothing_outlives_a_kill(hookd: Hookd, place: Path, tmp_path: Path) -> None:
    """After a kill -9 of `hookd up` its children end by themselves, and the last of them stops the server.

    At the next start, while a handler holds the stop up, a second Ctrl-C ends everything at once, the server included.
    """
    (tmp_path / "handlers.py").write_text(AN_APP)
    with up(hookd) as running:
        event_id = running.post(b"kept")
        running.next("event.shown", id=event_id)
        running.process.kill()
        assert running.ended() == -signal.SIGKILL
    until(lambda: not processes(place))  # nobody else can wait for orphans
    assert is_stopped(place)
    hookd = hookd.having(HOOKD_GRACE_SECONDS="600", HOOKD_HANDLER_TIMEOUT_SECONDS="900")
    with up(hookd, "--app", "handlers.py") as running:
        running.post(b"forever")
        until(lambda: bool(hookd("events", "--status", "running", "--json").out))
        running.process.send_signal(signal.SIGINT)
        running.next("processor.stopping")
        running.process.send_signal(signal.SIGINT)
        assert running.ended() == 0
    assert is_stopped(place)
    assert processes(place) == []


def test_a_port_that_is_taken_is_one_line(hookd: Hookd, place: Path) -> None:
    """A taken port ends it with 1 and one line, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = hookd("up", "--port", str(taken.getsockname()[1]))
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "Another program serves port" in done.err
    assert not (place / "data").exists()


async def test_a_wrong_app_ends_everything(hookd: Hookd, database_url: str, place: Path) -> None:
    """An app that does not exist is wrong usage: said once, and nothing goes on."""
    done = hookd.having(HOOKD_DATABASE_URL=database_url)("up", "--port", "0", "--app", "nowhere.py")
    assert done.code == 2
    assert done.err.count("there is no file") == 1
    assert processes(place) == []


def test_a_database_that_is_away_is_one_line(hookd: Hookd) -> None:
    """Without its database it ends with 1 and one line."""
    done = hookd.having(HOOKD_DATABASE_URL="postgresql://127.0.0.1:1/nowhere")("up", "--port", "0")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "PostgreSQL cannot be reached" in done.err


def test_a_stop_while_it_starts_leaves_nothing(hookd: Hookd, place: Path) -> None:
    """SIGTERM while the database is being made stops that too."""
    with hookd.start("up", "--port", "0") as process:
        until((place / "data" / "lock").exists)
        process.terminate()
        process.communicate()
    assert process.returncode == -signal.SIGTERM
    until(lambda: not processes(place))  # nobody else can wait for orphans
    assert is_stopped(place)
