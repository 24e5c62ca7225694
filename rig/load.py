"""A load of numbered bodies, and the comparison of every answer with the table."""

import asyncio
import hashlib
import math
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import aiohttp

from chassis.database import Connection

Number: TypeAlias = tuple[int, int]  # of the sender, and of its POST: what a body is made from
SOURCE = "load"
STORED = "SELECT id::text, payload FROM hookd.events WHERE source = $1"


@dataclass
class Load:
    """Senders that POST until told to stop, each body once, and keep every answer.

    `pause_seconds`: between an answer and the next POST of the same sender; 0: at once. `tls`: whom it trusts.
    `sent_max`: of all of them together. `keeps_alive`: whether a sender keeps its connection for its next POST.
    """

    url: str
    senders: int = 8
    pause_seconds: float = 0.0
    timeout_seconds: float = 10.0
    source: str = SOURCE
    sent_max: float = math.inf
    tls: ssl.SSLContext | None = None
    keeps_alive: bool = True
    answered: dict[str, Number] = field(default_factory=dict)  # what was sent for each id answered with 200
    refused: set[Number] = field(default_factory=set)  # what was answered with a 4xx
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # that each answer of 200 took
    shared: int = 0  # answers of 200 that bear an id of before
    cut: int = 0
    sent: int = 0

    async def run_until(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.senders):
                group.create_task(self._send(number, stop))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """The senders send until the block ends; their last answers are waited for."""
        stop = asyncio.Event()
        sending = asyncio.create_task(self.run_until(stop))
        try:
            yield self
        finally:
            stop.set()
            await sending

    async def more(self, count: int, seconds_max: float = 30.0) -> None:
        """Return once so many more POSTs were answered with 200."""
        enough = len(self.answered) + count
        async with asyncio.timeout(seconds_max):
            while len(self.answered) < enough:
                await asyncio.sleep(0.005)

    async def _send(self, sender: int, stop: asyncio.Event) -> None:
        timeout = aiohttp.ClientTimeout(total=self.timeout_seconds)
        connector = aiohttp.TCPConnector(force_close=not self.keeps_alive)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            number = 0
            while not stop.is_set() and self.sent < self.sent_max:
                number += 1
                await self._post(session, (sender, number))
                if self.pause_seconds:
                    await asyncio.sleep(self.pause_seconds)

    async def _post(self, session: aiohttp.ClientSession, number: Number) -> None:
        began, url = time.monotonic(), f"{self.url}/{self.source}"
        self.sent += 1
        try:
            async with session.post(url, data=body_of(*number), ssl=self.tls or True) as answer:
                self.statuses[answer.status] += 1
                if answer.status == 200:
                    self.keep((await answer.json())["id"], number)
                    self.seconds.append(time.monotonic() - began)
                elif 400 <= answer.status < 500:
                    self.refused.add(number)
        except (aiohttp.ClientError, TimeoutError):
            self.cut += 1
            await asyncio.sleep(0.05)  # a receiver that is down refuses at once: do not spin

    def keep(self, event_id: str, number: Number) -> None:
        """That body was answered with 200 and this id."""
        self.shared += event_id in self.answered
        self.answered[event_id] = number

    async def violations(self, connection: Connection) -> list[str]:
        """What speaks against: every 2xx is in the table exactly once, byte for byte, and nothing but what was sent."""
        stored: dict[str, Number | None] = {}
        async with connection.transaction(readonly=True):
            async for row in connection.cursor(STORED, self.source, prefetch=1000):
                stored[row["id"]] = number_of(row["payload"])
        copies = Counter(number for number in stored.values() if number is not None)
        found = {
            "answered with 200 and not in the table": len(self.answered.keys() - stored.keys()),
            "answered with the id of another": self.shared,
            "in the table with other bytes than were sent": sum(
                stored.get(each, number) != number for each, number in self.answered.items()
            ),
            "stored, and never sent": sum(number is None for number in stored.values()),
            "sent once and stored twice": sum(count > 1 for count in copies.values()),
            "refused with a 4xx and stored all the same": len(self.refused & copies.keys()),
        }
        return [f"{count} {what}" for what, count in found.items() if count]

    async def assert_stored(self, connection: Connection) -> None:
        assert await self.violations(connection) == []


def body_of(sender: int, number: int) -> bytes:
    head = f"{sender}-{number}-".encode()
    return head + hashlib.sha256(head).digest() * (1 + number % 50)


def number_of(body: bytes) -> Number | None:
    """What the body was made from; None for one that we did not send, or not so."""
    sender, _, rest = body.partition(b"-")
    number, _, _ = rest.partition(b"-")
    if not (sender.isdigit() and number.isdigit()):
        return None
    made_from = (int(sender), int(number))
    return made_from if body_of(*made_from) == body else None
