"""What handlers print and log, kept apart from what a command says of them."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO


@dataclass
class Output:
    """Lines, once the block has ended."""

    printed: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)


@contextmanager
def captured() -> Iterator[Output]:
    """Keep what is written to standard output and standard error, by threads and child processes too."""
    output = Output()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with _into(1, out.fileno()), _into(2, err.fileno()):
            yield output
        output.printed, output.logged = _lines(out), _lines(err)


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return file.read().decode(errors="backslashreplace").splitlines()


@contextmanager
def _into(stream: int, file: int) -> Iterator[None]:
    _flush()
    before = os.dup(stream)
    os.dup2(file, stream)
    try:
        yield
    finally:
        _flush()
        os.dup2(before, stream)
        os.close(before)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
