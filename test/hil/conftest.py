"""A domain of its own for each test that starts a graph."""

import itertools
import os
from collections.abc import Iterator

import pytest

from perception_nodes.transport.domain import sweep

DOMAINS = itertools.count(1)


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS domain that no other test, nor another run beside this one, is in."""
    number = (os.getpid() + 7 * next(DOMAINS)) % 101 + 1
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    yield number
    sweep(number)
