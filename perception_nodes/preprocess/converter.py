"""Camera frames as BGR pictures, with the distortion of the lens."""

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import FrameHeader, ImageView
from perception_nodes.preprocess.compressed import source_size
from perception_nodes.preprocess.cpu import Preprocessor


class Converter:
    """Converts frames of any encoding; it prepares anew only when their size changes."""

    def __init__(self, sample_bits: int = 0) -> None:
        """Prepare; for `sample_bits` see `Preprocessor`."""
        self._sample_bits = sample_bits
        self._preprocessor: Preprocessor | None = None
        self._size = (0, 0)

    def convert(self, image: ImageView, size: tuple[int, int] = (0, 0)) -> NDArray[np.uint8]:
        """The pixels of a frame.

        Args:
            image: the frame.
            size: width and height of the result; by default those of the frame.

        Returns:
            uint8 [height, width, 3] BGR.

        Raises:
            FrameRejected: the frame cannot be read.
        """
        width, height = size if all(size) else source_size(image)
        if self._preprocessor is None or self._size != (width, height):
            bits = self._sample_bits
            self._preprocessor = Preprocessor(width, height, undistort=False, sample_bits=bits)
            self._size = width, height
        out = np.empty((height, width, 3), np.uint8)
        self._preprocessor.write(image, out, FrameHeader())
        return out
