"""Whether an app replies, found out in a process of its own: a receiver imports no app that it has no use for."""

import subprocess
import sys

from chassis.logs import get_logger

SECONDS_MAX = 60.0
FAULTS_CHARACTERS_MAX = 2000
REPLIES, HAS_FAULTS = 0, 2

log = get_logger()


def replies(app: str, *, tells: bool = True) -> bool:
    """Whether a handler of it does. Of one with faults nobody can tell: `tells` what they are, in the log."""
    command = (sys.executable, "-P", "-B", "-m", "hookd.replying", app)  # -B: as in hookd/reload.py
    try:
        asked = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            timeout=SECONDS_MAX, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        code, faults = HAS_FAULTS, f"it is not imported within {SECONDS_MAX:g} s"
    else:
        code, faults = asked.returncode, asked.stderr.decode(errors="replace").strip()
    if code == HAS_FAULTS and tells:
        log.error("app.refused", app=app, reason=faults[-FAULTS_CHARACTERS_MAX:], hint="nothing is replied to")
    return code == REPLIES
