"""Images and the labels of the objects on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.errors import InputError

SAME_SHAPE = 0.01
"""How far a picture's ratio of width to height may be from that of its labels, by rounding."""


class DataError(InputError):
    """A set cannot be evaluated on; the text names the file, line, value and remedy."""


@dataclass(frozen=True)
class LabelledImage:
    """One image and its objects.

    Attributes:
        path: the image file.
        boxes: float64 [n, 4], x1 y1 x2 y2 as fractions of the image's width and height.
        classes: int64 [n], indices into the set's classes.
        crowd: bool [n], whether it is neither right nor wrong to detect the object.
        labelled_size: width and height that the labels are for, if they say it.
    """

    path: Path
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    labelled_size: tuple[float, float] | None = None

    @classmethod
    def without_objects(cls, path: Path) -> "LabelledImage":
        """An image of background only, or one whose objects nobody has labelled."""
        return cls(path, np.empty((0, 4)), np.empty(0, np.int64), np.empty(0, np.bool_))

    def pixels(self) -> NDArray[np.uint8]:
        """The image, uint8 [height, width, 3] BGR; upright, as its EXIF orientation says.

        Labels are for that: those who draw boxes see it so, and trainers of YOLO read it so.

        Raises:
            DataError: the file cannot be decoded, or is not the picture that was labelled.
        """
        if (image := cv2.imread(str(self.path), cv2.IMREAD_COLOR)) is None:
            raise DataError(f"{self.path} cannot be decoded; replace it or remove it")
        if self.labelled_size is not None:
            self._check_shape(image.shape[1], image.shape[0], *self.labelled_size)
        return image.astype(np.uint8, copy=False)

    def _check_shape(self, width: int, height: int, wanted: float, wanted_height: float) -> None:
        if abs(width * wanted_height / (height * wanted) - 1) <= SAME_SHAPE:
            return
        turned = (width, height) == (wanted_height, wanted)
        raise DataError(
            f"{self.path} is {width} x {height}, and its labels are for {wanted:g} x "
            f"{wanted_height:g}: {'it is turned, as by an EXIF orientation; ' * turned}label it as "
            "it is shown, or replace it"
        )


@dataclass(frozen=True)
class LabelledSet:
    """Images with labels, and the meaning of the labels.

    Attributes:
        name: name of the set.
        classes: the set's class names by index.
        images: the images.
        counts_as: by class of the set, the model's classes that count as it, if the names differ:
            in the labels of one set, buses and trucks are cars.
        ignored: classes whose objects are neither right nor wrong to detect, as whatever class.
        min_height_px: objects lower than this in the image are ignored too.
        max_aspect: objects wider than this times their height are ignored too.
        notes: what a user should know about the set, one line each.
    """

    name: str
    classes: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    counts_as: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    min_height_px: float = 0.0
    max_aspect: float = np.inf
    notes: tuple[str, ...] = ()
