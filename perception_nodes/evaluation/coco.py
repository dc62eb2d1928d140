"""Labels in COCO format: one JSON file for all images, boxes in pixels."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from perception_nodes.core.errors import listed
from perception_nodes.evaluation.labels import DataError, LabelledImage
from perception_nodes.evaluation.yolo import load_keys

ROUNDING_PX = 1.0
"""How far a box may extend beyond the image."""
_Object = tuple[tuple[float, ...], int, bool]
"""Box, class, and whether it is a crowd."""


def read_coco(
    annotations: Path, images: Path
) -> tuple[tuple[str, ...], list[LabelledImage], list[str]]:
    """Read a COCO file of boxes.

    Args:
        annotations: the JSON file.
        images: folder that the file names are relative to.

    Returns:
        Class names, images, and a note if annotations are repeated.

    Raises:
        DataError: the file has another format, a label is out of range, an image is missing, or two
            have one file.
    """
    content = load_keys(annotations, json.loads)
    try:
        categories = {
            int(key): str(entry["name"])
            for key, entry in _by_id(annotations, content, "categories").items()
        }
        records = _by_id(annotations, content, "images")
        rows: dict[Any, Counter[_Object]] = {key: Counter() for key in records}
        index = {category: position for position, category in enumerate(categories)}
        sizes: dict[Any, tuple[float, float]] = {}
        errors = []
        for number, entry in enumerate(content["annotations"]):
            if problem := _problem(entry, records, categories):
                errors.append(f"annotations[{number}] (id {entry.get('id')}): {problem}")
                continue
            x, y, width, height = map(float, entry["bbox"])
            key = entry["image_id"]
            sizes[key] = size = float(records[key]["width"]), float(records[key]["height"])
            scale_x, scale_y = 1 / size[0], 1 / size[1]
            box = (x * scale_x, y * scale_y, (x + width) * scale_x, (y + height) * scale_y)
            crowd = bool(entry.get("iscrowd", 0))
            rows[key][box, index[int(entry["category_id"])], crowd] += 1
        files = {key: images / str(entry["file_name"]) for key, entry in records.items()}
    except (KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError(
            f"{annotations} is not a COCO file of boxes: {type(error).__name__} {error}; it needs "
            "categories (id, name), images (id, file_name, width, height) and annotations "
            "(image_id, category_id, bbox)"
        ) from error
    if errors:
        raise DataError(f"{annotations}: {listed(errors, separator='; ')}")
    missing = [path for path in files.values() if not path.is_file()]
    if missing or not files:
        raise DataError(
            f"{annotations}: {len(missing)} of {len(files)} images are not in {images}"
            + (f", the first is {missing[0]}" if missing else "")
        )
    twice = [path for path, count in Counter(files.values()).items() if count > 1]
    if twice:  # labels of one would be background of the other
        raise DataError(
            f"{annotations}: {len(twice)} files have two of its images, {twice[0]} for one; join "
            "the annotations of a file under one id"
        )
    labelled = [
        LabelledImage(
            files[key],
            np.array([box for box, _, _ in found], np.float64).reshape(-1, 4).clip(0, 1),
            np.array([label for _, label, _ in found], np.int64),
            np.array([crowd for _, _, crowd in found], np.bool_),
            sizes.get(key),
        )
        for key, found in rows.items()
    ]
    repeated = sum(count - 1 for found in rows.values() for count in found.values())
    note = f"{repeated} annotations repeat another one and count once: {annotations}"
    return tuple(categories.values()), labelled, [note] * (repeated > 0)


def _by_id(path: Path, content: dict[str, Any], part: str) -> dict[Any, Any]:
    """The entries of a list by their ids, which must differ."""
    entries: dict[Any, Any] = {}
    for entry in content[part]:
        if entries.setdefault(entry["id"], entry) != entry:  # merged files repeat themselves
            raise DataError(f"{path}: two of its {part} have the id {entry['id']!r}; renumber them")
    return entries


def _problem(entry: Any, records: dict[Any, Any], categories: dict[int, str]) -> str:
    """What is wrong with an annotation; empty if nothing is."""
    if (image := records.get(entry["image_id"])) is None:
        return f"image_id {entry['image_id']} is not among the images"
    if int(entry["category_id"]) not in categories:
        return f"category_id {entry['category_id']} is not among the categories"
    box = [float(value) for value in entry["bbox"]]
    if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
        return f"bbox {entry['bbox']} is not x, y, width, height of some area"
    width, height = float(image["width"]), float(image["height"])
    inside = min(box[:2]) >= -ROUNDING_PX
    inside &= box[0] + box[2] <= width + ROUNDING_PX and box[1] + box[3] <= height + ROUNDING_PX
    return "" if inside else f"bbox {entry['bbox']} leaves its {width:g} x {height:g} image"
