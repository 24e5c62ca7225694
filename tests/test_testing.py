"""`hookd.testing`: what a user's tests are given."""

import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hookd import testing
from protocol.providers import PROVIDERS
from protocol.signature import judge
from protocol.source import VERIFIED, verdict_text

PAGE = (Path(__file__).parent.parent / "docs" / "testing.md").read_text()
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SIGNING = sorted(set(PROVIDERS) - {"none", "aws-sns"})


def test_the_page_s_examples_pass(tmp_path: Path) -> None:
    """Every file that docs/testing.md shows, as it stands there: four tests."""
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_pytest_is_not_imported_without_need() -> None:
    """Whoever tests with something else need not have it."""
    code = "import sys, hookd.testing; hookd.testing.delivery('github'); sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", SIGNING)
def test_a_delivery_is_verified_by_its_secret(name: str) -> None:
    """With `secret` and `options`; a forged one is not."""
    for fault, verified in ((None, True), ("bad-signature", False)):
        made = testing.delivery(name, fault=fault)  # type: ignore[arg-type]
        verdict = judge(PROVIDERS[name], made, [testing.secret(name)], time.time(), options=testing.options(name))
        assert (verdict_text(verdict) == VERIFIED) is verified


def test_a_delivery_is_as_it_is_asked_for() -> None:
    """With its own type, secret, time, target and id; another one each time."""
    made = testing.delivery("slack", type="message", secret="mine", at=NOON, target="/a?b=c", id="7")
    assert (made.target, PROVIDERS["slack"].event_type_of(made)) == ("/a?b=c", "message")
    assert PROVIDERS["slack"].delivery_id_of(made) == "Ev7"
    assert verdict_text(judge(PROVIDERS["slack"], made, ["mine"], NOON.timestamp())) == VERIFIED
    assert testing.delivery("github").header("X-GitHub-Delivery") != testing.delivery("github").header(
        "X-GitHub-Delivery"
    )
    with pytest.raises(ValueError, match="no provider 'nobody': one of aws-sns, "):
        testing.delivery("nobody")


def test_an_event_is_as_a_handler_is_given_it() -> None:
    """Of the sample, or with a body of one's own; its id is of its time."""
    event = testing.event("github", type="issues", at=NOON)
    assert (event.source, event.event_type, event.method, event.target, event.attempt) == (
        "github", "issues", "POST", "/github", 1,
    )  # fmt: skip
    assert event.json()["repository"]["full_name"] == "example/lighthouse"
    assert event.header("x-github-event") == "issues"
    assert event.delivery_id == event.header("X-GitHub-Delivery")
    assert event.received_at == NOON
    assert (event.id.version, event.id.int >> 80) == (7, int(NOON.timestamp() * 1000))
    mine = testing.event("stripe", json={"a": 1}, source="payments", attempt=3)
    assert (mine.source, mine.target, mine.json(), mine.attempt) == ("payments", "/payments", {"a": 1}, 3)
    assert testing.event("stripe", body=b"\xff").body == b"\xff"
