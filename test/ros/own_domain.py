"""A ROS domain of its own for each test that starts a graph."""

import itertools
import os
from collections.abc import Iterator

import pytest

from perception_nodes.transport.memory import SHM_FOLDER
from perception_nodes.transport.remains import sweep

NUMBERS = itertools.count(1)


def own_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A domain that no other test, nor another run beside this one, is in; empty at both ends."""
    number = (os.getpid() + 7 * next(NUMBERS)) % 101 + 1
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    _empty(number)
    yield number
    _empty(number)


def _empty(number: int) -> None:
    sweep(number)
    # A supervisor that was killed leaves the files of its claims, free for the next one to take.
    for claim in SHM_FOLDER.glob(f"perception_graph{number}_*"):
        claim.unlink(missing_ok=True)
