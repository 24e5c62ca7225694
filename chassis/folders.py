"""Folders that belong to one account alone, files to lock in them, and what the system says of them in a sentence."""

import fcntl
import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chassis.binaries import EmbeddedError, ProgramError

FULL = re.compile("No space left on device|Dis[ck] quota exceeded")


def make_folder(folder: Path) -> None:
    """The data folder, and what is missing above it. No permission above it changes."""
    if "\n" in str(folder):  # the server's pid file has a line for each fact
        raise EmbeddedError(f"{str(folder)!r} has a line break in its name: choose another HOOKD_DATA_DIR")
    with plainly(folder):
        for path in (*reversed(folder.parents), folder):
            if not path.exists():
                path.mkdir(0o700 if path == folder else 0o777, exist_ok=True)
                sync(path.parent)
        found = folder.stat()
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
            raise EmbeddedError(f"{folder} is not yours alone to change: choose a HOOKD_DATA_DIR that is")
        if os.geteuid() == 0:  # the server's account passes through, to folders of its own
            folder.chmod(stat.S_IMODE(found.st_mode) | stat.S_IXGRP | stat.S_IXOTH)


def make_private(folder: Path, account: pwd.struct_passwd) -> None:
    """A folder for the account alone."""
    folder.mkdir(0o700, exist_ok=True)
    check_private(folder, account)
    give(folder, account)


def check_private(folder: Path, account: pwd.struct_passwd) -> None:
    """Raise EmbeddedError for a folder that is not the account's alone: in /tmp somebody may have been there first."""
    found = folder.lstat()
    owned = stat.S_ISDIR(found.st_mode) and found.st_uid in (os.geteuid(), account.pw_uid)
    if not owned or found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise EmbeddedError(f"{folder} is not a folder of {account.pw_name} alone: remove it")


def give(folder: Path, account: pwd.struct_passwd) -> None:
    if os.geteuid() == 0:
        os.chown(folder, account.pw_uid, account.pw_gid, follow_symlinks=False)


def sync(folder: Path) -> None:
    """A name in a folder is on the disk only when the folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A file to lock. Python opens it so that no child inherits it, and with it the lock."""
    with plainly(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_alone(users: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def plainly(path: Path) -> Iterator[None]:
    """What the system says of a path, in a sentence for a person."""
    try:
        yield
    except ProgramError as error:
        if FULL.search(error.output):
            raise _disk_full(path) from error
        raise
    except OSError as error:
        if FULL.search(str(error)):
            raise _disk_full(path) from error
        where = error.filename or path
        raise EmbeddedError(f"{where} cannot be used ({error.strerror}): choose another HOOKD_DATA_DIR") from error


def _disk_full(path: Path) -> EmbeddedError:
    return EmbeddedError(f"the disk of {path} is full: make room, or choose another HOOKD_DATA_DIR")
