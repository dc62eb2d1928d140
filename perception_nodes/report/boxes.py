"""The boxes of a replay as files that other programs read: JSON lines, CSV, COCO."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

from perception_nodes.core.frame import FrameStatus
from perception_nodes.report.recording import DetectedObject, Recording, ReportedFrame
from perception_nodes.report.timing import csv_text
from perception_nodes.system.files import write_whole

BOX_FILES = {"jsonl": "boxes.jsonl", "csv": "boxes.csv", "coco": "coco.json"}
"""The file of each format."""
COLUMNS = ("frame", "stamp_ns", "file", "class", "score", "x", "y", "width", "height")
Rows = list[tuple[ReportedFrame, str, list[DetectedObject]]]


def write_boxes(
    folder: Path, formats: Collection[str], recording: Recording, files: Sequence[Path]
) -> None:
    """Write the objects of all frames.

    Args:
        folder: where to.
        formats: which files to write.
        recording: the results.
        files: the image file of each frame by its number; empty for a drive without.
    """
    rows: Rows = []
    for report in recording.reports:
        name = files[report.sequence].name if files else ""
        found = recording.found(report)
        rows.append((report, name, [] if found is None else found.objects()))
    texts = {"jsonl": _lines, "csv": _table, "coco": _coco}
    for one in formats:
        write_whole(folder / BOX_FILES[one], texts[one](rows))


def _lines(rows: Rows) -> str:
    """A JSON object a frame, also for a frame without detections; its status says why."""
    return "".join(
        json.dumps(
            {
                "frame": report.sequence,
                "stamp_ns": report.stamp_ns,
                **({"file": name} if name else {}),
                "status": FrameStatus(report.status).name,
                "objects": [
                    {"class": one.label, "score": _short(one.score), "box": _box(one)}
                    for one in objects
                ],
            }
        )
        + "\n"
        for report, name, objects in rows
    )


def _table(rows: Rows) -> str:
    """A row an object."""
    cells = (
        (report.sequence, report.stamp_ns, name, one.label, _short(one.score), *_box(one))
        for report, name, objects in rows
        for one in objects
    )
    return csv_text([COLUMNS, *cells])


def _coco(rows: Rows) -> str:
    """A set in the format of COCO, whose annotations have scores as in its files of results."""
    labels = sorted({one.label for *_, objects in rows for one in objects})
    numbers = {label: number for number, label in enumerate(labels, 1)}

    boxes = ((report.sequence, one) for report, _, objects in rows for one in objects)
    annotations = [
        {
            "id": number,
            "image_id": frame,
            "category_id": numbers[one.label],
            "bbox": _box(one),
            "area": round(_box(one)[2] * _box(one)[3], 2),
            "iscrowd": 0,
            "score": _short(one.score),
        }
        for number, (frame, one) in enumerate(boxes, 1)
    ]
    images = [
        {
            "id": report.sequence,
            "file_name": name or f"{report.sequence:06d}",
            "width": report.source_width,
            "height": report.source_height,
        }
        for report, name, _ in rows
    ]
    content = {
        "images": images,
        "categories": [{"id": number, "name": label} for label, number in numbers.items()],
        "annotations": annotations,
    }
    return json.dumps(content) + "\n"


def _box(one: DetectedObject) -> list[float]:
    """Left, top, width and height in pixels of the frame."""
    x1, y1, x2, y2 = one.box
    return [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]


def _short(score: float) -> float:
    return round(score, 4)
