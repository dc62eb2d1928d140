"""Views of a frame: whole, mirrored, and tiles, which show it larger than a network's input."""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from model_compression.labelling.boxes import Boxes
from model_compression.labelling.detectors import Detector

TILES = {2: 0.6, 3: 0.42}
"""By the number of tiles in a row: width and height of one, as a share of the frame's."""
CUT_PX = 4.0
"""A box that ends so near an inner border of a tile is of an object that the tile cuts."""
LARGE = 0.35
"""Share of a tile from which on a box is left to the view of the whole frame."""


def whole(detector: Detector, frame: NDArray[np.uint8]) -> Boxes:
    """Look at the frame as it is."""
    return detector.detect(frame)


def mirror(detector: Detector, frame: NDArray[np.uint8]) -> Boxes:
    """Look at the frame mirrored, and mirror what is found back."""
    found = detector.detect(cv2.flip(frame, 1))
    left, top, right, bottom = found.corners.T
    width = np.float32(frame.shape[1])
    corners = np.stack([width - right, top, width - left, bottom], axis=1)
    return Boxes(corners, found.scores, found.names)


def tiles(detector: Detector, frame: NDArray[np.uint8], in_a_row: int = 2) -> Boxes:
    """Look at tiles that overlap, so many in a row and in a column."""
    height, width = frame.shape[:2]
    wide, high = round(width * TILES[in_a_row]), round(height * TILES[in_a_row])
    parts = []
    for top in np.linspace(0, height - high, in_a_row).round().astype(int):
        for left in np.linspace(0, width - wide, in_a_row).round().astype(int):
            found = detector.detect(np.ascontiguousarray(frame[top:, left:][:high, :wide]))
            inner = np.array([left > 0, top > 0, left + wide < width, top + high < height])
            kept = whole_in_tile(found.corners, (wide, high), inner)
            shift = np.array([left, top, left, top], np.float32)
            parts.append(Boxes(found.corners + shift, found.scores, found.names)[kept])
    return Boxes.joined(parts)


def whole_in_tile(
    corners: NDArray[np.float32], size_px: tuple[int, int], inner: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Say which boxes are of objects that a tile shows as a whole, bool [n].

    Args:
        corners: float32 [n, 4], in pixels of the tile.
        size_px: width and height of the tile.
        inner: bool [4], which of its left, top, right and bottom border is within the frame.
    """
    width, height = size_px
    room = np.stack([*corners.T[:2], width - corners[:, 2], height - corners[:, 3]], axis=1)
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    return ~((room < CUT_PX) & inner).any(axis=1) & (areas <= LARGE * width * height)


VIEWS: dict[str, Callable[[Detector, NDArray[np.uint8]], Boxes]] = {
    "whole": whole,
    "mirror": mirror,
    "tiles": tiles,
    "fine": partial(tiles, in_a_row=3),
}
"""By name, what looks at a frame, uint8 [height, width, 3] BGR, and returns boxes in its pixels."""
