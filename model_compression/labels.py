"""Label files: what is known of the objects on one frame, and where nothing is known.

A label file is JSON, `SET/NAME.json` in the folder of all labels:

    {"image": "open/dhaka/images/train/0001.jpg", "frame": null, "set": "dhaka",
     "size": [640, 360],
     "objects": [{"class": "car", "box": [12.5, 170.0, 99.0, 240.5], "score": 0.93}],
     "ignored": [{"classes": ["person", "bicycle"], "box": [300.0, 160.0, 330.0, 210.0]}]}

`image` is relative to the folder of the data; `frame` numbers a video's frame. Boxes are left, top,
right and bottom in pixels of the image. A score is the probability of the object: 1 where people
labelled it. In an ignored box neither the presence nor the absence of its classes is known; a class
that nobody looked for on a frame is ignored in a box of the frame's size.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model_compression.errors import CompressionError
from perception_nodes.system.files import write_whole

CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic light", "stop sign")
"""Classes of a label file, in the order of their numbers."""
SUFFIX = ".json"


@dataclass(frozen=True)
class Labels:
    """The labels of one frame.

    Attributes:
        image: image or video file, relative to the folder of the data.
        frame: number of the video's frame; None for an image.
        set_name: the set that the frame belongs to.
        size_px: width and height of the image.
        boxes: float32 [n, 4], left, top, right, bottom in pixels of the image.
        classes: int64 [n], indices into `CLASSES`.
        scores: float32 [n], probability of the object, more than 0 and at most 1.
        ignored_boxes: float32 [m, 4], as `boxes`.
        ignored_classes: bool [m, 8], the classes of which nothing is known in each ignored box.
    """

    image: str
    frame: int | None
    set_name: str
    size_px: tuple[int, int]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    ignored_boxes: NDArray[np.float32]
    ignored_classes: NDArray[np.bool_]


def read(path: Path) -> Labels:
    """Read a label file.

    Raises:
        CompressionError: it is none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        objects, ignored = values["objects"], values["ignored"]
        named = [[CLASSES.index(name) for name in one["classes"]] for one in ignored]
        labels = Labels(
            values["image"],
            values["frame"],
            values["set"],
            (int(values["size"][0]), int(values["size"][1])),
            _boxes(objects),
            np.array([CLASSES.index(one["class"]) for one in objects], np.int64),
            np.array([one["score"] for one in objects], np.float32),
            _boxes(ignored),
            np.array([[i in one for i in range(len(CLASSES))] for one in named], bool).reshape(
                -1, len(CLASSES)
            ),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CompressionError(f"{path} is no label file: {error!r}; label the set again") from None
    return labels


def read_all(folder: Path) -> Iterator[Labels]:
    """Read the label files of a folder, sorted by set and name.

    A folder may be read while it is filled: a label file is there as a whole, or not at all.
    """
    yield from map(read, sorted(folder.glob(f"*/*{SUFFIX}")))


def write(labels: Labels, path: Path) -> None:
    """Write a label file, as a whole or not at all."""
    rows = zip(labels.boxes, labels.classes, labels.scores, strict=True)
    masks = zip(labels.ignored_boxes, labels.ignored_classes, strict=True)
    values: dict[str, Any] = {
        "image": labels.image,
        "frame": labels.frame,
        "set": labels.set_name,
        "size": list(labels.size_px),
        "objects": [
            {"class": CLASSES[label], "box": _rounded(box), "score": round(float(score), 3)}
            for box, label, score in rows
        ],
        "ignored": [
            {"classes": [CLASSES[i] for i in np.flatnonzero(classes)], "box": _rounded(box)}
            for box, classes in masks
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(values))


def read_video_frame(path: Path, index: int) -> NDArray[np.uint8]:
    """Read one frame of a video, uint8 [height, width, 3] BGR.

    Raises:
        CompressionError: it has no such frame.
    """
    video = cv2.VideoCapture(str(path))
    video.set(cv2.CAP_PROP_POS_FRAMES, index)
    whole, image = video.read()
    if not whole:
        raise CompressionError(f"{path} has no frame {index} that can be read; replace the file")
    return image.astype(np.uint8, copy=False)


def _boxes(objects: Sequence[dict[str, Any]]) -> NDArray[np.float32]:
    return np.array([one["box"] for one in objects], np.float32).reshape(-1, 4)


def _rounded(box: NDArray[np.float32]) -> list[float]:
    return [round(float(value), 1) for value in box]
