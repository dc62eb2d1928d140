"""Streaming accuracy of made-up runs, against what the matcher says of the same boxes."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from made_runs import MS, in_time, report
from rich.console import Console
from typer.testing import CliRunner

from perception_nodes.cli.app import app
from perception_nodes.core.frame import FrameStatus
from perception_nodes.evaluation.labels import LabelledImage, LabelledSet
from perception_nodes.graph import ros_packages
from perception_nodes.lab import streaming
from perception_nodes.networks.model import load_model
from perception_nodes.replay.accuracy import accuracy
from perception_nodes.report.recording import FrameDetections, Recording

COUNT, WIDTH, HEIGHT = 20, 640, 320
STAMPS = [1_000_000_000 + i * 100 * MS for i in range(COUNT)]
SIZE = {"source_width": WIDTH, "source_height": HEIGHT}


def detected(frame):
    """A car that is somewhere else in each frame."""
    box = np.array([[8 + 28 * frame, 100, 40 + 28 * frame, 132]], np.float32)
    return FrameDetections(("car",), np.ones(1, np.float32), box)


def truth(name="car"):
    scale, one = np.array([WIDTH, HEIGHT] * 2), (np.zeros(1, np.int64), np.zeros(1, bool))
    boxes = [detected(i).boxes / scale for i in range(COUNT)]
    images = [LabelledImage(Path(f"{i}.png"), box, *one) for i, box in enumerate(boxes)]
    return LabelledSet(f"{name}s", (name,), tuple(images), notes=("a teacher's",))


def score(recording):
    drive = SimpleNamespace(frame_files=(), path="drive")
    return accuracy(load_model("open-n"), drive, recording, truth(), "")


def played(took_ms, dropped=()):
    """A run whose detections are the truth of their own frames."""
    run = in_time(STAMPS)
    run.numbers = list(range(COUNT))
    for i in dropped:
        run.reports[i] = report(STAMPS[i], FrameStatus.SKIPPED_LATE, **SIZE)
    for i in {*run.numbers} - {*dropped}:
        run.reports[i] = report(STAMPS[i], took_ms=took_ms, **SIZE)
    run.detections = [one for i, one in enumerate(run.detections) if i not in dropped]
    return run


def figures(run):
    objects = {stamp: detected(STAMPS.index(stamp)) for _, stamp in run.detections}
    return streaming.figures(run, objects, {i: 5_000 + i for i in range(COUNT)}, score)


def shifted(frames):
    """What the matcher says of frame i against the detections of frame i - frames."""
    reports = [report(i, sequence=i, **SIZE) for i in range(COUNT)]
    found = {i: detected(i - frames) for i in range(frames, COUNT)}
    return score(Recording(reports, found, by_number=True))


def test_no_latency_is_the_accuracy_of_an_evaluation_and_a_delay_that_of_older_detections():
    still = figures(played(0.0))
    assert still["held"] == still["own"] == shifted(0)
    assert (still["held"]["map50"], still["nothing_held"]) == (pytest.approx(1.0, abs=0.01), 0)
    late = figures(played(150.0))
    assert late["held"] == shifted(2)
    assert (late["own"], late["nothing_held"]) == (still["own"], 2)
    assert late["held"]["map50"] < 0.1
    assert late["staleness_ms"] == {"p50": 200.0, "p99": 200.0}


def test_skipped_and_unreported_frames_count():
    found = figures(played(0.0, dropped=range(1, COUNT, 2)))
    assert found["held"]["frames"] == found["own"]["frames"] == COUNT
    assert found["held"]["map50"] < found["own"]["map50"] < 0.6
    assert (found["miss_rate"], found["silent_misses"]) == (0.5, 0)
    run = played(0.0)
    del run.reports[3]  # it died before it reported, and the detections are out
    assert figures(run)["own"]["map50"] == shifted(0)["map50"]
    del run.detections[3]
    lost = figures(run)
    assert (lost["held"]["frames"], lost["silent_misses"]) == (COUNT, 1)


def test_page_and_table():
    own = {"model": "open-n", "backend": "litert", "deadline_ms": 10.0}
    variants = [{"variant": f"[{ms}]", **own, **figures(played(ms))} for ms in (0.0, 150.0)]
    about = {"machine": "a machine", "drive": "drive", "truth": "cars", "notes": ["a teacher's"]}
    result = json.loads(json.dumps({**about, "variants": variants}))
    page = streaming.result_page(result)
    assert "Most right at each instant: [0.0], AP50" in page and "a teacher&#39;s" in page
    narrow = Console(width=80, record=True)
    narrow.print(streaming.result_table(result))
    text = narrow.export_text()
    assert "[150.0]" in text and "…" not in text and "200.0" in text


@pytest.mark.parametrize(
    ("file", "label", "variant", "words"),
    [
        ("0.png", "car", "rate:=2", "is set by the command"),
        ("0.png", "car", "model", "form NAME:=VALUE"),
        ("0.png", "cat", "model:=open-n backend:=null", "none of its classes (cat)"),
        ("strange.png", "car", "model:=open-n", "belongs to a frame of"),
    ],
)
def test_bad_input_is_told_before_anything_runs(tmp_path, monkeypatch, file, label, variant, words):
    monkeypatch.setattr(ros_packages, "require_ros", lambda: None)
    monkeypatch.setattr("perception_nodes.cli.bench.read_sets", lambda *_: [truth(label)])
    cv2.imwrite(str(tmp_path / file), np.zeros((48, 64, 3), np.uint8))
    options = ["bench", "streaming", str(tmp_path), "--truth", str(tmp_path), "--variant", variant]
    assert words in str(CliRunner().invoke(app, options).exception)
