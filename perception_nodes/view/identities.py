"""Which detection of a frame belongs to which track, as the tracker tells it."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Place: TypeAlias = tuple[float, ...]
"""Corners of a frame's boxes, one box behind the other. With the stamp, which some cameras do not
give, they tell which frame a message without its number is about."""
Ids: TypeAlias = tuple[str | None, ...]
"""Of the track of each box, None where there is none."""


def place_of(boxes: NDArray[np.float32]) -> Place:
    """Where boxes float32 [n, 4] are, x1 y1 x2 y2 in source pixels."""
    return tuple(boxes.ravel().tolist())


def identified(message: Any) -> tuple[Place, Ids]:
    """Read a `vision_msgs/Detection2DArray` of the tracker."""
    boxes = [detection.bbox for detection in message.detections]
    # Centre and size are double, so that the very corners come back that they were made of.
    centres = np.array([(b.center.position.x, b.center.position.y) for b in boxes]).reshape(-1, 2)
    halves = np.array([(b.size_x, b.size_y) for b in boxes]).reshape(-1, 2) / 2
    corners = np.hstack([centres - halves, centres + halves]).astype(np.float32)
    return place_of(corners), tuple(detection.id or None for detection in message.detections)
