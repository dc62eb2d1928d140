"""How a drive is ended, without a graph."""

import threading

import pytest

from perception_nodes.graph.supervisor import GraphFailure
from perception_nodes.lab import acceptance_drive as module
from perception_nodes.lab.acceptance_drive import drive


class Graph:
    """What a drive asks of a supervisor: it runs until it is stopped."""

    processes = ()

    def __init__(self, specs, log):
        self._stopped = threading.Event()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait(self):
        assert self._stopped.wait(20), "nobody has stopped the graph"
        return False

    def stop(self):
        self._stopped.set()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (BrokenPipeError("gone"), BrokenPipeError),
        (ValueError("any other"), ValueError),
        (SystemExit(1), GraphFailure),  # of rich, where the screen is a closed pipe
    ],
)
def test_an_error_beside_the_drive_ends_it(tmp_path, monkeypatch, error, raised):
    monkeypatch.setattr(module, "Supervisor", Graph)
    monkeypatch.setattr(module, "SAMPLE_S", 0.001)

    def progress(done, total):
        raise error

    with pytest.raises(raised):
        drive([], tmp_path / "drive.mcap", tmp_path / "nodes.log", 60.0, progress)
