"""An open-loop sender: POSTs when they are due, at random moments, whether or not the last one was answered.

`python -m benchmarks.steady PORT RATE SECONDS` prints a line for each: id, when it was due, when it was answered
(nanoseconds since 1970). A late start counts: what is measured begins when the request was due.

select(2), for asyncio's own timers (and uvloop's) are rounded to a millisecond, which is what is measured here.
"""

import random
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import accumulate, repeat, takewhile

from benchmarks.http import ANSWER_BYTES_MAX, REQUEST, STORED

CONNECTIONS = 32
NANOSECONDS = 1_000_000_000
LAST_SECONDS_MAX = 10


def moments(rate: float, seconds: float) -> Iterator[float]:
    """A Poisson process: senders do not wait for each other. The same one each time."""
    chance = random.Random(200)
    return takewhile(seconds.__gt__, accumulate(chance.expovariate(each) for each in repeat(rate)))


def send(port: int, rate: float, seconds: float) -> Iterator[tuple[str, int, int]]:
    """Each POST's id, when it was due and when it was answered."""
    idle = deque(socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS))
    due_of: dict[socket.socket, int] = {}
    began = time.time_ns() + NANOSECONDS // 10
    for due in (began + int(moment * NANOSECONDS) for moment in moments(rate, seconds)):
        while (wait := due - time.time_ns()) > 0 or not idle:
            yield from _answers(due_of, idle, max(wait, 0) / NANOSECONDS if idle else LAST_SECONDS_MAX)
        connection = idle.popleft()
        due_of[connection] = due
        connection.sendall(REQUEST)
    while due_of:
        yield from _answers(due_of, idle, LAST_SECONDS_MAX)


def _answers(
    due_of: dict[socket.socket, int], idle: deque[socket.socket], wait_seconds: float
) -> Iterator[tuple[str, int, int]]:
    """What is answered within that time, as soon as anything is."""
    readable, _, _ = select.select(list(due_of), (), (), wait_seconds)
    if not readable and wait_seconds == LAST_SECONDS_MAX:
        sys.exit("no answer within 10 s")
    for connection in readable:
        answer = connection.recv(ANSWER_BYTES_MAX)
        now = time.time_ns()
        if (stored := STORED.match(answer)) is None:
            sys.exit(f"answered {answer[:200]!r}")
        yield stored[1].decode(), due_of.pop(connection), now
        idle.append(connection)


if __name__ == "__main__":
    lines = list(send(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
    print("\n".join(f"{event_id} {due} {answered}" for event_id, due, answered in lines))
