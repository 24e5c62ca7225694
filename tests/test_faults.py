"""The short selection of the fault suite: whatever is broken, the promises hold. And the suite can fail."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults import report
from faults.breaking import ABSENT, NOTES, Blunt, Change, bluntness, break_by, fault
from faults.case import Case, Run
from faults.catalogue import CASES
from faults.run import Result, Stage, stage
from faults.sabotage import SABOTAGES
from faults.sabotages import chassis, duplicates, effects, ingest, processor, replying, store, tls
from faults.scene import Scene
from processor import outcome
from processor.running import watchdog
from processor.running.watchdog import Watchdog
from rig.interpose import COMPILER
from rig.load import Load
from tests.needs import needs

TRIES = 4
ROOT = Path(__file__).parents[1]
SHORT = [each for each in CASES if each.is_short]
assert all((chassis, duplicates, effects, ingest, processor, replying, store, tls))  # imported, they are declared

pytestmark = [
    pytest.mark.any_server,
    pytest.mark.unmeasured,
    needs(COMPILER is not None, "no C compiler, which makes the disk that can be slow or full"),
]


@pytest.fixture(scope="module")
def place() -> Iterator[Stage]:
    """Where each case gets a PostgreSQL of its own."""
    with stage(None) as place:
        yield place


@pytest.mark.parametrize("case", SHORT, ids=[each.name for each in SHORT])
async def test_the_promises_hold(place: Stage, case: Case) -> None:
    """Every 2xx is in the table once, byte for byte; every row ends processed or failed, handled or with a reason."""
    result = await place.run(case, seed=random.randrange(2**32))
    assert result.holds, (result.violations, result.seed)


async def test_a_broken_promise_is_noticed(place: Stage) -> None:
    """The suite can fail: on a hookd that answers before the commit, a killed PostgreSQL loses what was answered."""
    (case,) = [each for each in CASES if each.name == "postgres-killed"]
    violations: list[str] = []
    for seed in range(TRIES):  # whether anything is in flight when PostgreSQL is killed is luck
        result = await place.run(case, seed=seed, sabotage="answer-before-commit")
        assert not result.blunt, result.blunt
        violations += result.violations
        if any("answered with 200 and not in the table" in line for line in violations):
            return
    pytest.fail(f"not noticed in {TRIES} runs: {violations}")


async def test_a_case_that_ends_badly_says_what_it_left(place: Stage) -> None:
    """Whether it was merely late, or something that was answered is lost as well."""

    async def lose_and_be_late(scene: Scene) -> None:
        scene.loads.append(Load("", source="lost", answered={"nowhere": (1, 1)}))
        raise TimeoutError

    told = (await place.run(a_case(lose_and_be_late), seed=1)).violations
    assert told[0].startswith("TimeoutError: it took too long")
    assert told[1:] == ["1 answered with 200 and not in the table"]


async def test_a_case_excuses_nothing_without_a_cause(place: Stage) -> None:
    """That events may be handled twice is said where a case is declared, for everybody to read."""

    async def excuse(scene: Scene) -> None:
        scene.excuse(["any"])

    assert (await place.run(a_case(excuse, twice="a process was killed"), seed=1)).holds
    (told,) = (await place.run(a_case(excuse), seed=1)).violations
    assert "the case says not why" in told


def a_case(run: Run, twice: str | None = None) -> Case:
    return Case("any", "anything is broken", run, caught=(), twice=twice)


def test_every_case_says_what_it_would_notice() -> None:
    """Each case names sabotages that there are, what is broken, and has a name of its own."""
    assert len({each.name for each in CASES}) == len(CASES) >= 50
    for each in CASES:
        assert each.broken
        assert each.caught
        assert set(each.caught) <= SABOTAGES.keys(), each.name


def test_every_sabotage_breaks_something() -> None:
    """What a sabotage replaces is there, is called as its replacement is, and is what others use."""
    command = [sys.executable, "-m", "faults.sabotages"]
    tried = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (tried.returncode, tried.stdout, tried.stderr) == (0, "", "")


def test_a_sabotage_that_breaks_nothing_is_told() -> None:
    """What was meant to be replaced has gone, is called otherwise, is read by nobody, or was taken along by others."""

    def move(wrongly: int) -> None: ...

    async def later(event: object) -> None: ...

    with pytest.raises(Blunt, match="it replaces nothing"):
        break_by(lambda: None, lambda kind, what: None)
    assert fault(Change(watchdog, "keep", ABSENT, move)) == "there was no processor.running.watchdog.keep"
    assert "is called otherwise: (timeout" in str(fault(Change(Watchdog, "wait", lambda timeout: None, move)))
    assert "is called otherwise: (event" in str(fault(Change(Watchdog, "wait", lambda event: None, later)))
    assert (
        fault(Change(watchdog, "FORTNIGHT_SECONDS", 1, 2))
        == "nobody reads processor.running.watchdog.FORTNIGHT_SECONDS"
    )
    taken_along = Change(outcome, "PROCESSED", outcome.PROCESSED, outcome.RETURNED)
    assert str(fault(taken_along)).endswith(" has the PROCESSED of before")
    assert fault(Change(watchdog, "WATCH_SECONDS", 1, 2)) is None


def test_a_sabotage_that_was_not_reached_is_told(tmp_path: Path) -> None:
    """A case notices nothing of a sabotage that its hookd did not start with, or never came to."""
    assert bluntness(tmp_path) == "no hookd was started with it"
    notes = tmp_path / NOTES
    notes.write_text("broken Lane.put\nbroken Lane.take\nreached Lane.put\n")
    assert bluntness(tmp_path) == "Lane.take was not reached"
    notes.write_text("blunt there was no Lane.put\n")
    assert bluntness(tmp_path) == "there was no Lane.put"
    notes.write_text("broken Lane.put\nbroken Lane.put\nreached Lane.put\n")
    assert not bluntness(tmp_path)


def test_a_case_that_ended_badly_is_told() -> None:
    """A result says whether the promises held, and on a sabotaged hookd whether that was noticed."""
    case = CASES[0]
    assert report.word(Result(case, 1, None)) == "holds"
    assert report.word(Result(case, 1, None, violations=["1 rows still new"])) == "BROKEN"
    assert report.word(Result(case, 1, "no-fence")) == "MISSED"
    assert report.word(Result(case, 1, "no-fence", violations=["1 rows still new"])) == "noticed"
    blunt = Result(case, 1, "no-fence", violations=["1 rows still new"], blunt="it replaces nothing")
    assert report.line(blunt).split(maxsplit=1)[0] == report.word(blunt) == "BLUNT"
    assert not blunt.is_as_it_should_be
