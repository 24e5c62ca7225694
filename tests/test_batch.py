"""Group commit: who travels together, how long they wait, and what becomes of them."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.batch import BYTES_MAX, ROWS_MAX, TRY_SECONDS, AlreadyThere, Lane, NotWritten, Refused, Row
from ingest.refusal import Refusal

MIB = 1024 * 1024
TIMEOUT_SECONDS = 10.0


class Table:
    """Stands in for the database: takes what it is told to take, and remembers each write."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)  # of the first writes; all others succeed
        self.writes: list[list[Row]] = []
        self.timeouts: list[float] = []
        self.rows: list[Row] = []
        self.bad: set[Row] = set()
        self.there: set[Row] = set()
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()

    async def write(self, rows: Sequence[Row], timeout: float) -> None:
        self.writes.append(list(rows))
        self.timeouts.append(timeout)
        self.asked.set()
        await self.open.wait()
        if (outcome := self.outcomes.pop(0) if self.outcomes else None) is not None:
            raise outcome
        if self.bad & set(rows):
            raise Refused
        if self.there & set(rows):
            raise AlreadyThere
        self.rows += rows

    def close(self) -> None:
        """From now on a write hangs."""
        self.open.clear()

    @property
    def sizes(self) -> list[int]:
        return [len(write) for write in self.writes]


class Away(Table):
    """Fails each write until it was asked so often to write nothing."""

    def __init__(self, probes: float) -> None:
        super().__init__()
        self.probes = probes
        self.back = asyncio.Event()

    async def write(self, rows: Sequence[Row], timeout: float) -> None:
        self.writes.append(list(rows))
        await asyncio.sleep(0)
        if self.writes.count([]) < self.probes:
            raise NotWritten("away")
        self.back.set()


def row(number: int) -> Row:
    return (number,)


@asynccontextmanager
async def running(lane: Lane) -> AsyncIterator[Lane]:
    task = asyncio.create_task(lane.run())
    try:
        yield lane
    finally:
        task.cancel()
        await asyncio.wait({task})


def a_lane(table: Table, seconds: float = TIMEOUT_SECONDS, *, probe_seconds: float = 60.0) -> Lane:
    return Lane(table.write, timeout_seconds=seconds, probe_seconds=probe_seconds)


def put(lane: Lane, numbers: Sequence[int], size: int = 10) -> "list[asyncio.Future[None]]":
    return [lane.put(row(number), size) for number in numbers]


async def behind(lane: Lane, table: Table, *sizes: int) -> "list[asyncio.Future[None]]":
    """Rows of these sizes, all of them queued behind one that is being written."""
    table.close()
    first = lane.put(row(-1), 10)
    await table.asked.wait()
    waiting = [lane.put(row(number), size) for number, size in enumerate(sizes)]
    table.open.set()
    await first
    return waiting


async def statuses(waiting: "Sequence[Awaitable[None]]") -> list[int]:
    """200 for each that was accepted, else the refusal's status."""
    async with asyncio.timeout(TIMEOUT_SECONDS * 2):
        ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(end is None or isinstance(end, Refusal) for end in ends), ends
    return [end.status if isinstance(end, Refusal) else 200 for end in ends]


async def test_a_lone_request_is_written_at_once() -> None:
    """There is no timer and no delay: the write begins in the event loop's next turns."""
    table = Table()
    async with running(a_lane(table)) as lane:
        await asyncio.sleep(0)
        done = lane.put(row(1), 10)
        for _ in range(3):
            await asyncio.sleep(0)
        assert table.rows == [row(1)]
        assert await statuses([done]) == [200]


async def test_what_arrives_while_a_write_is_in_flight_travels_together_in_the_next() -> None:
    """In the order it came, in one commit."""
    table = Table()
    async with running(a_lane(table)) as lane:
        assert await statuses(await behind(lane, table, *[10] * 50)) == [200] * 50
    assert table.writes == [[row(-1)], [row(number) for number in range(50)]]
    assert (lane.rows_written, lane.batches_written) == (51, 2)


async def test_nobody_is_answered_before_the_commit() -> None:
    """While the write hangs, so does who waits for it; both count as waiting."""
    table = Table()
    table.close()
    async with running(a_lane(table)) as lane:
        waiting = put(lane, [1, 2])
        await table.asked.wait()
        waiting += put(lane, [3])
        assert not any(each.done() for each in waiting)
        assert len(lane) == 3
        table.open.set()
        assert await statuses(waiting) == [200] * 3
        await asyncio.sleep(0)
        assert len(lane) == 0


@pytest.mark.parametrize(
    ("waiting", "batches"),
    [(ROWS_MAX - 1, [999]), (ROWS_MAX, [1000]), (ROWS_MAX + 1, [1000, 1]), (2500, [1000, 1000, 500])],
)
async def test_a_batch_ends_at_1000_rows(waiting: int, batches: list[int]) -> None:
    """What is over travels in the next."""
    table = Table()
    async with running(a_lane(table)) as lane:
        assert set(await statuses(await behind(lane, table, *[10] * waiting))) == {200}
    assert table.sizes == [1, *batches]


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ([MIB] * 8, [8]),
        ([MIB] * 7 + [MIB + 1], [7, 1]),
        ([MIB] * 9, [8, 1]),
        ([25 * MIB, 10], [1, 1]),
        ([10, 25 * MIB, 10], [1, 1, 1]),
        ([BYTES_MAX, 0], [2]),
        ([BYTES_MAX, 1], [1, 1]),
    ],
)
async def test_a_batch_ends_at_8_mib(sizes: list[int], batches: list[int]) -> None:
    """A larger body travels alone."""
    table = Table()
    async with running(a_lane(table)) as lane:
        assert set(await statuses(await behind(lane, table, *sizes))) == {200}
    assert table.sizes == [1, *batches]


@pytest.mark.parametrize(
    ("sizes", "seconds"),
    [([10], 0.0), ([BYTES_MAX // 2], 0.5), ([BYTES_MAX], 1.0), ([MIB] * 8, 1.0), ([3 * BYTES_MAX], 3.0)],
)
async def test_a_batch_may_take_a_second_longer_for_each_8_mib(sizes: list[int], seconds: float) -> None:
    """Each request in it may wait so much longer, and the write is given that time."""
    table = Table()
    async with running(a_lane(table)) as lane:
        await statuses(await behind(lane, table, *sizes))
    assert table.timeouts[-1] == pytest.approx(TIMEOUT_SECONDS + seconds, abs=0.2)


async def test_whoever_waits_too_long_is_told_so_while_the_write_still_hangs() -> None:
    """503 and when to come again, in flight and in the queue alike."""
    table = Table()
    table.close()
    async with running(a_lane(table, 0.01)) as lane:
        waiting = put(lane, [1])
        await table.asked.wait()
        waiting += put(lane, [2])
        while not waiting[-1].done():
            lane.expire()
            await asyncio.sleep(0)
        assert await statuses(waiting) == [503, 503]
        assert isinstance(refusal := waiting[0].exception(), Refusal)
        assert refusal.message.startswith("not known to be stored")
        assert "Retry-After" in refusal.headers


async def test_nobody_is_told_so_before_the_time_is_over() -> None:
    """Looking at the clock does not end a wait."""
    table = Table()
    table.close()
    async with running(a_lane(table)) as lane:
        waiting = put(lane, [1, 2])
        await table.asked.wait()
        lane.expire()
        assert not any(each.done() for each in waiting)
        table.open.set()
        assert await statuses(waiting) == [200, 200]


async def test_whose_time_is_over_leaves_before_being_written() -> None:
    """A request that was answered 503 in the queue never becomes a row."""
    table = Table()
    table.close()
    async with running(a_lane(table, 0.01)) as lane:
        waiting = put(lane, [1])
        await table.asked.wait()
        waiting += put(lane, [2])
        while not waiting[-1].done():
            lane.expire()
            await asyncio.sleep(0)
        table.open.set()
        assert await statuses([*waiting, *put(lane, [3])]) == [503, 503, 200]
    assert table.writes == [[row(1)], [row(3)]]


async def test_a_request_without_time_is_not_written() -> None:
    """Refused by the batch itself, should nobody look at the clock before."""
    table = Table()
    async with running(a_lane(table, 0.0)) as lane:
        assert await statuses(put(lane, [1])) == [503]
    assert table.writes == []


async def test_an_unknown_outcome_is_tried_again_unchanged() -> None:
    """The same rows with the same ids, and nobody who came meanwhile among them."""
    table = Table(None, NotWritten("lost"), NotWritten("lost"))
    async with running(a_lane(table)) as lane:
        waiting = await behind(lane, table, 10, 10)
        table.close()
        waiting += put(lane, [2])
        table.open.set()
        assert await statuses(waiting) == [200] * 3
    assert table.writes[1:] == [[row(0), row(1)]] * 3 + [[row(2)]]
    assert lane.failing is None


async def test_already_there_after_an_unknown_outcome_proves_that_it_was_committed() -> None:
    """Ids are never used twice, and a batch is committed whole or not at all."""
    table = Table(NotWritten("lost"), AlreadyThere())
    async with running(a_lane(table)) as lane:
        assert await statuses(put(lane, [1, 2])) == [200, 200]
    assert table.sizes == [2, 2]


async def test_already_there_at_first_accuses_a_row_not_the_batch() -> None:
    """The batch is halved down to the row whose id exists; that one is refused, its neighbours live."""
    table = Table()
    table.there = {row(2)}
    async with running(a_lane(table)) as lane:
        assert await statuses(put(lane, range(5))) == [200, 200, 503, 200, 200]
    assert sorted(table.rows, key=str) == [row(0), row(1), row(3), row(4)]


async def test_an_outcome_that_stays_unknown_is_503() -> None:
    """Tried until the time is over, then not known to be stored."""

    table = Away(math.inf)
    async with running(a_lane(table, 0.05)) as lane:
        assert await statuses(put(lane, [1])) == [503]
    assert len(table.writes) > 1
    assert lane.failing == "away"


async def test_a_row_that_the_database_refuses_gets_the_503_alone() -> None:
    """The batch is halved down to it."""
    table = Table()
    table.bad = {row(6)}
    async with running(a_lane(table)) as lane:
        assert await statuses(put(lane, range(8))) == [200] * 6 + [503] + [200]
    assert table.sizes == [8, 4, 4, 2, 2, 1, 1]
    assert lane.failing is None, "a bad row says nothing about the database"


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 40), bad=st.sets(st.integers(0, 39)), there=st.sets(st.integers(0, 39)))
async def test_neighbours_live(count: int, bad: set[int], there: set[int]) -> None:
    """Whichever rows are refused: every other one is committed exactly once, and each is told its own fate."""
    table = Table()
    table.bad, table.there = {row(number) for number in bad}, {row(number) for number in there}
    async with running(a_lane(table)) as lane:
        told = await statuses(put(lane, range(count)))
    good = [number for number in range(count) if number not in bad | there]
    assert [number for number, status in enumerate(told) if status == 200] == good
    assert [number for (number,) in table.rows] == good


async def test_a_sender_that_no_longer_waits_changes_nothing_for_its_neighbours() -> None:
    """Cancelled in the queue it is not written; cancelled in flight it is, and nobody is told."""
    table = Table()
    table.close()
    async with running(a_lane(table)) as lane:
        in_flight = put(lane, [1])[0]
        await table.asked.wait()
        queued, neighbour = put(lane, [2, 3])
        in_flight.cancel()
        queued.cancel()
        table.open.set()
        assert await statuses([neighbour]) == [200]
    assert table.writes == [[row(1)], [row(3)]]


async def test_a_lane_that_failed_finds_out_by_itself_that_it_would_work_again() -> None:
    """By writing no rows: nobody sends any to a receiver that says it is not ready."""

    table = Away(2)
    async with running(a_lane(table, 0.02, probe_seconds=0.01)) as lane:
        assert await statuses(put(lane, [1])) == [503]
        assert lane.failing == "away"
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await table.back.wait()
        await asyncio.sleep(0)
        assert lane.failing is None
        assert await statuses(put(lane, [2])) == [200]
    assert table.writes[-1] == [row(2)]


async def test_a_lane_that_works_writes_nothing_unasked() -> None:
    """Only a failed one looks."""
    table = Table()
    async with running(a_lane(table, probe_seconds=0.0)) as lane:
        await statuses(put(lane, [1]))
        for _ in range(10):
            await asyncio.sleep(0)
    assert table.writes == [[row(1)]]


class Dead:
    """A connection that answers nothing, ever; it remembers how long each try was to take."""

    def __init__(self) -> None:
        self.tries: list[float] = []

    async def write(self, rows: Sequence[Row], timeout: float) -> None:
        self.tries.append(timeout)
        await asyncio.sleep(0)
        raise NotWritten("no answer")


@pytest.mark.parametrize(
    ("lane_seconds", "row_seconds", "longest"),
    [(2.0, 600.0, TRY_SECONDS), (10.0, 600.0, 10.0), (2.0, 3.0, 3.0), (2.0, 1.0, 1.0), (2.0, None, 2.0)],
)
async def test_a_patient_row_s_write_is_tried_in_pieces(
    lane_seconds: float, row_seconds: float | None, longest: float
) -> None:
    """A half-open connection is left in time for all others, however long one sender would wait."""
    dead = Dead()
    lane = Lane(dead.write, timeout_seconds=lane_seconds)
    async with running(lane):
        lane.put(row(1), 0, row_seconds)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not dead.tries:  # noqa: ASYNC110 - it is asked in one of the loop's next turns
                await asyncio.sleep(0)
    assert longest - 0.5 < dead.tries[0] <= longest


async def test_a_row_waits_as_long_as_it_was_said_to() -> None:
    """Beside others that wait longer or less."""
    table = Table()
    table.close()
    lane = a_lane(table, 600.0)
    async with running(lane):
        short, long = lane.put(row(1), 10, 0.01), lane.put(row(2), 10)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not short.done():
                lane.expire()
                await asyncio.sleep(0.001)
        assert await statuses([short]) == [503]
        assert not long.done()
        table.open.set()
        assert await statuses([long]) == [200]
