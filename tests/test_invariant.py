"""The judge of the fault suite: it sees a lost row, a doubled one, a changed byte, a stored 4xx, an unexplained run."""

from collections import Counter
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from chassis.database import Connection
from faults.invariant import violations
from rig.load import SOURCE, Load, body_of
from tests.factories import an_event

pytestmark = pytest.mark.any_server


class Account:
    """A load that kept three answers of 200, a refusal and a 503, and a table in which all is as it should be."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.load = Load("http://127.0.0.1", source=SOURCE)
        self.starts: Counter[str] = Counter()
        self.ids: list[UUID] = []

    async def fill(self) -> "Account":
        for number in (1, 2, 3):
            self.ids.append(await self.stored(body_of(1, number)))
            self.load.keep(str(self.ids[-1]), (1, number))
        await self.stored(body_of(1, 4))  # answered with 503, or cut: it may be there
        self.load.refused.add((1, 5))
        return self

    async def stored(self, body: bytes, status: str = "processed", reason: str | None = None) -> UUID:
        event_id = await an_event(
            self.connection, source=SOURCE, status=status, payload=body, claims=1, attempts=1, reason=reason
        )
        self.starts[str(event_id)] += status != "new"
        return event_id

    async def found(self, *excused: UUID) -> list[str]:
        return await violations(self.connection, [self.load], self.starts, set(map(str, excused)))


@pytest.fixture
async def account(connection: Connection) -> Account:
    return await Account(connection).fill()


async def test_nothing_speaks_against_what_is_as_it_should_be(account: Account) -> None:
    """What was answered is there, once, as it was sent; each row has come to its end, with a handler or why not."""
    duplicate = await account.stored(body_of(1, 6), reason="duplicate of another")
    account.starts.pop(str(duplicate))
    await account.stored(body_of(1, 7), "failed", "rejected")
    assert await account.found() == []


BREAKS = {
    "lost": ("DELETE FROM hookd.events WHERE id = $1", "1 answered with 200 and not in the table"),
    "a byte changed": (
        "UPDATE hookd.events SET payload = set_byte(payload, length(payload) - 1, 0) WHERE id = $1",
        "1 in the table with other bytes than were sent",
    ),
    "cut short": (
        "UPDATE hookd.events SET payload = substr(payload, 1, 20) WHERE id = $1",
        "1 in the table with other bytes than were sent",
    ),
    "left new": (
        "UPDATE hookd.events SET status = 'new', finished_at = NULL WHERE id = $1",
        "1 rows still new",
    ),
    "failed without a reason": (
        "UPDATE hookd.events SET status = 'failed', reason = '' WHERE id = $1",
        "1 failed without a reason",
    ),
}


@pytest.mark.parametrize("break_it", BREAKS)
async def test_a_row_that_is_not_as_it_was_answered_is_told(account: Account, break_it: str) -> None:
    """Each row that was answered with 200 is looked for, and looked at."""
    sql, told = BREAKS[break_it]
    await account.connection.execute(sql, account.ids[1])
    assert told in await account.found()


async def test_one_row_for_two_answers_is_told(account: Account) -> None:
    """Each answer names a row of its own: of two that name the same, one is lost."""
    account.load.keep(str(account.ids[0]), (1, 1))
    assert await account.found() == ["1 answered with the id of another"]


async def test_another_s_bytes_are_told(account: Account) -> None:
    """Two bodies that have changed places are both whole, and each the wrong one."""
    for event_id, number in zip(account.ids[:2], (2, 1), strict=True):
        await account.connection.execute(
            "UPDATE hookd.events SET payload = $2 WHERE id = $1", event_id, body_of(1, number)
        )
    assert await account.found() == ["2 in the table with other bytes than were sent"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (body_of(1, 2), "1 sent once and stored twice"),
        (body_of(1, 4), "1 sent once and stored twice"),
        (body_of(1, 5), "1 refused with a 4xx and stored all the same"),
        (b"nobody's", "1 stored, and never sent"),
    ],
    ids=["answered", "not answered", "refused with a 4xx", "never sent"],
)
async def test_a_row_too_many_is_told(account: Account, body: bytes, told: str) -> None:
    """Whatever was answered, a body is there once at most; one refused with a 4xx, and one that nobody sent, never."""
    await account.stored(body)
    assert await account.found() == [told]


def not_handled(starts: Counter[str], event_id: str) -> None:
    starts.pop(event_id)


def handled_out_of_nowhere(starts: Counter[str], event_id: str) -> None:
    starts[str(uuid4())] = 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (not_handled, "1 processed without a handler or a reason"),
        (handled_out_of_nowhere, "1 handled, and not in the table"),
    ],
)
async def test_a_run_that_is_missing_or_nobody_s_is_told(
    account: Account, change: Callable[[Counter[str], str], None], told: str
) -> None:
    """A processed row without a reason was handled, and what was handled is a row."""
    change(account.starts, str(account.ids[0]))
    assert await account.found() == [told]


async def test_a_second_run_needs_a_claim_and_its_cause(account: Account) -> None:
    """What was handled twice must have lost its holder before the case's eyes; and each run has a claim of its own."""
    first, second, _ = account.ids
    account.starts[str(first)] += 1
    assert await account.found() == ["1 handled more often than claimed", "1 handled twice"]
    await account.connection.execute("UPDATE hookd.events SET claims = 2 WHERE id = $1", first)
    assert await account.found() == ["1 handled twice"]
    assert await account.found(second) == ["1 handled twice, and not for that cause"]
    assert await account.found(first) == []
