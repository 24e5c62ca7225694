"""A process that has imported every command, and forks one for each that is asked for: half a second less for each.

What is asked comes through a socket: arguments, folder, environment, and another program where it is not the command, in
JSON; with it the ends of pipes or files for both outputs and for what is told of it, the process's number and how it
ended, a line each. All else is as in a process of its own, which the child is.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import socket
import sys

from hookd import cli

# Asked for by commands when they run.
LATER = ("asyncpg", "cryptography.fernet", "ingest.server", "migrations.upgrade", "processor.daemon", "rich.table")
BYTES_MAX = 1 << 17


def serve(door: socket.socket) -> dict[str, object] | None:
    """Until nobody asks any more; in a child what was asked, which it then is."""
    living: dict[int, tuple[int, int]] = {}  # by what becomes readable as it ends: its number, and who is told
    while True:
        for ready in select.select([door.fileno(), *living], [], [])[0]:
            if ready in living:
                bury(ready, *living.pop(ready))
                continue
            said, (*outputs, told), _, _ = socket.recv_fds(door, BYTES_MAX, 3) if opened(door) else (b"", (-1,), 0, 0)
            if not said:
                return None
            pid = os.fork()
            if pid == 0:
                asked: dict[str, object] = json.loads(said)
                for each in (door.detach(), told, *living, *(other for _, other in living.values())):
                    os.close(each)
                become(asked, outputs)
                return asked
            for each in outputs:
                os.close(each)
            tell(told, pid)
            living[os.pidfd_open(pid)] = (pid, told)
