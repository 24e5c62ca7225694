"""A load of numbered bodies, and the comparison of every answer with the table."""

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

from chassis.database import Connection


@dataclass
class Load:
    """Senders that POST until told to stop, and keep every answer."""

    url: str
    senders: int = 8
    answered: dict[str, bytes] = field(default_factory=dict)  # the body of each id answered with 200
    statuses: Counter[int] = field(default_factory=Counter)
    cut: int = 0

    async def run_until(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.senders):
                group.create_task(self._send(number, stop))

    async def _send(self, sender: int, stop: asyncio.Event) -> None:
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            number = 0
            while not stop.is_set():
                number += 1
                await self._post(session, body_of(sender, number))

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> None:
        try:
            async with session.post(f"{self.url}/load", data=body) as answer:
                self.statuses[answer.status] += 1
                if answer.status == 200:
                    self.answered[(await answer.json())["id"]] = body
        except (aiohttp.ClientError, TimeoutError):
            self.cut += 1
            await asyncio.sleep(0.05)  # a receiver that is down refuses at once: do not spin

    async def assert_stored(self, connection: Connection) -> None:
        """Every 2xx is in the table exactly once, byte for byte; nothing is there that was not sent."""
        rows = await connection.fetch("SELECT id::text, payload FROM hookd.events WHERE source = 'load'")
        stored = {row["id"]: row["payload"] for row in rows}
        assert {each: stored.get(each) for each in self.answered} == self.answered
        assert all(is_ours(payload) for payload in stored.values())


def body_of(sender: int, number: int) -> bytes:
    head = f"{sender}-{number}-".encode()
    return head + hashlib.sha256(head).digest() * (1 + number % 50)


def is_ours(body: bytes) -> bool:
    sender, number, _ = body.split(b"-", 2)
    return body == body_of(int(sender), int(number))
