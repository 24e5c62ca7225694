"""A disk that is slow or full, a clock that is wrong: for one program, by a small library loaded before its own."""

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("interpose.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")


def library(folder: Path) -> Path:
    """The library, compiled into `folder` if it is not there yet. Raises CalledProcessError."""
    made = folder / "interpose.so"
    if not made.exists():
        options = ["-shared", "-fPIC", "-O2", "-o", str(made), str(SOURCE), "-ldl"]
        subprocess.run([COMPILER or "cc", *options], check=True, capture_output=True, text=True)
        made.chmod(0o755)
    return made


class Disk:
    """The disk of a program that was started with `environment`: as it is, until told otherwise."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "disk"
        self._file.write_bytes(bytes(8))
        self._file.chmod(0o644)
        with self._file.open("r+b") as file:
            self._place = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library(folder)), "INTERPOSE_DISK": str(self._file)}

    def slow(self, seconds: float) -> None:
        """Each fsync takes so much longer."""
        self._place[:4] = struct.pack("=I", round(seconds * 1000))

    def full(self, is_full: bool = True) -> None:
        """No file may grow."""
        self._place[4:] = struct.pack("=I", is_full)


def wrong_clock(folder: Path, seconds: float) -> dict[str, str]:
    """The environment in which a program's wall clock is so far ahead."""
    return {"LD_PRELOAD": str(library(folder)), "INTERPOSE_CLOCK_SECONDS": str(int(seconds))}
