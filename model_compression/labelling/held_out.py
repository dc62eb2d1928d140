"""Frames that are nearly those held back to judge, also mirrored: nobody may learn from them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from model_compression.frames import read_image

GRID = 16
MOST_DIFFERING_BITS = 32
"""Of 256. Frames of one place and time differ in fewer; two roads in fog differ in 38 and more."""


def hash_of(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return bool [256]: whether a picture gets brighter from one cell of a grid to the next."""
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    cells = cv2.resize(grey, (GRID + 1, GRID), interpolation=cv2.INTER_AREA).astype(np.int16)
    return (cells[:, 1:] > cells[:, :-1]).ravel()


@dataclass(frozen=True)
class HeldOut:
    """What is held back.

    Attributes:
        hashes: bool [n, 256], of the frames and of their mirror images.
    """

    hashes: NDArray[np.bool_]

    @classmethod
    def read(cls, paths: Iterable[Path]) -> "HeldOut":
        """Read the images that are held back."""
        hashes = [hash_of(one) for path in paths for one in _mirrored(read_image(path))]
        return cls(np.array(hashes, bool).reshape(-1, GRID * GRID))

    def has(self, picture: NDArray[np.uint8]) -> bool:
        """Say whether a picture, uint8 [height, width, 3] BGR, is nearly one of them."""
        differing = np.count_nonzero(self.hashes != hash_of(picture), axis=1)
        return bool((differing <= MOST_DIFFERING_BITS).any())


def _mirrored(picture: NDArray[np.uint8]) -> tuple[NDArray, NDArray]:
    return picture, cv2.flip(picture, 1)
