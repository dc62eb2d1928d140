"""The boxes of a run as other programs read them."""

import csv
import json
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from perception_nodes.core.frame import FrameRecord, FrameStatus
from perception_nodes.replay.boxes import BOX_FILES, write_boxes
from perception_nodes.replay.tables import PLACE
from perception_nodes.report.recording import FrameDetections, Recording, ReportedFrame


def reported(number, status):
    record = FrameRecord(sequence=number, status=status, stamp_ns=7 + number)
    record.source_width, record.source_height = 64, 48
    return ReportedFrame.of_record(record, 0)


def test_each_format_has_all_boxes_in_pixels_of_the_frame(tmp_path):
    boxes = np.array([[1, 2, 11, 22], [30.5, 0, 64, 48]], np.float32)
    found = FrameDetections(("car", "person"), np.array([0.75, 0.5], np.float32), boxes)
    reports = [reported(0, FrameStatus.OK), reported(1, FrameStatus.FAILED)]
    recording = Recording(reports, {0: found}, by_number=True)
    write_boxes(tmp_path, tuple(BOX_FILES), recording, [Path("in/a.jpg"), Path("in/b.jpg")])
    first, second = map(json.loads, (tmp_path / "boxes.jsonl").read_text().splitlines())
    assert (first["frame"], first["stamp_ns"], first["file"]) == (0, 7, "a.jpg")
    assert first["objects"] == [
        {"class": "car", "score": 0.75, **dict(zip(PLACE, (1, 2, 10, 20), strict=True))},
        {"class": "person", "score": 0.5, **dict(zip(PLACE, (30.5, 0, 33.5, 48), strict=True))},
    ]
    assert (second["status"], second["objects"]) == ("FAILED", [])
    with (tmp_path / "boxes.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["file"], r["class"], r["x_px"], r["width_px"]) for r in rows] == [
        ("a.jpg", "car", "1.0", "10.0"),
        ("a.jpg", "person", "30.5", "33.5"),
    ]
    coco = COCO(tmp_path / "coco.json")
    assert coco.loadImgs([1])[0] == {"id": 1, "file_name": "b.jpg", "width": 64, "height": 48}
    names = {one["id"]: one["name"] for one in coco.loadCats(coco.getCatIds())}
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[0]))
    assert [(names[one["category_id"]], one["bbox"]) for one in annotations] == [
        ("car", [1.0, 2.0, 10.0, 20.0]),
        ("person", [30.5, 0.0, 33.5, 48.0]),
    ]
    write_boxes(tmp_path, ("jsonl",), recording, ())
    assert json.loads((tmp_path / "boxes.jsonl").read_text().splitlines()[0])["file"] is None
