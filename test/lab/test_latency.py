"""What the latency bench says of its rounds."""

import json

from made_runs import MS, in_time

from perception_nodes.lab.bench import WARM_UP_FRAMES, BenchSetup
from perception_nodes.lab.latency import LatencyBench, result_table

SETUP = BenchSetup(40, "64x48", 30, "open-n", "null", 1, 10.0)
STAMPS = [1_000_000_000 + i * 33 * MS for i in range(WARM_UP_FRAMES + 40)]


def test_frames_that_do_not_arrive_or_are_not_reported_are_missed_and_the_slowest():
    for arrived, reported, miss_rate in [(50, 50, 0.0), (40, 50, 0.25), (50, 30, 0.5)]:
        run = in_time(STAMPS, 5.0)
        run.warm_up = set(STAMPS[:WARM_UP_FRAMES])
        run.detections, run.reports = run.detections[:arrived], run.reports[:reported]
        result = LatencyBench(SETUP, "shm", 1, None).result(run, [4.0], [])
        json.dumps(result, allow_nan=False)
        assert (result["frames"], result["miss_rate"]) == (40, miss_rate)
        assert (result["frames_sent"], result["lost_in_transport"]) == (50, 50 - reported)
        slowest = {"p50": 5.0, "p99": 5.0 if arrived == 50 else None}
        assert slowest.items() <= result["latency_ms"].items()
        cells = [next(iter(column.cells)) for column in result_table(result).columns]
        assert cells[1:3] == ["5.00", "5.00" if arrived == 50 else "none"]
    assert "missed 50.00%" in str(result_table(result).caption)
