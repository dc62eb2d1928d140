"""Images as the network gets them at run time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from model_compression.errors import CompressionError
from perception_nodes.core.frame import FrameHeader, ImageView
from perception_nodes.preprocess.cpu import Preprocessor

Frames = Sequence[tuple[str, np.ndarray]]
"""Images at the network's input size, uint8 [height, width, 3] BGR, each with its source's name."""


def read_image(path: Path) -> np.ndarray:
    """Read an image file, uint8 [height, width, 3] BGR.

    Raises:
        CompressionError: it cannot be read.
    """
    image = cv2.imread(str(path))
    if image is None:
        raise CompressionError(f"{path} is no image that can be read; replace or remove it")
    return image


def letterboxed(paths: list[Path], size_px: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each image's name and its pixels, uint8 [height, width, 3] BGR, at the input's size."""
    preprocessor = Preprocessor(*size_px, undistort=False)
    for path in paths:
        frame = np.empty((size_px[1], size_px[0], 3), np.uint8)
        preprocessor.write(ImageView.of_pixels(read_image(path)), frame, FrameHeader())
        yield path.name, frame


def drawn(paths: list[Path], count: int, seed: int) -> list[Path]:
    """Draw so many of the images."""
    chosen = np.random.default_rng(seed).permutation(len(paths))[:count]
    return [paths[i] for i in sorted(chosen)]
