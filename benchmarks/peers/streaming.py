"""Streaming accuracy: what a planner holds at each instant, against the truth of that instant.

See `perception_nodes/evaluation/streaming.py`. Boxes come from vision_msgs/Detection2DArray only.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from perception_nodes.core.errors import listed
from perception_nodes.core.frame import FrameHeader
from perception_nodes.evaluation.accuracy import class_groups, labelled_objects, score_of
from perception_nodes.evaluation.labels import LabelledImage, LabelledSet
from perception_nodes.evaluation.matching import ALL_HEIGHTS, match
from perception_nodes.networks.model import Model
from perception_nodes.replay.accuracy import detected_objects
from perception_nodes.report.recording import FrameDetections, detections_of

LENGTH = struct.Struct("<I")
"""Before each message in the file that the subscriber keeps."""


def read_kept(file: Path) -> dict[int, FrameDetections]:
    """Objects by the stamp of their frame, of the messages that the subscriber has kept.

    Raises:
        RecordingError: a message is no Detection2DArray as it is known here.
    """
    found: dict[int, FrameDetections] = {}
    with file.open("rb") as kept:
        while len(head := kept.read(LENGTH.size)) == LENGTH.size:
            (length,) = LENGTH.unpack(head)
            if len(message := kept.read(length)) < length:  # the subscriber was killed
                break
            stamp_ns, objects = detections_of(message)
            found.setdefault(stamp_ns, objects)  # the first answer to a frame counts
    return found


def accuracy(
    held: Iterable[tuple[int, FrameDetections | None]],
    labels: Mapping[int, LabelledImage],
    truth: LabelledSet,
    size: Sequence[int],
) -> dict[str, Any]:
    """Average precision at IoU 0.5 of what is held.

    Args:
        held: number of the drive's frame of each instant, and the objects that are held then.
        labels: labelled images by that number.
        truth: their set.
        size: width and height of the frames, pixels.

    Returns:
        `map50`, `instants` that were judged, and `by_class`; None for what has no object. `map50`
        is None too if none of the labels that are held is a class of the truth, as where they are
        numbers; `not_known` says so.
    """
    judged = [(labels[number], objects) for number, objects in held if number in labels]
    names = {*truth.classes, *(name for names in truth.counts_as.values() for name in names)}
    labels_held = {
        label for _, objects in judged if objects is not None for label in objects.labels
    }
    classes = tuple(sorted(names | labels_held))
    groups, numbers, _ = class_groups(cast(Model, SimpleNamespace(name="", classes=classes)), truth)
    group_of = {classes[i]: n for n, indices in enumerate(groups.values()) for i in indices}
    if labels_held and labels_held.isdisjoint(group_of):
        why = (
            f"none of its classes ({listed(sorted(labels_held))}) is one of {truth.name}'s "
            f"({listed([*groups])})"
        )
        return {"map50": None, "instants": len(judged), "not_known": why}
    header = FrameHeader(source_width=size[0], source_height=size[1], scale_y=1.0)
    there = [labelled_objects(image, truth, numbers, header) for image, _ in judged]
    found = [detected_objects(objects, group_of, header) for _, objects in judged]
    matches = match(there, found, len(groups))[ALL_HEIGHTS] if judged else []
    weights = np.ones(len(judged), np.int64)
    return {
        "map50": score_of(matches, weights).map50,
        "instants": len(judged),
        "by_class": {
            name: score_of([one], weights).map50 for name, one in zip(groups, matches, strict=False)
        },
    }
