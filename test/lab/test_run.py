"""How a run is ended, without a graph; and what is read of its recording."""

import json
import threading

import pytest
from made_runs import report

from perception_nodes.core.frame import Detections, FrameRecord
from perception_nodes.drives.schemas import DETECTIONS, FRAME_REPORT
from perception_nodes.graph.supervisor import GraphFailure
from perception_nodes.lab import run as module
from perception_nodes.lab.run import Run, execute
from perception_nodes.report.recording import DETECTIONS_TOPIC, FRAME_REPORT_TOPIC, Recorder
from perception_nodes.transport.cdr_writer import write_detection_array, write_frame_report


class Graph:
    """What a run asks of a supervisor: it goes on until it is stopped."""

    processes = ()

    def __init__(self, specs, stop_timeout_s, log):
        self._stopped = threading.Event()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        assert hasattr(self, "stop_timeout_s") == (kind is KeyboardInterrupt), "others may end late"

    def wait(self):
        assert self._stopped.wait(20), "nobody has stopped the graph"
        return False

    def stop(self):
        self._stopped.set()


@pytest.fixture(autouse=True)
def no_graph(monkeypatch):
    monkeypatch.setattr(module, "Supervisor", Graph)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (BrokenPipeError("gone"), BrokenPipeError),
        (ValueError("any other"), ValueError),
        (SystemExit(1), GraphFailure),  # of rich, where the screen is a closed pipe
    ],
)
def test_an_error_beside_a_run_ends_it(error, raised):
    def fail(graph, over):
        raise error

    with pytest.raises(raised):
        execute(Run(), [], beside=[fail, lambda graph, over: over.wait(20) and None])


def test_what_goes_on_beside_a_run_may_end_it_and_nobody_else():
    run = Run()
    execute(run, [], beside=[lambda graph, over: True])
    assert 0 < run.started_ns <= run.ended_ns
    with pytest.raises(KeyboardInterrupt):
        execute(Run(), [], beside=[lambda graph, over: graph.stop()])


def test_rounds_are_read_into_one_run(tmp_path):
    run, sent, recording = Run(), tmp_path / "sent.json", tmp_path / "r.mcap"
    for number in (1, 2):
        first, second = 1000 * number, 1000 * number + 500
        content = {"sent": [[0, first], [7, second]], "warnings": [f"round {number}"]}
        sent.write_text(json.dumps(content))
        with Recorder(recording) as recorder:
            found = write_detection_array(first, b"", Detections.none(), ())
            recorder.write(DETECTIONS_TOPIC, DETECTIONS, first + 8, found)
            message = write_frame_report(FrameRecord(stamp_ns=first))
            recorder.write(FRAME_REPORT_TOPIC, FRAME_REPORT, first + 9, message)
        run.read_sent(sent, warm_up=1)
        run.read(recording)
    assert (run.sent, run.numbers) == ([1000, 1500, 2000, 2500], [0, 7, 0, 7])
    assert (run.warm_up, run.warnings) == ({1000, 2000}, ["round 1", "round 2"])
    assert run.detections == [(1008, 1000), (2008, 2000)]
    assert run.arrivals_ns[FRAME_REPORT_TOPIC] == [1009, 2009]
    assert [one.stamp_ns for one in run.reports] == [report(1000).stamp_ns, 2000]
