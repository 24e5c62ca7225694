"""What a test needs of the machine: skipped with its reason where that is missing, but never in CI."""

import os

import pytest


def needs(condition: bool, reason: str) -> pytest.MarkDecorator:
    """A mark for a test that cannot run here. Under CI=true it runs all the same, and fails by what it misses."""
    return pytest.mark.skipif(not condition and os.environ.get("CI") != "true", reason=reason)
