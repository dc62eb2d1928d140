"""Images and what is known to be on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


class DataError(ValueError):
    """A set that cannot be evaluated on; the text names file, line, value and remedy."""


@dataclass(frozen=True)
class LabelledImage:
    """One image and its objects.

    Attributes:
        path: the image file.
        boxes: float64 [n, 4], x1 y1 x2 y2 as fractions of the image's width and height.
        classes: int64 [n], index into the set's classes.
        crowd: bool [n], objects that are neither right nor wrong to detect.
    """

    path: Path
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]

    @classmethod
    def without_objects(cls, path: Path) -> "LabelledImage":
        """An image of background alone, or one whose objects nobody has labelled."""
        return cls(path, np.empty((0, 4)), np.empty(0, np.int64), np.empty(0, np.bool_))

    def pixels(self) -> NDArray[np.uint8]:
        """The image, uint8 [height, width, 3] BGR.

        Raises:
            DataError: it cannot be decoded.
        """
        image = cv2.imread(str(self.path), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"{self.path} cannot be decoded; replace it or remove it")
        return image.astype(np.uint8, copy=False)


@dataclass(frozen=True)
class LabelledSet:
    """Images with labels, and what the labels mean.

    Attributes:
        name: of the set.
        classes: the set's class names by index.
        images: the images.
        counts_as: class names of a model that count as a class of the set, where its own name
            does not say it: the labels of one set call buses and trucks cars.
        ignored: classes whose objects are neither right nor wrong to detect, whatever they are
            detected as.
        min_height_px: objects lower than this, in the image, are ignored likewise.
        max_aspect: so are objects wider than this times their height.
        notes: what a user should know of the set, a line each.
    """

    name: str
    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    counts_as: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    min_height_px: float = 0.0
    max_aspect: float = np.inf
    notes: tuple[str, ...] = ()
