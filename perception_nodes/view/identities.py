"""Which detection of a frame belongs to which track."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.geometry import pairwise_iou

MIN_IOU = 0.3
"""A track is stated for a later time than the frame's: its box has moved a little."""


def identities(boxes: NDArray[np.float32], tracks: Sequence[Any]) -> list[int | None]:
    """The id of the track on each box, None where there is none; the largest overlap first.

    Args:
        boxes: float32 [n, 4], x1 y1 x2 y2 in source pixels.
        tracks: objects with the attributes of `perception_interfaces/Track`.
    """
    found: list[int | None] = [None] * len(boxes)
    centred = np.array([track.box for track in tracks], np.float64).reshape(-1, 4)
    half = centred[:, 2:] / 2
    corners = np.hstack([centred[:, :2] - half, centred[:, :2] + half])
    overlaps = pairwise_iou(boxes.astype(np.float64), corners)
    while overlaps.size and overlaps.max() > MIN_IOU:
        box, track = divmod(int(overlaps.argmax()), len(tracks))
        found[box] = int(tracks[track].id)
        overlaps[box], overlaps[:, track] = 0, 0
    return found
