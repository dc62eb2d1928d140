"""A domain of its own for each test that starts nodes."""

from dataclasses import asdict

import pytest
from own_domain import own_domain
from recorder import Recorder
from started_graph import Starter, needs_launch

from perception_nodes.core.frame import FrameStatus
from perception_nodes.lab.bench import play
from perception_nodes.lab.graphs import MEASURED
from perception_nodes.lab.run import Run

domain = pytest.fixture(autouse=True)(own_domain)


@pytest.fixture
def measured(tmp_path):
    """Play a drive through the whole graph; gives the stamps sent and the frame reports."""

    def played(**values):
        run = Run()
        play(run, MEASURED, {"listeners": 0, **values}, tmp_path)
        reports = [asdict(one) | {"status": FrameStatus(one.status).name} for one in run.reports]
        return run.sent or [], reports

    return played


@pytest.fixture
def recorder(domain, closed):
    """Subscribes to topics of the test's domain."""
    return closed(Recorder())


@pytest.fixture(params=["run", pytest.param("launch", marks=needs_launch)])
def start(request, tmp_path, closed):
    """Starts graphs as a user does, in both ways."""
    return closed(Starter(request.param, tmp_path))
