"""The boxes of a replay as files that other programs read: JSON lines, CSV, COCO."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from perception_nodes.core.frame import FrameStatus
from perception_nodes.replay.tables import PLACE, objects_of
from perception_nodes.report.recording import Recording
from perception_nodes.report.timing import csv_text
from perception_nodes.system.files import write_whole

BOX_FILES = {"jsonl": "boxes.jsonl", "csv": "boxes.csv", "coco": "coco.json"}
"""The file of each format."""
COLUMNS = ("frame", "stamp_ns", "file", "class", "score", *PLACE)
Frames = list[dict[str, Any]]


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
    frames = [
        {
            "frame": report.sequence,
            "stamp_ns": report.stamp_ns,
            "file": files[report.sequence].name if files else None,
            "source_width": report.source_width,
            "source_height": report.source_height,
            "status": FrameStatus(report.status).name,
            "objects": list(objects_of(recording, report)),
        }
        for report in recording.reports
    ]
    texts = {"jsonl": _lines, "csv": _table, "coco": _coco}
    for one in formats:
        write_whole(folder / BOX_FILES[one], texts[one](frames))


def _lines(frames: Frames) -> str:
    """A JSON object a frame, also for a frame without detections; its status says why."""
    return "".join(json.dumps(frame) + "\n" for frame in frames)


def _table(frames: Frames) -> str:
    """A row an object."""
    rows = ({**frame, **one} for frame in frames for one in frame["objects"])
    return csv_text([COLUMNS, *([row[column] for column in COLUMNS] for row in rows)])


def _coco(frames: Frames) -> str:
    """A set in the format of COCO, whose annotations have scores as in its files of results."""
    found = [(frame["frame"], one) for frame in frames for one in frame["objects"]]
    labels = sorted({one["class"] for _, one in found})
    annotations = [
        {
            "id": number,
            "image_id": frame,
            "category_id": labels.index(one["class"]) + 1,
            "bbox": [one[side] for side in PLACE],
            "area": round(one["width_px"] * one["height_px"], 2),
            "iscrowd": 0,
            "score": one["score"],
        }
        for number, (frame, one) in enumerate(found, 1)
    ]
    images = [
        {
            "id": frame["frame"],
            "file_name": frame["file"] or f"{frame['frame']:06d}",
            "width": frame["source_width"],
            "height": frame["source_height"],
        }
        for frame in frames
    ]
    categories = [{"id": number, "name": label} for number, label in enumerate(labels, 1)]
    return json.dumps({"images": images, "categories": categories, "annotations": annotations})
