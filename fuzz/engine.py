"""One target under atheris, in a process of its own: libFuzzer ends the process that it runs in.

The one module that imports atheris, which has wheels for Python 3.11 to 3.13 on Linux and macOS (x86).
"""

import sys
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore] # in a group of its own

from fuzz.making import make

WORDS = Path(__file__).parent / "words.dict"
INPUT_BYTES_MAX = 4096
INPUT_SECONDS_MAX = 20  # a target that takes longer hangs, however busy the machine
MEMORY_MIB_MAX = 1024


def main(name: str, seconds: str, folder: str) -> None:
    """Fuzz for so long; what breaks the target is left in the folder."""
    with atheris.instrument_imports():  # what a target imports when it is called is watched too
        options = (
            f"-max_total_time={seconds}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-timeout={INPUT_SECONDS_MAX}",
            f"-rss_limit_mb={MEMORY_MIB_MAX}",
            f"-dict={WORDS}",
            f"-artifact_prefix={folder}/",
            "-len_control=0",
            "-print_final_stats=1",
        )
        atheris.Setup([sys.argv[0], *options], entry(name))
        atheris.Fuzz()


def entry(name: str) -> Callable[[bytes], None]:
    """What libFuzzer calls with each input."""
    from fuzz.targets import all_targets, attempt  # noqa: PLC0415 - imports protocol/, which is to be instrumented

    target = all_targets()[name]

    def once(data: bytes) -> None:
        source = atheris.FuzzedDataProvider(data)
        attempt(target, {name: make(hint, source) for name, hint in target.parameters.items()})

    return once


if __name__ == "__main__":
    main(*sys.argv[1:])
