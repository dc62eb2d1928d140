"""Every page escapes what comes from recordings, files and machines, and shows what it is given."""

import copy

import cv2
import gpu_page
import numpy as np
import pytest
from rich.console import Console

from perception_nodes.core.frame import STAMPS, Detections, FrameRecord, FrameStatus
from perception_nodes.core.statistics import latency_percentiles, summarize
from perception_nodes.drives.schemas import DETECTIONS, FRAME_REPORT
from perception_nodes.evaluation import models_report
from perception_nodes.lab import page as lab_page
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.replay.compare import compare_runs
from perception_nodes.replay.outputs import write_summary
from perception_nodes.report import drive_report, page
from perception_nodes.report.changes import Change, ChangeKind
from perception_nodes.report.chosen_frames import ChosenFrames
from perception_nodes.report.overview import overview
from perception_nodes.report.page import UNTIMED
from perception_nodes.report.recording import (
    DETECTIONS_TOPIC,
    FRAME_REPORT_TOPIC,
    DetectedObject,
    Recorder,
    Recording,
    read_recording,
)
from perception_nodes.report.screen import summary_table
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
    with Recorder(path) as recorder:
        for index in range(6):
            at_ns = 10**9 + index * 33 * MS
            record = FrameRecord(sequence=index, stamp_ns=at_ns, frame_id=name, reason=name)
            record.status = (FrameStatus.FAILED, FrameStatus.LATE, *[FrameStatus.OK] * 4)[index]
            for place, stamp in enumerate(STAMPS):
                setattr(record, stamp, at_ns + place * MS)
            recorder.write(FRAME_REPORT_TOPIC, FRAME_REPORT, at_ns, write_frame_report(record))
            if index > 1:
                message = write_detection_array(at_ns, name, found, (name,))
                recorder.write(DETECTIONS_TOPIC, DETECTIONS, at_ns, message)
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
    item = DetectedObject(HOSTILE, 0.9, (0.0, 0.0, 1.0, 1.0))
    chosen.take(0, jpeg, 4.0, 1)
    changes = [Change(0, 0.0, ChangeKind.VANISHED, before=item)]
    chosen.take_changed(0, jpeg, changes)
    chosen.film.take(0, np.zeros((48, 64, 3), np.uint8), 1.0, None, None, changes)
    return chosen


def drive_page(folder, taken=1):
    recording, chosen = read_recording(write_recording(folder / "r.mcap")), chosen_frames()
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
        recording = read_recording(write_recording(runs[-1] / "detections.mcap"), by_number=True)
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
    assert (
        "change 58" in body and "change 59" not in body and "and 10 more, in summary.json" in body
    )
    assert body.count("data:image/jpeg;base64,") == 3  # one of them is played
    assert "1 of 7 frames are shown." in body and "are shown" not in drive_page(tmp_path)


def test_a_value_that_is_forgotten_is_an_error():
    """Instead of a page with a hole."""
    with pytest.raises(Exception, match="'verdict' is undefined"):
        page.render("gpu.html.j2", heading="", tone="", missing=[], tables=[])


@pytest.mark.parametrize("bag", ["größe", "a $b$ c", "x" * 500, ""])
def test_the_overview_draws_any_name(bag, tmp_path):
    recording = read_recording(write_recording(tmp_path / "r.mcap"))
    png = overview({**drive_summary(recording), "bag": bag}, recording, chosen_frames())
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape == (700, 1200, 3)


def test_the_overview_of_a_run_without_frames():
    recording = Recording()
    summary = {**drive_summary(recording), "frames_in": 0}
    del summary["accuracy"]
    assert overview(summary, recording, ChosenFrames(0)).startswith(b"\x89PNG")


def test_the_overview_marks_the_deadline_and_the_stages(tmp_path):
    recording = read_recording(write_recording(tmp_path / "r.mcap"))
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
        screen.print(summary_table(drive_summary(read_recording(tmp_path / "r.mcap"))))
    assert f"{UNTIMED} " in shown.get()
    assert " OK " not in shown.get()
