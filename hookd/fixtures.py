"""The fixtures of hookd.testing. The one module of hookd's that imports pytest."""

from collections.abc import Awaitable, Callable

import pytest

from hookd import testing
from processor.handling.event import Event
from protocol.request import Request


@pytest.fixture(scope="session")
def hookd_delivery() -> Callable[..., Request]:
    """Makes deliveries: `hookd_delivery("github", type="push")`, as hookd.testing.delivery."""
    return testing.delivery


@pytest.fixture(scope="session")
def hookd_event() -> Callable[..., Event]:
    """Makes events: `hookd_event("github", type="push")`, as hookd.testing.event."""
    return testing.event


@pytest.fixture(scope="session")
def hookd_run() -> Callable[..., testing.Result]:
    """Runs a handler as the processor would: `hookd_run(handler, event)`, as hookd.testing.run."""
    return testing.run


@pytest.fixture(scope="session")
def hookd_run_async() -> Callable[..., Awaitable[testing.Result]]:
    """The same in an async test: `await hookd_run_async(handler, event)`, as hookd.testing.run_async."""
    return testing.run_async
