"""What a figure depends on: the machine and its versions; and what a process has used of it, from /proc (Linux)."""

import importlib.metadata
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
KIB = 1024
MIB = 1024 * 1024
FSYNCS = 50


def settings(folder: Path) -> dict[str, str]:
    """What to print beside every figure. `folder` is where PostgreSQL writes."""
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / MIB / 1024:.0f} GiB",
        "disk": f"{_file_system(folder)}, fdatasync of 8 KiB {_fsync_ms(folder):.2f} ms (median of {FSYNCS})",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "libraries": ", ".join(
            f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp", "asyncpg", "uvloop")
        ),
    }


def load_average() -> str:
    """Of one, five and fifteen minutes: more than a little of it before the start, and the figures are poor."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def fsyncs(folder: Path, count: int, pause_seconds: float = 0) -> list[float]:
    """How many milliseconds each fdatasync of 8 KiB takes: what a commit waits for, and no durable receiver is faster.

    In a file that has its blocks already, as PostgreSQL's WAL has.
    """
    taken = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(bytes(count * 8 * KIB))
        os.fsync(file.fileno())
        for number in range(count):
            time.sleep(pause_seconds)
            os.pwrite(file.fileno(), os.urandom(8 * KIB), number * 8 * KIB)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1000)
    return taken


def _fsync_ms(folder: Path) -> float:
    return statistics.median(fsyncs(folder, FSYNCS))


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", (PROC / "cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _file_system(folder: Path) -> str:
    """The type of the longest mount point above the folder; on tmpfs no figure of this benchmark would be durable."""
    mounts = (line.split() for line in (PROC / "mounts").read_text().splitlines())
    above = [(mount[1], mount[2]) for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(above, key=lambda each: len(each[0]))[1]


def busy_seconds() -> float:
    """What all processors together have spent on anything, since the machine was started."""
    user, nice, system, _, _, interrupts, soft, stolen = map(int, (PROC / "stat").read_text().split()[1:9])
    return (user + nice + system + interrupts + soft + stolen) / TICKS


class Others:
    """How much of the machine went to processes that are not ours (`roots`, and all below them)."""

    def __init__(self, *roots: int) -> None:
        self._roots = roots
        self._began, self._others = time.monotonic(), self._seconds()

    def percent(self) -> float:
        """Of all processors' time, since this was made."""
        elapsed = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return max(0.0, (self._seconds() - self._others) / elapsed * 100)

    def _seconds(self) -> float:
        return busy_seconds() - sum(map(cpu_seconds, self._roots))


def cpu_seconds(root: int) -> float:
    """User and system time of a process and all below it, those that have ended included."""
    return sum(sum(map(int, _stat(pid)[11:15])) for pid in tree(root)) / TICKS


def resident_mib(root: int) -> float:
    """What a process and all below it hold in memory now."""
    return sum(_status(pid, "VmRSS") for pid in tree(root)) / KIB


def peak_mib(root: int) -> float:
    """The most each of them ever held."""
    return sum(_status(pid, "VmHWM") for pid in tree(root)) / KIB


def lives(pid: int) -> bool:
    """Whether the process runs. An orphan that died does not, though nobody may have waited for it yet."""
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def tree(root: int) -> Iterator[int]:
    """The process, its children, theirs, and so on; those too that died and were not waited for, whose time counts."""
    children: dict[int, list[int]] = {}
    for pid in (int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()):
        if stat := _stat(pid):
            children.setdefault(int(stat[1]), []).append(pid)
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if _stat(pid):
            yield pid
        waiting += children.get(pid, ())


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5) numbers it 3); none for a process that is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _status(pid: int, name: str) -> int:
    """A line of /proc/PID/status, in KiB."""
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", (PROC / str(pid) / "status").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) if found else 0
