"""The objects in the frames of one camera, with names, identities and places, for the page."""

from collections import OrderedDict
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import DetectionRecord
from perception_nodes.report.annotate import class_colour
from perception_nodes.report.recording import FrameDetections, Look, corners_of, nanoseconds
from perception_nodes.view.feed import ShownPicture
from perception_nodes.view.pictures import Shot, keep

Place: TypeAlias = tuple[float, ...]
"""Corners of a frame's boxes, one box behind the other.

A message without a frame number belongs to the frame with the same stamp and the same corners;
some cameras give no stamps.
"""
Ids: TypeAlias = tuple[str | None, ...]
"""The id of each box's track, None for a box without one."""


def place_of(boxes: NDArray[np.float32]) -> Place:
    """The corners of boxes float32 [n, 4], x1 y1 x2 y2 in source pixels."""
    return tuple(boxes.ravel().tolist())


def identified(message: Any) -> tuple[Place, Ids]:
    """Read a `vision_msgs/Detection2DArray` of the tracker."""
    ids = (detection.id or None for detection in message.detections)
    return place_of(corners_of(message)), tuple(ids)


class Objects:
    """Joins the detections in shared memory with the names and identities in messages.

    Attributes:
        names: names of the classes, by number.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._ids: OrderedDict[tuple[int, Place], Ids] = OrderedDict()

    def identify(self, message: Any) -> None:
        """Keep the identities of a `Detection2DArray` of tracked detections."""
        place, ids = identified(message)
        keep(self._ids, (nanoseconds(message.header.stamp), place), ids)

    def found(self, report: Any, record: DetectionRecord | None) -> FrameDetections | None:
        """The objects of a frame; None if nothing was published, or it did not reach us.

        Args:
            report: an object with the attributes of `FrameReport`.
            record: the frame's detections; None if there are none.
        """
        if record is None or not report.published_ns or record.count != report.detections:
            return None
        objects, names = record.detections(), self.names
        labels = (names[n] if n < len(names) else f"class {n}" for n in objects.classes)
        return FrameDetections(tuple(labels), objects.scores, objects.boxes)

    def picture(self, report: Any, shot: Shot, found: FrameDetections | None) -> ShownPicture:
        """A frame as the page shows it, with its objects if they are known."""
        regions = [(x, y, x + w, y + h) for x, y, w, h, _ in Look.all_of(report)]
        looks = shot.place(np.array(regions, np.float32).reshape(-1, 4)).round(4).tolist()
        if found is None:
            return ShownPicture(shot.jpeg(), None, looks)
        key = nanoseconds(report.header.stamp), place_of(found.boxes)
        ids = self._ids.get(key, (None,) * len(found))
        places = shot.place(found.boxes).round(4).tolist()
        objects = [
            [*place, label, round(score, 2), class_colour(label), track]
            for place, label, score, track in zip(
                places, found.labels, found.scores.tolist(), ids, strict=True
            )
        ]
        return ShownPicture(shot.jpeg(), objects, looks)
