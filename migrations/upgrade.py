"""Bring a database's schema up to date, and say what was done or why not."""

import io
from collections.abc import Awaitable, Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError

from chassis.database import Connection

FOLDER = Path(__file__).parent


def upgrade(connect: Callable[[], Awaitable[Connection]], waiting: Callable[[], None]) -> str | None:
    """Run what is missing, in one transaction; returns the revision that was there. A newer one is left as it is.

    Blocks, in an event loop of its own; `waiting` is called again and again while another migration runs. Raises the
    driver's own errors.
    """
    config = _config()
    config.attributes.update(connect=connect, waiting=waiting)
    try:
        command.upgrade(config, "head")
    except DBAPIError as error:
        raise (error.orig and error.orig.__cause__) or error from None
    found: str | None = config.attributes["found"]
    return found


def script() -> str:
    """The SQL of all revisions, for somebody to read and run by hand."""
    out = io.StringIO()
    command.upgrade(_config(out), "head", sql=True)
    return out.getvalue()


def _config(out: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=out, stdout=out or io.StringIO())
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
