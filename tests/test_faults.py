"""The short selection of the fault suite: whatever is broken, the promises hold. And the suite can fail."""

import random
from collections.abc import Iterator

import pytest

from faults import report
from faults.case import Case
from faults.catalogue import CASES
from faults.run import Result, Stage, stage
from faults.sabotage import SABOTAGES
from faults.sabotages import chassis, duplicates, effects, ingest, processor, replying, store, tls
from rig.interpose import COMPILER
from tests.needs import needs

TRIES = 4
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
        violations += result.violations
        if any("answered with 200 and not in the table" in line for line in violations):
            return
    pytest.fail(f"not noticed in {TRIES} runs: {violations}")


def test_every_case_says_what_it_would_notice() -> None:
    """Each case names sabotages that there are, what is broken, and has a name of its own."""
    assert len({each.name for each in CASES}) == len(CASES) >= 50
    for each in CASES:
        assert each.broken
        assert each.caught
        assert set(each.caught) <= SABOTAGES.keys(), each.name


def test_a_case_that_ended_badly_is_told() -> None:
    """A result says whether the promises held, and on a sabotaged hookd whether that was noticed."""
    case = CASES[0]
    assert report.word(Result(case, 1, None)) == "holds"
    assert report.word(Result(case, 1, None, violations=["1 rows still new"])) == "BROKEN"
    assert report.word(Result(case, 1, "no-fence")) == "MISSED"
    assert report.word(Result(case, 1, "no-fence", violations=["1 rows still new"])) == "noticed"
