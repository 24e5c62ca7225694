"""Files that are written together: all of them whole, or none."""

import os
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from chassis.folders import sync


class Contents(NamedTuple):
    """What a file is to hold, and who may read it."""

    data: bytes
    mode: int


def write(files: Mapping[Path, Contents], *, replacing: bool) -> None:
    """Raises OSError, and then nothing has changed; FileExistsError for one that is there, unless `replacing` it."""
    with ExitStack() as always, ExitStack() as undo:
        if taken := [path for path in files if path.is_dir() or (path.exists() and not replacing)]:
            raise FileExistsError(f"{taken[0]} is there already")
        beside = {path: _beside(path, contents, always) for path, contents in files.items()}
        for path, written in beside.items():
            if replacing:
                os.replace(written, path)
            else:
                os.link(written, path)  # unlike a rename it takes no other's place
                undo.callback(path.unlink)
        undo.pop_all()
    for folder in {path.parent for path in files}:
        sync(folder)


def _beside(path: Path, contents: Contents, always: ExitStack) -> Path:
    """The file under another name, which is gone again in the end."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, contents.mode)
    always.callback(beside.unlink, missing_ok=True)
    with open(descriptor, "wb") as out:
        out.write(contents.data)
        out.flush()
        os.fsync(out.fileno())
    return beside
