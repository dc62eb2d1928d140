"""Boxes that a detector found on a picture, and the names that detectors give them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_compression.labels import CLASSES
from perception_nodes.core.geometry import pairwise_iou

VEHICLE, TWO_WHEELER = "vehicle", "two-wheeler"
NAMES = (*CLASSES, VEHICLE, TWO_WHEELER)
"""What a detector may call a box: a class, or a group of classes whose kinds it does not tell."""
GROUPS = {
    "person": ("person",),
    VEHICLE: ("car", "bus", "truck"),
    TWO_WHEELER: ("bicycle", "motorcycle"),
    "traffic light": ("traffic light",),
    "stop sign": ("stop sign",),
}
"""Groups of classes whose boxes describe one object; its kind is decided apart."""
GROUP_NAMES = tuple(GROUPS)
GROUP_OF = np.array(
    [
        next(i for i, (group, kinds) in enumerate(GROUPS.items()) if name in (group, *kinds))
        for name in NAMES
    ]
)
"""By the index of a name: the index of its group."""


FAR_PX = 10_000
"""Farther than any two boxes of a picture."""


@dataclass(frozen=True)
class Boxes:
    """Boxes on one picture.

    Attributes:
        corners: float32 [n, 4], left, top, right, bottom in pixels.
        scores: float32 [n].
        names: int64 [n], indices into `NAMES`.
    """

    corners: NDArray[np.float32]
    scores: NDArray[np.float32]
    names: NDArray[np.int64]

    @classmethod
    def none(cls) -> "Boxes":
        """No box."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))

    @classmethod
    def joined(cls, parts: Sequence["Boxes"]) -> "Boxes":
        """The boxes of all parts, in their order."""
        parts = [cls.none(), *parts]
        return cls(
            np.concatenate([one.corners for one in parts]),
            np.concatenate([one.scores for one in parts]),
            np.concatenate([one.names for one in parts]),
        )

    def __len__(self) -> int:
        """How many there are."""
        return len(self.scores)

    def __getitem__(self, rows: NDArray) -> "Boxes":
        """Choose boxes by a mask or by indices."""
        return Boxes(self.corners[rows], self.scores[rows], self.names[rows])


def suppressed(found: Boxes, iou: float) -> Boxes:
    """Leave of boxes of one name that overlap by more than `iou` the best one, best first."""
    # Boxes of different names lie apart.
    apart = found.corners + (found.names * FAR_PX).astype(np.float32)[:, None]
    return found[suppressed_rows(apart, found.scores, iou)]


def suppressed_rows(corners: NDArray, scores: NDArray, iou: float) -> NDArray[np.int64]:
    """Rows of the boxes that stay where of those that overlap by more than `iou` the best stays."""
    order = np.argsort(-scores, kind="stable")
    over = np.triu(overlaps(corners[order], corners[order]) > iou, 1)
    kept = np.ones(len(order), bool)
    for row in range(len(order)):
        if kept[row]:
            kept &= ~over[row]
    return order[kept]


def overlaps(first: NDArray, second: NDArray) -> NDArray[np.float64]:
    """IoU of each box of the first with each of the second, float64 [n, m]."""
    return pairwise_iou(first.astype(np.float64), second.astype(np.float64))
