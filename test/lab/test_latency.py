"""What the latency bench makes of the frames of a round."""

import json

import pytest

from perception_nodes.core.frame import STAMPS
from perception_nodes.lab.latency import LatencyBench, _Samples, result_table
from perception_nodes.lab.setup import WARM_UP_FRAMES, BenchSetup

SETUP = BenchSetup(40, "64x48", 30, "road-n", "null", 1, 10.0)
MS = 1_000_000
STAMPS_NS = [1_000_000_000 + i * 33 * MS for i in range(WARM_UP_FRAMES + 40)]


def report(stamp_ns, status="OK"):
    return {"stamp_ns": stamp_ns, "status": status, "copies": 0, **dict.fromkeys(STAMPS, 0)}


def found(arrived, reported):
    """The result of a round in which so many frames were reported, and detections arrived of."""
    samples = _Samples()
    arrivals = [(stamp, stamp + 5 * MS) for stamp in STAMPS_NS[:arrived]]
    reports = [report(stamp) for stamp in STAMPS_NS[:reported]]
    samples.add(STAMPS_NS, {"arrivals": arrivals, "reports": reports})
    return LatencyBench(SETUP, "shm", 1, None)._result(samples, [4.0], [])


def test_a_frame_of_which_nothing_arrives_or_that_is_not_reported_is_missed():
    for arrived, reported, miss_rate in [(50, 50, 0.0), (40, 50, 0.25), (50, 30, 0.5)]:
        result = found(arrived, reported)
        assert (result["frames"], result["miss_rate"]) == (40, pytest.approx(miss_rate))
        assert result["lost_in_transport"] == 50 - reported
    assert "missed 50.00%" in str(result_table(result).caption)


def test_frames_without_detections_are_the_slowest():
    result = found(49, 50)
    json.dumps(result, allow_nan=False)
    assert result["latency_ms"] == {"p50": 5.0, "p99": None, "p99_9": None, "max": None}
    cells = [next(iter(column.cells)) for column in result_table(result).columns]
    assert cells[1:] == ["5.00", "none", "none", "none"]


def test_a_late_frame_is_missed_and_a_report_that_comes_twice_counts_once():
    samples = _Samples()
    reports = [report(stamp) for stamp in STAMPS_NS] + [report(STAMPS_NS[-2])]
    reports[-2] = report(STAMPS_NS[-1], "LATE")
    arrivals = [(stamp, stamp + 5 * MS) for stamp in STAMPS_NS]
    samples.add(STAMPS_NS, {"arrivals": arrivals, "reports": reports})
    assert (samples.in_time, samples.measured) == (39, 40)
