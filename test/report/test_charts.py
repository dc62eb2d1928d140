"""The charts of a report draw no frames where there are none."""

from types import SimpleNamespace

import pytest

from perception_nodes.core.frame import STAMPS, FrameRecord
from perception_nodes.report import charts
from perception_nodes.report.recording import FrameDetections, Recording, ReportedFrame

MS = 1_000_000
PERIOD_MS = 100


def frames_at(*times_ms):
    """Reports of frames that were logged at these times, and took 5 ms."""
    reports = []
    for number, time_ms in enumerate(times_ms):
        record = FrameRecord(sequence=number, stamp_ns=time_ms * MS)
        for place, name in enumerate(STAMPS):
            setattr(record, name, 10**9 + place * MS)
        reports.append(ReportedFrame.of_record(record, time_ms * MS))
    return reports


@pytest.mark.parametrize("gap_ms", [2 * PERIOD_MS, 3000])
def test_a_timeline_is_empty_where_no_frame_was_for_long(gap_ms):
    before = [PERIOD_MS * i for i in range(5)]
    times_ms = [*before, *(before[-1] + gap_ms + at for at in before)]
    stage = charts.timeline(frames_at(*times_ms), 10.0).data[0]
    empty_s = [at_s for at_s, ms in zip(stage.x, stage.y, strict=True) if ms is None]
    # The frames beside the gap are as wide as others.
    assert empty_s == ([] if gap_ms < 1000 else [pytest.approx(0.5), pytest.approx(3.3)])
    assert len(stage.x) == len(times_ms) + len(empty_s)
    assert list(stage.x) == sorted(stage.x)


@pytest.mark.parametrize("times_ms", [(), (7,), (7, 7, 7, 5000)])
def test_a_timeline_of_few_frames_or_of_one_time_has_them_alone(times_ms):
    stage = charts.timeline(frames_at(*times_ms), 10.0).data[0]
    assert len(stage.x) == len(times_ms)
    assert None not in stage.y


def test_where_no_frame_was_no_objects_are_counted():
    """Frames with an object, frames without any, none at all, and a frame with an object again."""
    times_ms = [*range(0, 2000, PERIOD_MS), 3950]
    recording = Recording(reports=frames_at(*times_ms), by_number=True)
    for number in (*range(10), 20):
        box = SimpleNamespace()
        recording.detections[number] = FrameDetections(("car",), box, box)
    (cars,) = charts.classes(recording).data
    by_tenth = dict(zip(cars.x, cars.y, strict=True))
    assert len(by_tenth) == 10
    assert [*by_tenth.values()] == [1, 1, pytest.approx(0.5, abs=0.5), 0, 0, *[None] * 4, 1]
    assert [*by_tenth] == pytest.approx([0.395 * (i + 0.5) for i in range(10)], abs=0.01)
