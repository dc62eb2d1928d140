"""Second looks of a replay: a schedule that two runs repeat to the byte."""

import json

import cv2
import numpy as np
import pytest
from commands import replay

from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.replay.looks import in_full
from perception_nodes.report.recording import read_recording


def test_two_runs_look_at_the_same_regions_and_write_the_same_bytes(root, tmp_path, no_pages):
    drive = root / "bags/sample_sqlite3", "--every", 12, "--golden", tmp_path / "golden.json"
    twice = "--second-look", 2
    first, second = (
        replay(*drive, *twice, *also, "--out", tmp_path / name, status=0)
        for name, also in (("one", ["--update"]), ("two", ["--box-iou", 1]))
    )
    assert first["detections_sha256"] == second["detections_sha256"]
    assert second["golden"]["changes"] == [] and first["parameters"]["second_look"] == 2
    assert json.loads((tmp_path / "golden.json").read_text())["made_with"]["second_look"] == 2
    recording = read_recording(tmp_path / "one" / "detections.mcap")
    assert recording.reports[0].looks == (), "where to look follows from the frame before"
    for report in recording.reports[1:]:
        (left, top, *size, cost), other = report.looks
        assert (size, cost) == ([416, 256], 0) and left <= 640 - 416 and top <= 272 - 256
        assert other[:2] != (left, top)

    whole = replay(*drive, "--out", tmp_path / "none")
    assert any("second_look 2, now None" in note for note in whole["warnings"])
    assert whole["detections_sha256"] != first["detections_sha256"]


def test_a_jpeg_is_decoded_in_full_for_its_regions():
    pixels = np.tile(np.arange(1242, dtype=np.uint8), (375, 1))
    file = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR))[1].tobytes()
    image = ImageView(7, "camera", 0, 0, "jpeg", 0, memoryview(file))
    whole = in_full(image)
    assert (whole.width, whole.height, whole.stamp_ns, whole.file_type) == (1242, 375, 7, "")
    assert in_full(whole) is whole
    with pytest.raises(FrameRejected):
        in_full(ImageView(7, "camera", 0, 0, "jpeg", 0, memoryview(file[:90])))
