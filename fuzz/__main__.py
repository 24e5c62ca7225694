"""`python -m fuzz`: give every parser whatever bytes lead it somewhere new, for a bounded time.

A target fails when it raises what its docstring does not name, takes 20 s for one input, or 1 GiB.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzz.targets import all_targets

SECONDS = 60
START_SECONDS_MAX = 60  # to import and instrument, and to end an input that hangs
LAST_LINES = 40
EXCEPTION = re.compile(r"=== Uncaught Python exception: ===\n(.*?)\n\n==", re.DOTALL)
RUNS = re.compile(r"number_of_executed_units: (\d+)")


@dataclass(frozen=True)
class Found:
    """What came of a target. `breaking` is the input that broke it, as hexadecimal digits."""

    name: str
    runs: int
    words: str
    breaking: str | None


def main(arguments: Sequence[str] | None = None) -> int:
    given = parsed(arguments)
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install --group fuzz", file=sys.stderr)
        return 2
    if given.input is not None:
        return again(given.target[0], given.input)
    seconds = max(given.seconds // len(given.target), 1)
    broken = 0
    try:
        for name in given.target:
            found = fuzz(name, seconds)
            print(in_words(found, seconds), flush=True)
            broken += found.breaking is not None
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"the fuzzer itself does not run: {error}", file=sys.stderr)
        return 2
    return int(broken > 0)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = list(all_targets())
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m fuzz --seconds 30 content.form",
    )  # fmt: skip
    parser.add_argument("target", nargs="*", metavar="TARGET", help=f"{', '.join(names)}; default: all")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="in all, shared by the targets; default: 60")
    parser.add_argument("--input", type=bytes.fromhex, metavar="HEX", help="give the one target this input, once")
    given = parser.parse_args(arguments)
    if unknown := set(given.target) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if given.input is not None and len(given.target) != 1:
        parser.error("--input is for one target")
    given.target = given.target or names
    return given


def fuzz(name: str, seconds: int) -> Found:
    """Raises RuntimeError where the fuzzer itself does not run."""
    with tempfile.TemporaryDirectory(prefix="hookd-fuzz-") as folder:
        command = (sys.executable, "-m", "fuzz.engine", name, str(seconds), folder)
        ended = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds + START_SECONDS_MAX, check=False
        )
        words = ended.stdout.decode(errors="replace")
        left = [path for path in Path(folder).iterdir() if not path.name.startswith("slow-unit")]
        breaking = [path.read_bytes().hex() for path in left]
    runs = RUNS.search(words)
    if not breaking and (ended.returncode != 0 or runs is None):
        raise RuntimeError(f"it ended with {ended.returncode}: {story_of(words)}")
    return Found(name, int(runs[1]) if runs else 0, words, breaking[0] if breaking else None)


def in_words(found: Found, seconds: int) -> str:
    if found.breaking is None:
        return f"{found.name:24} holds: {found.runs:,} inputs in {seconds} s"
    return (
        f"{story_of(found.words)}\n{found.name:24} BREAKS; again with:\n"
        f"  python -m fuzz --input {found.breaking or repr('')} {found.name}"
    )


def story_of(words: str) -> str:
    """The exception; of a hang, or of an end without one, the last words."""
    told = EXCEPTION.search(words)
    return told[1] if told else "\n".join(words.splitlines()[-LAST_LINES:])


def again(name: str, data: bytes) -> int:
    """Let the exception tell its own story."""
    from fuzz.engine import entry  # noqa: PLC0415 - imports atheris

    entry(name)(data)
    print(f"{name:24} holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
