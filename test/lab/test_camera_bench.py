"""What the comparison of cameras makes of the records that it has heard."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from perception_nodes.backends.contract import open_backend
from perception_nodes.cameras.channel import CameraHeader
from perception_nodes.core.frame import FrameRecord, FrameStatus
from perception_nodes.graph.settings import SettingsError
from perception_nodes.lab import camera_bench as cameras
from perception_nodes.lab.camera_bench import (
    NO_OUTCOME,
    CamerasBench,
    facts,
    film,
    judged,
    result_table,
)
from perception_nodes.lab.setup import WARM_UP_FRAMES, BenchSetup

SETUP = BenchSetup(20, "64x48", 30, "road-n", "null", 1, 10.0)

MS = 1_000_000


def outcome(number, status=FrameStatus.OK, inferred_ns=0, latency_ms=5):
    """Of a frame behind the warm-up."""
    record = FrameRecord(sequence=WARM_UP_FRAMES + number, status=status)
    record.capture_ns, record.inferred_ns = number * 100 * MS + 1, inferred_ns
    if status in (FrameStatus.OK, FrameStatus.LATE):
        record.published_ns = record.capture_ns + latency_ms * MS
    return record


def test_every_frame_that_was_sent_counts_once():
    front = [outcome(0), outcome(1, FrameStatus.LATE, latency_ms=20), outcome(3)]
    rear = [outcome(n, FrameStatus.SKIPPED_LATE) for n in range(4)]
    drive = judged({"front": front, "rear": rear}, frames=4)
    assert drive.statuses["front"] == {"OK": 2, "LATE": 1, NO_OUTCOME: 1}
    assert drive.statuses["rear"] == {"SKIPPED_LATE": 4}
    found = facts(drive)
    assert found["in_time"] == 0.25
    assert found["in_time_of_worst_camera"] == 0
    assert found["latency_ms"] == dict.fromkeys(("p50", "p99", "p99_9", "max")), "most never came"
    assert json.loads(json.dumps(found)) == found


def test_frames_without_an_outcome_are_no_superseded_ones():
    superseded = [outcome(0, FrameStatus.SUPERSEDED), outcome(1)]
    drive = judged({"front": superseded}, frames=5)
    assert drive.statuses["front"] == {"OK": 1, "SUPERSEDED": 1, NO_OUTCOME: 3}
    run = {"cameras": 1, "arrangement": "shared", **facts(drive)}
    shown = {"size": "64x48", "rate_hz": 30, "model": "m", "backend": "null", "deadline_ms": 10}
    table = result_table({**shown, "machine": "m", "calls_ms": [], "runs": [run]})
    (column,) = [column for column in table.columns if column.header == "no\noutcome"]
    assert list(column.cells) == ["3"]


@pytest.mark.parametrize(("filling_ms", "filmed_hz"), [(0, 50.0), (15, 50.0), (30, 33.33)])
def test_frames_that_are_filled_too_slowly_are_late_and_the_rate_is_told(
    monkeypatch, filling_ms, filmed_hz
):
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
    found = film([writer], (4, 6, 3), 50, 20, threading.Event(), lambda: None)
    assert found == pytest.approx(filmed_hz, abs=0.01)
    assert [header.stamp_ns for _, header in sent] == [7 + 20 * MS * n for n in range(1, 31)]
    late_ns = [at_ns - header.stamp_ns for at_ns, header in sent]
    assert late_ns == [max(0, filling_ms - 20) * MS * n for n in range(1, 31)]

    drive = judged({"front": [outcome(0)]}, frames=1)
    drive.filmed_hz = found
    run = {"cameras": 1, "arrangement": "shared", **facts(drive)}
    shown = {"size": "6x4", "rate_hz": 50, "model": "m", "backend": "null", "deadline_ms": 10}
    table = result_table({**shown, "machine": "m", "calls_ms": [], "runs": [run]})
    (column,) = [column for column in table.columns if column.header == "filmed\nat"]
    assert list(column.cells) == ["50 Hz" if filmed_hz == 50 else "[red]33.33 Hz"]
    assert ("did not fill its frames at 50 Hz" in table.caption) == (filmed_hz < 50)


def test_who_is_stopped_films_no_more():
    stopped, sent = threading.Event(), []
    stopped.set()
    writer = SimpleNamespace(loan=None, send=sent.append)
    assert film([writer], (4, 6, 3), 50, 20, stopped, lambda: None) == 0
    assert not sent


def test_a_frame_that_is_reported_twice_hides_no_other():
    front = [outcome(n % 2) for n in range(4)]
    drive = judged({"front": front}, frames=4)
    assert drive.statuses["front"] == {"OK": 2, NO_OUTCOME: 2}
    assert len(drive.latencies_ms) == 2


def test_the_warm_up_does_not_count():
    early = FrameRecord(sequence=WARM_UP_FRAMES - 1, status=FrameStatus.FAILED)
    assert judged({"front": [early, outcome(0)]}, frames=1).statuses["front"] == {"OK": 1}


def test_frames_of_one_call_have_returned_at_the_same_instant():
    front = [outcome(0, inferred_ns=7), outcome(1, inferred_ns=9)]
    rear = [outcome(0, inferred_ns=7), outcome(1, inferred_ns=11)]
    assert judged({"front": front, "rear": rear}, frames=2).together == 1


def test_the_arrangements_differ_in_their_detectors_alone():
    bench = CamerasBench(SETUP, [2])
    shared = [spec.executable for spec in bench._specs(["a", "b"], "shared")]
    apart = bench._specs(["a", "b"], "apart")
    assert (shared.count("detector_node"), shared.count("preprocess_node")) == (1, 2)
    assert [spec.executable for spec in apart].count("detector_node") == 2
    assert len({spec.name for spec in apart}) == len(apart)


@pytest.mark.parametrize("cameras", [[], [0], [9]])
def test_numbers_that_cannot_be_are_refused(cameras):
    bench = CamerasBench(SETUP, cameras)
    with pytest.raises(SettingsError, match="from 1 to 8"):
        bench.run(print)


def test_calls_use_the_instructions_that_a_detector_has_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    given = []

    def opened(name, settings):
        given.append(settings)
        return open_backend(name, settings)

    monkeypatch.setattr(cameras, "open_backend", opened)
    CamerasBench(SETUP, [1])._calls(1)
    assert [(one.timing_dir, one.cache_dir) for one in given] == [
        (str(tmp_path / "perception_nodes"), "")
    ]


def test_calls_are_measured_and_the_result_can_be_shown():
    bench = CamerasBench(SETUP, [2])
    calls = bench._calls(2)
    assert [call["frames"] for call in calls] == [1, 2]
    assert calls[0]["at_once"]["p50"] is None
    assert calls[1]["at_once"]["p50"] > 0
    run = {"cameras": 2, "arrangement": "shared", **facts(judged({"a": [outcome(0)]}, 1))}
    shown = {"size": "64x48", "rate_hz": 30, "model": "m", "backend": "null", "deadline_ms": 10}
    assert result_table({**shown, "machine": "m", "calls_ms": calls, "runs": [run]}).row_count == 1
