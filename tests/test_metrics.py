"""Metrics: few labels, and no reason to stop."""

import asyncio
import socket
from urllib.request import urlopen

from structlog.testing import capture_logs

from chassis import metrics
from chassis.metrics import Folded, Metric


def test_names_beyond_a_hundred_are_one() -> None:
    """Of any number of names the first hundred are kept, every later one is `other`."""
    folded = Folded()
    assert [folded(f"source{n}") for n in range(100)] == [f"source{n}" for n in range(100)]
    assert folded("source100") == "other"
    assert folded("source99") == "source99"


def a_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def test_a_worker_takes_over_the_port_of_the_one_it_replaces() -> None:
    """While the port is taken metrics are tried again, and served once it is free; never on another address."""
    tried = Metric("counter", "hookd_tried", "Tries", {("curl", 'a "quoted" name'): 1}, ("by", "for"))
    port = a_free_port()
    with socket.socket() as predecessor:
        predecessor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        predecessor.bind(("127.0.0.1", port))
        predecessor.listen()
        with capture_logs() as lines:
            publishing = asyncio.create_task(metrics.publish(port - 1, 1, lambda: [tried], try_seconds=0.01))
            async with asyncio.timeout(10):
                while not lines:  # noqa: ASYNC110 - a log tells nobody
                    await asyncio.sleep(0.01)
        assert [line["event"] for line in lines] == ["metrics.unavailable"]
    async with asyncio.timeout(10):
        while (said := await asyncio.to_thread(scrape, port)) is None:  # noqa: ASYNC110 - a thread serves it
            await asyncio.sleep(0.01)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    assert r'hookd_tried_total{by="curl",for="a \"quoted\" name"} 1.0' in said


def scrape(port: int) -> str | None:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            said: bytes = answer.read()
            return said.decode()
    except OSError:
        return None
