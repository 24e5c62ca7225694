"""Where secrets come from: a file, a variable, a prompt that shows nothing. Never an argument: others could read it."""

import sys
from pathlib import Path

import click

from chassis.settings import environment

SECRET_FILE_BYTES_MAX = 64 * 1024


class Unreadable(Exception):
    """Where a secret should be there is none; in one line."""


def secret_in(file: Path) -> bytes:
    """A file's content (- is standard input), without the line's end that editors put there."""
    try:
        if str(file) == "-":
            found = sys.stdin.buffer.read(SECRET_FILE_BYTES_MAX)
        else:
            with file.open("rb") as opened:
                found = opened.read(SECRET_FILE_BYTES_MAX)
    except OSError as error:
        raise Unreadable(f"{file}: {error.strerror}") from None
    return found.removesuffix(b"\n").removesuffix(b"\r")


def secret_of(variable: str) -> bytes:
    """What an environment variable holds."""
    if variable not in environment():
        raise Unreadable(f"{variable}: there is no such variable")
    return environment()[variable].encode("utf-8", "surrogateescape")


def can_ask() -> bool:
    return sys.stdin.isatty()


def secret_asked(what: str) -> bytes:
    """Typed twice, and not shown."""
    typed: str = click.prompt(what, hide_input=True, confirmation_prompt="the same again", err=True)
    return typed.encode("utf-8", "surrogateescape")


def is_padded(secret: bytes) -> bool:
    """Whether it begins or ends with white space, as what was copied with too much does."""
    return secret != secret.strip()
