"""What the comparison of cameras says of the outcomes that it has heard."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from made_runs import MS, in_time, report

from perception_nodes.cameras.channel import CameraHeader
from perception_nodes.core.frame import FrameStatus
from perception_nodes.graph.settings import SettingsError
from perception_nodes.lab import cameras
from perception_nodes.lab.bench import BenchSetup
from perception_nodes.lab.cameras import NO_OUTCOME, CamerasBench, Filmed, figures, film

SETUP = BenchSetup(20, "64x48", 30, "open-n", "null", 1, 10.0)
STAMPS = [1_000 * MS + n * 100 * MS for n in range(5)]


def heard(*reports):
    """The run of a camera of whose frames these were reported."""
    run = in_time(STAMPS)
    run.warm_up, run.reports = {STAMPS[0]}, list(reports)
    published = {one.stamp_ns for one in reports if one.published_ns}
    run.detections = [found for found in run.detections if found[1] in published]
    return run


def table(filmed_hz=30.0, **found):
    run = {"cameras": 1, "arrangement": "shared", "filmed_hz": filmed_hz, "memory_mb": 1, **found}
    facts = {"size": "64x48", "rate_hz": 30, "model": "m", "backend": "null", "deadline_ms": 10}
    return cameras.result_table({**facts, "machine": "m", "runs": [run]})


def cells(table, header):
    return [cell for column in table.columns if column.header == header for cell in column.cells]


def test_every_frame_that_was_sent_counts_once_and_the_warm_up_does_not():
    late = report(STAMPS[2], FrameStatus.LATE)
    front = heard(report(STAMPS[0]), report(STAMPS[1]), late, report(STAMPS[4]))
    rear = heard(*(report(stamp, FrameStatus.SKIPPED_LATE) for stamp in STAMPS))
    found = figures([front, rear])
    assert found["status"] == {"OK": 2, "LATE": 1, NO_OUTCOME: 1, "SKIPPED_LATE": 4}
    assert (found["in_time"], found["in_time_of_worst_camera"]) == (0.25, 0)
    assert found["latency_ms"] == dict.fromkeys(("p50", "p99", "p99_9", "max")), "most never came"
    assert json.loads(json.dumps(found)) == found
    assert cells(table(**found), "no\noutcome") == ["1"]


def test_frames_of_one_call_have_returned_at_the_same_instant():
    front, rear = (
        heard(*(report(s, inferred_ns=at) for s, at in zip(STAMPS[1:], instants, strict=False)))
        for instants in ((7, 9), (7, 11))
    )
    assert figures([front, rear])["calls_for_several"] == 1


@pytest.mark.parametrize(("filling_ms", "period_ms"), [(0, 20), (15, 20), (30, 30)])
def test_frames_that_are_filled_too_slowly_are_late(monkeypatch, filling_ms, period_ms):
    now_ns, sent = [7], []

    def pass_ms(duration_ms):
        now_ns[0] += round(duration_ms * MS)

    def loan():
        pass_ms(filling_ms)
        return SimpleNamespace(header=CameraHeader(), payload=np.empty(4 * 6 * 3, np.uint8))

    clock = SimpleNamespace(
        time_ns=lambda: now_ns[0],
        monotonic_ns=lambda: now_ns[0] - 5,
        sleep=lambda s: pass_ms(1000 * s),
    )
    monkeypatch.setattr(cameras, "time", clock)
    writer = SimpleNamespace(loan=loan, send=lambda sample: sent.append((now_ns[0], sample.header)))
    stamps, sent_ns = film([writer], (4, 6, 3), 50, 30, threading.Event(), lambda: None)
    assert stamps == [header.stamp_ns for _, header in sent]
    assert stamps == [7 + 20 * MS * n for n in range(1, 31)]
    assert set(np.diff(sent_ns)) == {period_ms * MS}
    late_ns = [at_ns - header.stamp_ns for at_ns, header in sent]
    assert late_ns == [max(0, filling_ms - 20) * MS * n for n in range(1, 31)]


@pytest.mark.parametrize(("filmed_hz", "shown"), [(30.0, "30 Hz"), (20.0, "[red]20 Hz")])
def test_a_rate_that_the_bench_did_not_keep_is_shown(filmed_hz, shown):
    found = table(filmed_hz=filmed_hz, **figures([heard(report(STAMPS[1]))]))
    assert cells(found, "filmed\nat") == [shown]
    assert ("did not fill its frames at 30 Hz" in found.caption) == (filmed_hz < 30)


def test_a_run_that_others_have_ended_is_not_ended_in_good_order(monkeypatch):
    over = threading.Event()
    over.set()
    monkeypatch.setattr(cameras, "Endpoint", lambda name: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(cameras, "camera_writer", lambda *_: None)
    monkeypatch.setattr(cameras.channels, "record_reader", lambda *_: None)
    filmed = Filmed(SETUP, ["front"])
    assert not filmed(SimpleNamespace(processes=[]), over), "after Ctrl-C the next run would begin"
    assert not filmed.costs


def test_the_arrangements_differ_in_their_detectors_alone():
    bench = CamerasBench(SETUP, [2])
    shared = [spec.executable for spec in bench.specs(["a", "b"], "shared")]
    apart = bench.specs(["a", "b"], "apart")
    assert (shared.count("detector_node"), shared.count("preprocess_node")) == (1, 2)
    assert [spec.executable for spec in apart].count("detector_node") == 2
    assert len({spec.name for spec in apart}) == len(apart)


@pytest.mark.parametrize("numbers", [[], [0], [9]])
def test_numbers_that_cannot_be_are_refused(numbers):
    with pytest.raises(SettingsError, match="from 1 to 8"):
        CamerasBench(SETUP, numbers).run(print)
