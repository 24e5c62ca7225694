"""A process that has imported every command, and forks one for each that is asked for: half a second less for each.

What is asked comes through a socket: arguments, folder, environment, and another program where it is not the command,
in JSON; with it files for its input and both outputs, and one where two lines are told: the process's number, and how
it ended. All else is as in a process of its own, which the child is.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import NoReturn

from hookd import cli

# Asked for by commands when they run.
LATER = ("asyncpg", "cryptography.fernet", "ingest.server", "migrations.upgrade", "processor.daemon", "rich.table")
BYTES_MAX = 1 << 17


def serve(door: int) -> dict[str, object] | None:
    """Until nobody can ask any more; in a child what was asked, which it then is."""
    living: dict[int, tuple[int, int]] = {}  # what is readable when it has ended: its number, and where that is told
    while True:
        for each in select.select([door, *living], [], [])[0]:
            if each != door:
                bury(each, *living.pop(each))
                continue
            said, files = heard(door)
            if not said:
                return None
            pid = os.fork()
            if pid == 0:
                close(door, files.pop(), *living, *(told for _, told in living.values()))
                asked: dict[str, object] = json.loads(said)
                become(asked, files)
                return asked
            tell(files[-1], pid)
            living[os.pidfd_open(pid)] = (pid, files.pop())
            close(*files)


def heard(door: int) -> tuple[bytes, list[int]]:
    with socket.socket(fileno=os.dup(door)) as asking:
        said, files, _, _ = socket.recv_fds(asking, BYTES_MAX, 4)
    return said, files


def bury(ended: int, pid: int, told: int) -> None:
    _, status = os.waitpid(pid, 0)
    tell(told, os.waitstatus_to_exitcode(status))
    close(ended, told)


def tell(told: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(told, f"{number}\n".encode())


def close(*files: int) -> None:
    for each in files:
        os.close(each)


def become(asked: dict[str, object], files: Sequence[int]) -> None:
    os.chdir(str(asked["folder"]))
    os.environ.clear()
    os.environ.update(asked["environment"])  # type: ignore[call-overload]
    sys.argv = ["hookd", *asked["arguments"]]  # type: ignore[misc]
    for target, source in enumerate(files):
        os.dup2(source, target)
        os.close(source)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)


def live(asked: dict[str, object]) -> int:
    """Run what was asked, in the way that the interpreter would; its exit code."""
    try:
        if "program" in asked:
            exec(str(asked["program"]), {"__name__": "__main__"})
        else:
            cli.main()
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except Exception:  # noqa: BLE001 - whatever it is, it is told as the interpreter tells it
        traceback.print_exc()
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """As the interpreter does, but that it takes nothing apart: that takes longer than most commands."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more, or its disk is full: the interpreter says so
            code = 120
    os._exit(code)


if __name__ == "__main__":
    for name in (*LATER, *(f"hookd.commands.{command}" for command in cli.COMMANDS)):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    gc.freeze()  # else each child would look through all of it as it ends
    if (asked := serve(int(sys.argv[1]))) is not None:
        leave(live(asked))
