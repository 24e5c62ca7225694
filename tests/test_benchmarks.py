"""The benchmarks run from end to end, lose nothing, tell the truth about targets, and leave nothing behind."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import document, gate, plots, profile, report
from benchmarks.receiver import Run, missing
from benchmarks.wrk import Load
from rig import machine, sample
from rig.processes import BenchmarkError
from tests.needs import needs

pytestmark = pytest.mark.unmeasured

ROOT = Path(__file__).parents[1]
SECONDS_MAX = 180
TINY = (
    *("--quick", "--rounds", "1", "--seconds", "1", "--warm-seconds", "0", "--wal-segments", "2"),
    *("--events", "600", "--backlog", "600", "--connections", "20"),
)

needs_wrk = needs(shutil.which("wrk") is not None, "wrk is not installed")
needs_linux = needs(sys.platform == "linux", "the benchmarks read /proc")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below pytest's own folder, which is 0700: as root the server runs as another user."""
    with tempfile.TemporaryDirectory(prefix="hookd-tests-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A run of seconds. It is interrupted when the block ends before it does."""
    command = (sys.executable, "-m", "benchmarks", *TINY, *arguments)
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=SECONDS_MAX)


def figures(tmp_path: Path, *names: str) -> tuple[str, dict[str, Any]]:
    """What a run prints, and what it writes."""
    file = tmp_path / "figures.json"
    with started(*names, "--json", str(file)) as process:
        printed, said = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, printed + said
    return printed, json.loads(file.read_text())


@needs_linux
@needs_wrk
def test_receiver_figures(tmp_path: Path) -> None:
    """The receiver is measured beside its two rivals, and every answered id is found in the table.

    It is with fifty sources registered and with none, in turn, in one run; the ratio has its target.
    """
    printed, written = figures(tmp_path, "receiver", "sources")
    receiver, sources = written["sections"]
    for section in (receiver, sources):
        assert section["wrong"] == []
        assert all(value > 0 for figure in section["figures"] for value in figure["values"])
    assert "durable requests/s ÷ answers without storing" in printed
    assert [figure["target"] is not None for figure in receiver["figures"]].count(True) == 3
    assert [figure["name"] for figure in sources["figures"] if figure["target"]] == [
        "requests/s, 50 registered ÷ none registered"
    ]


@needs_linux
def test_other_figures(tmp_path: Path) -> None:
    """Drain, latency and memory are measured without wrk, in one run, each event handled once and processed.

    So are handlers that write apart and with their event, and claims beside a held snapshot; each row is written once.
    """
    printed, written = figures(tmp_path, "drain", "latency", "memory", "effects")
    assert [section["wrong"] for section in written["sections"]] == [[], [], [], []]
    assert {"CPU", "kernel", "Python", "PostgreSQL", "load average at the start"} <= written["machine"].keys()
    assert "fsync on, synchronous_commit on" in written["machine"]["PostgreSQL"]
    assert "POST → handler started p95" in printed
    assert "processor's peak, backlog of 600" in printed
    effects = written["sections"][-1]
    # (Of so few events the kernel may count no CPU time at all: it counts in hundredths of a second.)
    assert all(value > 0 for each in effects["figures"] if each["unit"] != "µs" for value in each["values"])
    assert sum("from the watermark on" in figure["name"] for figure in effects["figures"]) == 5


@needs_linux
def test_ctrl_c_leaves_nothing_behind(folder: Path) -> None:
    """Ctrl-C ends the run, all it started, and its folder; the exit code is 130."""
    with started("latency", "--seconds", "60", "--folder", str(folder)) as process:
        assert process.stderr is not None
        assert "200 a second" in process.stderr.readline()
        (postmaster,) = folder.glob("*/postgres/postmaster.pid")
        ours = [*machine.tree(process.pid), *machine.tree(int(postmaster.read_text().splitlines()[0]))]
        assert len(ours) >= 8  # a receiver, a processor, PostgreSQL's own and their connections
    assert process.returncode == 130
    assert not any(map(machine.lives, ours))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("value", "verdict"), [(0.65, "ok"), (0.649, "MISSED")])
def test_a_figure_below_its_target_says_so(value: float, verdict: str) -> None:
    """A figure meets its target exactly, or misses it by the least bit."""
    figure = report.Figure("ratio", "×", [0.1, value, 9.0], report.Target("≥", 0.65))
    assert figure.verdict == verdict
    section = report.Section("Title", "Method.", [figure])
    assert verdict in report.markdown({"CPU": "any"}, [section])
    assert section.missed == (["ratio"] if verdict == "MISSED" else [])


def test_what_is_compared_stands_side_by_side() -> None:
    """A line for each who was measured and a column for each what, by circumstances; ratios and aims have their own."""
    section = report.Section(
        "Title",
        "Method.",
        [
            report.Figure("64 connections: hookd ÷ other", "×", [2.0]),
            report.Figure("64 connections: hookd: requests/s", "/s", [1000.0, 1200.0, 1100.0]),
            report.Figure("64 connections: other: requests/s", "/s", [550.0]),
            report.Figure("64 connections: hookd: p99", "ms", [6.7]),
            report.Figure("1 connection: hookd: p99", "ms", [0.62], report.Target("≤", 1)),
        ],
    )
    assert report.body(section).splitlines()[2:] == [
        "|                               | median  | least – most | target |     |",
        "| ----------------------------- | ------- | ------------ | ------ | --- |",
        "| 64 connections: hookd ÷ other | 2.00 ×  |              |        |     |",
        "| 1 connection: hookd: p99      | 0.62 ms |              | ≤ 1 ms | ok  |",
        "",
        "| 64 connections | requests/s          | p99, ms |",
        "| -------------- | ------------------- | ------- |",
        "| hookd          | 1,100 (1,000–1,200) | 6.70    |",
        "| other          | 550                 |         |",
    ]


@pytest.mark.parametrize(("stored", "is_wrong"), [(999, True), (1000, False), (1128, False), (1129, True)])
def test_a_run_that_loses_is_none(stored: int, is_wrong: bool) -> None:
    """Each answer of 2xx is a row; more rows than were in flight when the load ended would be wrong as well."""
    load = Load(requests=1000, seconds=1, refused=0, broken=0, p50_ms=1, p99_ms=2)
    assert bool(missing("hookd", Run(load, 1.0, 1.0, acknowledged=1000, stored=stored))) is is_wrong


def test_the_document_keeps_its_words(tmp_path: Path) -> None:
    """A section takes the place of the old one with its title, the others stay, and so does what stands around."""
    file = tmp_path / "benchmarks.md"
    file.write_text(f"# Benchmarks\n\nBefore.\n\n{document.BEGIN}\n\nold\n\n{document.END}\n\nAfter.\n")
    document.write("a machine", {"One": "| 1 |", "Two": "| 2 |"}, file)
    document.write("another", {"One": "| 1.1 |"}, file)
    figures = "another\n\n## One\n\n| 1.1 |\n\n## Two\n\n| 2 |"
    assert file.read_text() == (
        f"# Benchmarks\n\nBefore.\n\n{document.BEGIN}\n\n{figures}\n\n{document.END}\n\nAfter.\n"
    )


def test_the_gate_compares_with_the_document() -> None:
    """The committed medians of both ratios can be read from docs/benchmarks.md; one that is missing is said."""
    words = document.FILE.read_text()
    assert all(0.3 < gate.median_of(words, name) < 1.2 for name in gate.RATIOS)
    with pytest.raises(BenchmarkError, match="no figure"):
        gate.median_of("", gate.RATIOS[0])


def test_figures_are_drawn(tmp_path: Path) -> None:
    """The same figures make the same picture, a bar for each."""
    section = report.Section("Receiver", "how", [report.Figure(name, "/s", [1.0, 2.0]) for name in ("hookd", "other")])
    first, again = (
        plots.draw([section], tmp_path) and (tmp_path / "benchmarks-receiver-s.svg").read_bytes() for _ in range(2)
    )
    assert first == again
    assert b"hookd" in first
    assert b"other" in first


def test_the_sample_is_a_kilobyte_of_json() -> None:
    """All figures are taken with 1 KiB of JSON."""
    assert len(sample.BODY) == 1024
    assert json.loads(sample.BODY)["type"] == "order.paid"


@pytest.mark.parametrize(
    ("stack", "owner"),
    [
        ("run (/a/uvloop/loop.c:1);receive (/b/ingest/receiver.py:2);dumps (/c/orjson.so)", "hookd"),
        ("run (/a/uvloop/loop.c:1);start (/a/aiohttp/web_protocol.py:3);malloc (/usr/lib/libc.so.6)", "aiohttp"),
        ("run (/a/uvloop/loop.c:1);copy (/a/asyncpg/protocol.c:4);write (/usr/lib/libc.so.6)", profile.TO_POSTGRESQL),
        ("run (/a/uvloop/loop.c:1);prepare (/b/ingest/connection.py:5);write (/usr/lib/libc.so.6)", profile.TO_SENDERS),
        ("main (/opt/python/main.c:6)", profile.ELSE),
    ],
)
def test_a_sample_counts_for_the_innermost_owner(stack: str, owner: str) -> None:
    """Of a stack the innermost frame that is somebody's; of a system call that moves bytes, whom they go to."""
    assert profile.owner(stack) == owner
    waiting = f"{stack};epoll_pwait (/usr/lib/libc.so.6)"
    assert profile.is_waiting(waiting)
    assert not profile.is_waiting(stack)
