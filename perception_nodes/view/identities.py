"""Matches the detections of a frame with the tracks that the tracker publishes."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Place: TypeAlias = tuple[float, ...]
"""Corners of a frame's boxes, one box behind the other.

A message without a frame number belongs to the frame with the same stamp and the same corners;
some cameras give no stamps.
"""
Ids: TypeAlias = tuple[str | None, ...]
"""The id of each box's track, None for a box without one."""


def place_of(boxes: NDArray[np.float32]) -> Place:
    """Where boxes float32 [n, 4] are, x1 y1 x2 y2 in source pixels."""
    return tuple(boxes.ravel().tolist())


def identified(message: Any) -> tuple[Place, Ids]:
    """Read a `vision_msgs/Detection2DArray` of the tracker."""
    boxes = [detection.bbox for detection in message.detections]
    # Centre and size are doubles, which give back the exact corners that they were made of.
    centres = np.array([(b.center.position.x, b.center.position.y) for b in boxes]).reshape(-1, 2)
    halves = np.array([(b.size_x, b.size_y) for b in boxes]).reshape(-1, 2) / 2
    corners = np.hstack([centres - halves, centres + halves]).astype(np.float32)
    return place_of(corners), tuple(detection.id or None for detection in message.detections)
