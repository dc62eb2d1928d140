"""A domain of its own for each test that starts nodes."""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from started_graph import Starter, needs_launch

from perception_nodes.bench.graphs import MEASURED
from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.transport.domain import sweep

DOMAINS = itertools.count(1)


@pytest.fixture(autouse=True)
def domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A ROS domain that no other test, nor another run beside this one, is in."""
    number = (os.getpid() + 7 * next(DOMAINS)) % 101 + 1
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    yield number
    sweep(number)


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., tuple[list[int], list[dict[str, Any]]]]:
    """Play a drive through the whole graph; gives the stamps sent and the frame reports."""

    def play(**values: Any) -> tuple[list[int], list[dict[str, Any]]]:
        sent, received = tmp_path / "sent.json", tmp_path / "received.json"
        files = {"sent_file": str(sent), "received_file": str(received)}
        with Supervisor(MEASURED.nodes({"listeners": 0, **values, **files})) as graph:
            assert graph.wait()
        stamps = [stamp for _, stamp in json.loads(sent.read_text())["sent"]]
        return stamps, json.loads(received.read_text())["reports"]

    return play


@pytest.fixture(params=["run", pytest.param("launch", marks=needs_launch)])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Starter]:
    """Starts graphs as a user does, in both ways."""
    starter = Starter(request.param, tmp_path)
    yield starter
    starter.close()
