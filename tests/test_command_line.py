"""What holds for any command: wrong usage is told in one line, and its standard streams may be closed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import Hookd

pytestmark = pytest.mark.usefixtures("settings_free")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("evnets", "No such command 'evnets'. (Did you mean one of: 'event', 'events'?) See: hookd --help"),
        ("--colour", "No such option '--colour'. See: hookd --help"),
        ("events --frm", "No such option '--frm'. See: hookd events --help"),
        ("event", "Missing argument 'ID'. See: hookd event --help"),
        ("migrate now", "Got unexpected extra argument (now)"),
        ("sources rotat", "No such command 'rotat'. Did you mean 'rotate'? See: hookd sources --help"),
        ("events --limit 0", "Invalid value for '--limit': 0 is not in the range 1<=x<=1000000."),
        ("processor --app a --for 10s", "--for goes with --once"),
        ("processor --app a --once --reload", "--once or --reload, not both"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path: Path, line: str, said: str) -> None:
    """Wrong usage exits with 2 and one line on stderr: what is wrong, and where to look."""
    done = Hookd(tmp_path, {})(*line.split())
    assert (done.code, done.out, done.err) == (2, "", f"Error: {said}\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_trouble(tmp_path: Path, closed: str) -> None:
    """A command whose standard streams are closed does its work, and what it opens is not mistaken for them."""
    command = ("sh", "-c", f'exec "$0" -P -m hookd settings {closed}', sys.executable)
    done = subprocess.run(
        command, cwd=tmp_path, env=Hookd(tmp_path, {}).environment(), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"HOOKD_PORT" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
