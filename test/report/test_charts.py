"""Charts draw no frames where there are none, and leave none out."""

import pytest

from perception_nodes.core.budget import STAGES
from perception_nodes.core.frame import STAMPS, FrameRecord, FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.core.statistics import summarize
from perception_nodes.report import charts
from perception_nodes.report.recording import (
    FrameDetections,
    HealthChange,
    Recording,
    ReportedFrame,
)
from perception_nodes.report.targets import targets

MS = 1_000_000
PERIOD_MS = 100


def frame(number, time_ms, latency_ms=5.0, status=FrameStatus.OK):
    """The report of a frame that was logged at this time; without a latency it has no result."""
    record = FrameRecord(sequence=number, stamp_ns=time_ms * MS, status=status)
    for place, name in enumerate(STAMPS):
        setattr(record, name, 10**9 + round(place * (latency_ms or 5) / 5 * MS))
    if latency_ms is None:
        record.published_ns = 0
    return ReportedFrame.of_record(record, time_ms * MS)


def frames_at(*times_ms):
    return [frame(number, time_ms) for number, time_ms in enumerate(times_ms)]


def series(chart, name):
    """The x and y of a series."""
    columns = [(table[0], column) for table in chart.tables for column in table[1:]]
    names = [one["name"] for one in chart.series]
    x, y = columns[names.index(name)]
    assert list(x) == sorted(set(x))
    return dict(zip(x, y, strict=True))


@pytest.mark.parametrize("gap_ms", [2 * PERIOD_MS, 3000])
def test_a_timeline_is_empty_where_no_frame_was_for_long(gap_ms):
    before = [PERIOD_MS * i for i in range(5)]
    times_ms = [*before, *(before[-1] + gap_ms + at for at in before)]
    stage = series(charts.timeline(frames_at(*times_ms), 10.0), "inference")
    # The frame before the gap is as wide as others, and so is the last one.
    empty_s = [at_s for at_s, ms in stage.items() if ms is None]
    assert empty_s == ([] if gap_ms < 1000 else [pytest.approx(0.5)])
    assert len(stage) == len(times_ms) + len(empty_s) + 1


@pytest.mark.parametrize("times_ms", [(), (7,), (7, 7, 7, 5000)])
def test_a_timeline_of_few_frames_or_of_one_time_has_all_of_them(times_ms):
    chart = charts.timeline(frames_at(*times_ms), 10.0)
    assert sum(ms is not None for ms in series(chart, "inference").values()) >= len(times_ms)


def test_no_frame_is_outside_of_a_timeline():
    """Three stand beyond the axis with their values, two on the rail of those without a result."""
    late = [frame(i, 100 * i, ms, FrameStatus.LATE) for i, ms in enumerate((118.0, 83.0, 47.4))]
    skipped = [frame(i, 100 * i, None, FrameStatus.SKIPPED_LATE) for i in (3, 4)]
    slow = frame(5, 500, 61.0)
    chart = charts.timeline([*late, *skipped, slow, frame(6, 600)], 10.0)
    low, high = chart.y.range
    (beyond, name), (without, no_result) = chart.y.rails
    assert low < chart.y.top == 40 < beyond < without < high
    assert (name, no_result) == ("> 40", "no result")
    assert [*series(chart, "LATE (3)").values()] == [beyond] * 3
    assert [*series(chart, "SKIPPED_LATE (2)").values()] == [without] * 2
    assert [*series(chart, "OK (1)").values()] == [beyond]
    labels = [text for one in chart.series for _, text in one.get("labels", ())]
    assert sorted(labels) == ["118", "47", "61", "83"]


def test_a_histogram_counts_every_frame_and_its_percentiles_know_those_without_a_result():
    reports = [frame(i, i, 5.05) for i in range(96)] + [frame(96, 96, 500.0)]
    reports += [frame(i, i, None, FrameStatus.FAILED) for i in range(97, 100)]
    chart = charts.histogram(reports, 10.0)
    (beyond, _), (without, _) = chart.x.rails
    counts = series(chart, "frames")
    assert max(count for count in counts.values() if count) == 96
    assert [counts[place] for place in sorted(counts)[-4:]] == [1, None, 3, 3]
    assert {line["text"]: line["x"] for line in chart.lines} == {
        "deadline 10 ms": 10.0, "p50 5.0": 5.05, "p99": without, "p99.9": without,
    }  # fmt: skip


def test_where_no_frame_was_no_objects_are_counted():
    """Frames with an object, frames without any, none at all, and a frame with an object again."""
    times_ms = [*range(0, 2000, PERIOD_MS), 3950]
    recording = Recording(reports=frames_at(*times_ms), by_number=True)
    for number in (*range(10), 20):
        recording.detections[number] = FrameDetections(("car",), None, None)
    cars = series(charts.classes(recording), "car (11)")
    assert [*cars.values()] == [1, 1, pytest.approx(0.5, abs=0.5), 0, 0, *[None] * 4, 1, 1]
    assert [*cars] == pytest.approx([0.395 * i for i in range(11)], abs=0.01)


def test_all_charts_of_a_drive_have_one_axis_of_time():
    recording = Recording(reports=frames_at(1000, 2000, 5000), by_number=True)
    recording.health = [HealthChange(500 * MS, HealthMode.NOMINAL, "start"),
                        HealthChange(9000 * MS, HealthMode.UNSAFE, "ended")]  # fmt: skip
    made = charts.timeline(recording.reports, 10.0), charts.health(recording)
    assert [chart.x.range for chart in (*made, charts.classes(recording))] == [(0.0, 6.0)] * 3


def test_health_shares_the_axis_of_the_frames():
    """A mode known before the first frame begins with it."""
    changes = [(500, HealthMode.NOMINAL, "start"), (2000, HealthMode.UNSAFE, "silence"),
               (3000, HealthMode.NOMINAL, "over")]  # fmt: skip
    recording = Recording(reports=frames_at(1000, 2000, 5000))
    recording.health = [HealthChange(ms * MS, mode, cause) for ms, mode, cause in changes]
    chart = charts.health(recording)
    nominal, unsafe = series(chart, "NOMINAL"), series(chart, "UNSAFE")
    assert [at_s for at_s, y in nominal.items() if y is not None] == [0.0, 1.0, 2.0, 4.0]
    assert [at_s for at_s, y in unsafe.items() if y is not None] == [1.0, 2.0]
    assert dict(chart.series[1]["texts"]) == {1.0: "silence", 2.0: "silence"}


def test_targets_know_frames_without_a_result():
    reports = [frame(i, i, 6.3) for i in range(3)]
    reports.append(frame(3, 3, None, FrameStatus.SKIPPED_LATE))
    rows = targets(summarize(reports), 10.0)
    found = {row.name: (row.measured, row.passed) for row in rows}
    assert found["frames with detections in time"] == ("3 of 4 (75.00%)", False)
    assert found["p50 of the latency"] == ("6.30 ms", True)
    assert found["max of the latency"] == ("no result", False)
    assert len(rows) == 1 + 4 + len(STAGES)
    assert {row.passed for row in targets(summarize([]), 10.0)} == {None}
