"""A process that has imported every command, and forks one for each line it reads: half a second less for each.

A line is JSON: arguments, folder, environment, the files for both outputs, and another program where it is not the
command. Two lines answer it: the process's number, and how it ended. All else is as in a process of its own, which the
child is.
"""

import contextlib
import gc
import importlib
import json
import os
import sys

from hookd import cli

# Asked for by commands when they run.
LATER = ("asyncpg", "cryptography.fernet", "ingest.server", "migrations.upgrade", "processor.daemon", "rich.table")


def serve() -> dict[str, object] | None:
    """Until nobody writes any more; in a child what was asked, which it then is."""
    for line in sys.stdin:
        asked: dict[str, object] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(asked)
            return asked
        answer(pid)
        _, status = os.waitpid(pid, 0)
        answer(os.waitstatus_to_exitcode(status))
    return None


def answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def become(asked: dict[str, object]) -> None:
    os.chdir(str(asked["folder"]))
    os.environ.clear()
    os.environ.update(asked["environment"])  # type: ignore[call-overload]
    sys.argv = ["hookd", *asked["arguments"]]  # type: ignore[misc]
    inputs = os.open(os.devnull, os.O_RDONLY)
    outputs = [os.open(str(asked[name]), os.O_WRONLY | os.O_APPEND) for name in ("out", "err")]
    for target, source in enumerate((inputs, *outputs)):
        os.dup2(source, target)
        os.close(source)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)


if __name__ == "__main__":
    for name in (*LATER, *(f"hookd.commands.{command}" for command in cli.COMMANDS)):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    gc.freeze()  # else each child would look through all of it as it ends
    if (asked := serve()) is not None:
        if "program" in asked:
            exec(str(asked["program"]), {"__name__": "__main__"})
        else:
            cli.main()
