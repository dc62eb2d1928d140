"""Pages, charts and films show what they are given, and escape what is foreign in it."""

import copy

import cv2
import gpu_page
import numpy as np
import pytest
from rich.console import Console

from perception_nodes.core.budget import STAGES
from perception_nodes.core.frame import STAMPS, Detections, FrameRecord, FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.core.statistics import latency_percentiles, summarize
from perception_nodes.drives.schemas import DETECTIONS, FRAME_REPORT
from perception_nodes.evaluation import models_report
from perception_nodes.lab import page as lab_page
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.replay.compare import compare_runs
from perception_nodes.replay.drawing import jpeg
from perception_nodes.replay.outputs import write_summary
from perception_nodes.report import charts, drive_report, film, page
from perception_nodes.report import recording as recorded
from perception_nodes.report.annotate import AFTER_COLOUR, BEFORE_COLOUR, blank
from perception_nodes.report.changes import Change, ChangeKind
from perception_nodes.report.chosen_frames import ChosenFrames
from perception_nodes.report.film import Film
from perception_nodes.report.overview import overview
from perception_nodes.report.page import UNTIMED
from perception_nodes.report.screen import summary_table
from perception_nodes.report.targets import targets
from perception_nodes.transport.cdr_writer import write_detection_array, write_frame_report

HOSTILE = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"
LATENCY = latency_percentiles([4.0, 5.0, 12.0])
RANKS = {"p50": 1.0, "p90": 2.0, "p99": 3.0}
MS = 1_000_000


def write_recording(path):
    """Frames whose texts are hostile: a failed one, a late one, others with objects."""
    name = HOSTILE.encode()
    box, score = np.array([[1, 2, 30, 40]], np.float32), np.array([0.5], np.float32)
    found = Detections(box, score, np.array([0]))
    with recorded.Recorder(path) as recorder:
        for index in range(6):
            at_ns = 10**9 + index * 33 * MS
            record = FrameRecord(sequence=index, stamp_ns=at_ns, frame_id=name, reason=name)
            record.status = (FrameStatus.FAILED, FrameStatus.LATE, *[FrameStatus.OK] * 4)[index]
            for place, stamp in enumerate(STAMPS):
                setattr(record, stamp, at_ns + place * MS)
            report = write_frame_report(record)
            recorder.write(recorded.FRAME_REPORT_TOPIC, FRAME_REPORT, at_ns, report)
            if index > 1:
                message = write_detection_array(at_ns, name, found, (name,))
                recorder.write(recorded.DETECTIONS_TOPIC, DETECTIONS, at_ns, message)
    return path


def drive_summary(recording):
    return {
        "bag": HOSTILE,
        "model": HOSTILE,
        "deadline_ms": 10.0,
        "warnings": [HOSTILE],
        "over_deadline": 0,
        "mode": "lockstep",
        "lost_in_bag": 0,
        **summarize(recording.reports),
        "accuracy": {
            "labels": HOSTILE, "frames": 4, "objects": 7, "map50_95": 0.25, "map50": None,
            "by_class": {HOSTILE: {"objects": 7, "map50_95": None, "map50": 0.5}},
            "notes": [HOSTILE],
        },
        "golden": {
            "frames": 6, "frames_changed": 2, "expected_objects": 1, "doubtful": 1,
            "kinds": {"vanished": 70}, "tolerance": {"box_iou": 0.8, "score": 0.1}, "changes": [],
            "lines": [HOSTILE, *(f"change {index}" for index in range(69))],
        },
        "engine": {
            "simulated": True, "clock_mhz": 250.0, "cycles": {"p50": 5, "p99": 6, "max": 7},
            "latency_ms": {"p50": 1.0, "p99": 2.0, "max": 3.0}, "stalled": {HOSTILE: 0.25},
            "bytes_read": 1_500_000, "bytes_written": 0,
        },
    }  # fmt: skip


def chosen_frames():
    jpeg = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    chosen = ChosenFrames(6)
    item = recorded.DetectedObject(HOSTILE, 0.9, (0.0, 0.0, 1.0, 1.0))
    chosen.take(0, jpeg, 4.0, 1)
    changes = [Change(0, 0.0, ChangeKind.VANISHED, before=item)]
    chosen.take_changed(0, jpeg, changes)
    chosen.film.take(0, jpeg, 1.0, None, None, changes)
    return chosen


def drive_page(folder, taken=1):
    recording, chosen = recorded.read_recording(write_recording(folder / "r.mcap")), chosen_frames()
    chosen.film.taken = taken
    return drive_report.render(drive_summary(recording), recording, chosen)


def scenarios_page(folder):
    write_recording(folder / "stop.mcap")
    verdict = ScenarioVerdict(
        scenario="stop", title=HOSTILE, sent=6, deadline_ms=10, first_ns=10**9, problems=[HOSTILE],
        faults=[(HOSTILE, 0.05, 0.1)], detected_as=HOSTILE, notes=[HOSTILE],
    )  # fmt: skip
    return lab_page.scenarios_page(HOSTILE, [verdict], folder, [HOSTILE])


def deadline_page(_):
    found = {
        "frames": 3, "latency_ms": LATENCY, "status": {HOSTILE: 3}, "miss_rate": 0.25,
        "silent_misses": 0, "missed_by_host": 0, "in_time_and_arrived_late": 0,
        "latencies_ms": [4.0, 5.0, 12.0],
    }  # fmt: skip
    soak = {
        "minutes": 2.0, "constant": False, "state": HOSTILE, "memory_growth_mb": {HOSTILE: 0.0},
        "descriptor_growth": {HOSTILE: 0}, "shared_memory_growth_mb": 0.0,
    }  # fmt: skip
    return lab_page.deadline_page(
        {
            "machine": HOSTILE, "model": HOSTILE, "backend": "null", "deadline_ms": 10.0,
            "conditions": {"quiet": found}, "soak": soak,
        }
    )  # fmt: skip


def models_page(_):
    run = {"backend": "openvino", "pace": "tight", "threads": 1, "in_time": 0.9, **RANKS}
    model = {
        "name": HOSTILE, "parent": None, "precision": "int8", "activation": None, "gmac": 0.5,
        "input": {"width": 4, "height": 2}, "size_bytes": 10, "latency_ms": run, "gmac_per_s": 1.0,
        "roofline_share": 0.5, "speedup_vs_parent": None, "accuracy_from": HOSTILE,
        "map50_95": {HOSTILE: 0.5}, "runs": [{**run, "speedup_vs_parent": None}],
        "notes": [HOSTILE],
    }  # fmt: skip
    child = {
        **copy.deepcopy(model), "name": "child", "parent": HOSTILE, "speedup_vs_parent": 2.0,
        "speedup_interval": [1.5, 2.5], "predicted_speedup": 3.0,
    }  # fmt: skip
    return models_report.render(
        {
            "machine": {
                "cpu": HOSTILE, "cores": 2, "load_before": 3.0, "int8_instructions": [HOSTILE],
            },
            "headline": {"threads": 1, "pace": "tight"}, "frames": 10, "models": [model, child],
            "inference_budget_ms": 7.0,
            "roofline_gmac_per_s": [{"precision": HOSTILE, "threads": 1, "value": 9.0}],
        }
    )  # fmt: skip


def comparison_page(folder):
    runs = []
    for name in ("a", HOSTILE.replace("/", "")):
        runs.append(folder / name)
        file = write_recording(runs[-1] / "detections.mcap")
        recording = recorded.read_recording(file, by_number=True)
        write_summary(runs[-1], drive_summary(recording), recording, ChosenFrames(6))
    compare_runs(runs[0], runs[1], folder / "out")
    return (folder / "out/compare.html").read_text()


def gpu_report_page(_):
    ways = {"frames_come_by": "copy", "transfer_us": {"fetch": 2.0, "copy": 1.0}}
    one = {
        "encoding": HOSTILE, "lens": HOSTILE, "device_memory_us": 8.0, "moved_bytes": {"frame": 1},
        "gb_s": 1.0, "of_bandwidth": 0.5, "ms": LATENCY, "objects": HOSTILE, "found": 1, "boxes": 1,
        **ways,
    }  # fmt: skip
    paced = {
        "frames": 5, "copies_a_frame": 0, "over_aim": 0, "shared_memory_to_boxes_ms": LATENCY,
        "clocks": {"0": {"sm_mhz": [1, 2, 3]}},
    }  # fmt: skip
    network = {
        "name": HOSTILE, "conditions": {HOSTILE: {"30 Hz": paced}}, "graph_on_device_ms": LATENCY,
        "registrations": 1, **ways,
    }  # fmt: skip
    return gpu_page.render(
        {
            "gpu": {"name": HOSTILE, "driver_cuda": "13.0", "through": HOSTILE},
            "machine": HOSTILE, "missing": [HOSTILE],
            "checks": {"cases": 1, "layers": 1, "sanitizer": [HOSTILE]},
            "preprocess": [one], "decode": [one], "networks": {"cuda": network},
            "bandwidth_gb_s": 1.0, "back_to_host_bytes": 1,
        }
    )  # fmt: skip


PAGES = [
    drive_page, scenarios_page, deadline_page, models_page, comparison_page, gpu_report_page,
]  # fmt: skip


@pytest.mark.parametrize("make", PAGES, ids=lambda make: make.__name__)
def test_no_text_becomes_a_script(make, tmp_path):
    text = make(tmp_path)
    assert HOSTILE not in text
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_report_shows_what_it_is_given(tmp_path):
    body = drive_page(tmp_path, taken=7)
    assert f"1 failed: {ESCAPED}" in body
    assert "Engine, simulated" in body and "25.0% of cycles" in body
    assert f"<td>{ESCAPED}</td>" in body and "0.250" in body
    assert "change 58" in body and "change 59" not in body
    assert "and 10 more, in summary.json" in body
    assert body.count("data:image/jpeg;base64,") == 3  # one of them is played
    assert "1 of 7 frames are shown." in body and "are shown" not in drive_page(tmp_path)


def test_a_value_that_is_forgotten_is_an_error():
    """Instead of a page with a hole."""
    with pytest.raises(Exception, match="'verdict' is undefined"):
        page.render("gpu.html.j2", heading="", tone="", missing=[], tables=[])


@pytest.mark.parametrize("bag", ["größe", "a $b$ c", "x" * 500, ""])
def test_the_overview_draws_any_name(bag, tmp_path):
    recording = recorded.read_recording(write_recording(tmp_path / "r.mcap"))
    png = overview({**drive_summary(recording), "bag": bag}, recording, chosen_frames())
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape == (700, 1200, 3)


def test_the_overview_of_a_run_without_frames():
    recording = recorded.Recording()
    summary = {**drive_summary(recording), "frames_in": 0}
    del summary["accuracy"]
    assert overview(summary, recording, ChosenFrames(0)).startswith(b"\x89PNG")


def test_the_overview_marks_the_deadline_and_the_stages(tmp_path):
    recording = recorded.read_recording(write_recording(tmp_path / "r.mcap"))
    png = overview(drive_summary(recording), recording, ChosenFrames(6))
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).reshape(-1, 3)
    colours = {tuple(map(int, colour)) for colour in np.unique(pixels, axis=0)}
    for hex_colour in ("#e03131", "#7b93ff", "#b197fc", "#67c7e8"):
        blue_green_red = tuple(int(hex_colour[i : i + 2], 16) for i in (5, 3, 1))
        assert blue_green_red in colours, hex_colour


def test_in_lockstep_no_frame_is_said_to_be_in_time(tmp_path):
    page = drive_page(tmp_path)
    assert f"{UNTIMED} <b>4</b>" in page
    assert "OK <b>" not in page
    screen = Console(width=200)
    with screen.capture() as shown:
        screen.print(summary_table(drive_summary(recorded.read_recording(tmp_path / "r.mcap"))))
    assert f"{UNTIMED} " in shown.get()
    assert " OK " not in shown.get()


PERIOD_MS = 100


def frame(number, time_ms, latency_ms=5.0, status=FrameStatus.OK):
    """The report of a frame that was logged at this time; without a latency it has no result."""
    record = FrameRecord(sequence=number, stamp_ns=time_ms * MS, status=status)
    for place, name in enumerate(STAMPS):
        setattr(record, name, 10**9 + round(place * (latency_ms or 5) / 5 * MS))
    if latency_ms is None:
        record.published_ns = 0
    return recorded.ReportedFrame.of_record(record, time_ms * MS)


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
    chart = charts.histogram([5.05] * 96 + [500.0] + [None] * 3, 10.0)
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
    recording = recorded.Recording(reports=frames_at(*times_ms), by_number=True)
    for number in (*range(10), 20):
        recording.detections[number] = recorded.FrameDetections(("car",), None, None)
    cars = series(charts.classes(recording), "car (11)")
    assert [*cars.values()] == [1, 1, pytest.approx(0.5, abs=0.5), 0, 0, *[None] * 4, 1, 1]
    assert [*cars] == pytest.approx([0.395 * i for i in range(11)], abs=0.01)


def test_all_charts_of_a_drive_have_one_axis_of_time():
    recording = recorded.Recording(reports=frames_at(1000, 2000, 5000), by_number=True)
    recording.health = [recorded.HealthChange(500 * MS, HealthMode.NOMINAL, "start"),
                        recorded.HealthChange(9000 * MS, HealthMode.UNSAFE, "ended")]  # fmt: skip
    made = charts.timeline(recording.reports, 10.0), charts.health(recording)
    assert [chart.x.range for chart in (*made, charts.classes(recording))] == [(0.0, 6.0)] * 3


def test_health_shares_the_axis_of_the_frames():
    """A mode known before the first frame begins with it."""
    changes = [(500, HealthMode.NOMINAL, "start"), (2000, HealthMode.UNSAFE, "silence"),
               (3000, HealthMode.NOMINAL, "over")]  # fmt: skip
    recording = recorded.Recording(reports=frames_at(1000, 2000, 5000))
    recording.health = [recorded.HealthChange(ms * MS, mode, cause) for ms, mode, cause in changes]
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


PICTURE = jpeg(np.full((90, 160, 3), 120, np.uint8))
FOUND = recorded.FrameDetections(
    ("car",), np.array([0.75], np.float32), np.array([[20, 9, 40, 18]], np.float32)
)
BEFORE = recorded.DetectedObject("car", 0.5, (0.0, 0.0, 20.0, 18.0))


def moved(index):
    after = recorded.DetectedObject("car", 0.75, (20.0, 9.0, 40.0, 18.0))
    return Change(index, 0.0, ChangeKind.MOVED, BEFORE, after)


def reported(status):
    return recorded.ReportedFrame.of_record(FrameRecord(status=status), 0)


def filmed(count, changed, missed=()):
    made = Film()
    for index in range(count):
        report = reported(FrameStatus.LATE if index in missed else FrameStatus.OK)
        made.take(index, PICTURE, 4.0, report, FOUND, [moved(index)] if index in changed else [])
    assert made.taken == count
    return [frame["index"] for frame in made.frames()]


def test_what_is_drawn_need_not_be_ascii():
    assert cv2.__version__ < "5" or (blank(99, 40, "車") != blank(99, 40, "?")).any()
    blank(99, 40, "\udcff.jpg")  # as Python reads a name that is no UTF-8


def test_a_frame_has_its_objects_and_changes_in_shares_of_the_picture():
    made = Film()
    made.take(3, PICTURE, 4.0, None, FOUND, [moved(3)])
    (frame,) = made.frames()
    assert (frame["index"], frame["status"], frame["missed"]) == (3, "NO REPORT", True)
    assert frame["objects"] == [[0.5, 0.4, 1.0, 0.8, "car 0.75", "#3a9dff"]]
    assert frame["changed"] == [
        [0.0, 0.0, 0.5, 0.8, "car 0.50 before", BEFORE_COLOUR],
        [0.5, 0.4, 1.0, 0.8, "car 0.75 moved", AFTER_COLOUR],
    ]
    assert frame["picture"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(("count", "stride"), [(8, 1), (9, 2), (17, 4), (100, 16)])
def test_of_a_long_drive_evenly_spread_frames_are_kept(monkeypatch, count, stride):
    monkeypatch.setattr(film, "MAX_FRAMES", 8)
    assert filmed(count, set()) == list(range(0, count, stride))


def test_frames_that_changed_are_kept_until_they_alone_are_too_many(monkeypatch):
    monkeypatch.setattr(film, "MAX_FRAMES", 8)
    assert {5, 37, 77} <= set(filmed(100, {5, 37, 77}))
    assert {5, 37, 77} <= set(filmed(100, {}, missed={5, 37, 77}))


@pytest.mark.parametrize("marked", [range(100), range(50), range(7), range(1, 100, 2)])
def test_where_too_many_are_marked_the_whole_drive_is_shown_evenly(monkeypatch, marked):
    monkeypatch.setattr(film, "MAX_FRAMES", 8)
    for shown in (filmed(100, marked), filmed(100, (), missed=marked)):
        assert 4 <= len(shown) <= 8
        assert max(np.diff([*shown, 100])) <= 50
