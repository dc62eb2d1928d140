"""Which kind an object is: where detectors are unsure, one votes on an enlarged crop of it."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_compression.labelling.boxes import overlaps
from model_compression.labelling.detectors import Detector
from model_compression.labels import CLASSES
from perception_nodes.system.files import write_whole

MARGIN = 0.5
"""What a crop shows on each side of an object, as a share of the object's longer side."""
SAME_IOU = 0.5
"""A box on the crop that overlaps the object by so much is a vote for its kind."""
KEPT_IOU = 0.9
"""A vote on a box that overlaps an object by so much is one on the object."""


def vote(
    detector: Detector, picture: NDArray[np.uint8], box: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a detector's best score for each class of an object, float64 [8].

    Args:
        detector: looks at a crop.
        picture: the frame, uint8 [height, width, 3] BGR.
        box: left, top, right and bottom of the object, in pixels.
    """
    margin = MARGIN * max(box[2] - box[0], box[3] - box[1])
    size = np.array(picture.shape[1::-1])
    left, top = np.maximum(box[:2] - margin, 0).astype(int)
    right, bottom = np.minimum(box[2:] + margin, size).astype(int)
    found = detector.detect(np.ascontiguousarray(picture[top:bottom, left:right]))
    inside = (box - np.array([left, top, left, top]))[None]
    same = found[overlaps(found.corners, inside)[:, 0] >= SAME_IOU]
    votes = np.zeros(len(CLASSES))
    for name in {*same.names.tolist()} & {*range(len(CLASSES))}:
        votes[name] = same.scores[same.names == name].max()
    return votes


class Votes:
    """The votes on the objects of a frame, kept in a file."""

    def __init__(self, path: Path) -> None:
        """Read what is there."""
        self._path, self._changed = path, False
        self._corners, self._kinds = np.empty((0, 4)), np.empty((0, len(CLASSES)))
        if path.exists():
            with np.load(path) as kept:
                self._corners, self._kinds = kept["corners"], kept["kinds"]

    def of(
        self, box: NDArray[np.float64], vote_on: Callable[[], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Return the votes on an object, float64 [8]; `vote_on` is called where none are kept."""
        iou = overlaps(self._corners, box[None])[:, 0]
        if not len(iou) or iou.max() < KEPT_IOU:
            self._corners = np.vstack([self._corners, box])
            self._kinds = np.vstack([self._kinds, vote_on()])
            self._changed = True
            return self._kinds[-1]
        return self._kinds[iou.argmax()]

    def write(self) -> None:
        """Write them, as a whole or not at all."""
        if self._changed:
            packed = io.BytesIO()
            np.savez_compressed(packed, corners=self._corners, kinds=self._kinds)
            write_whole(self._path, packed.getvalue())
