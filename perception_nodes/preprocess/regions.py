"""Regions of a frame at the resolution of its source, for second looks of the network."""

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import FrameFlag, FrameHeader, ImageView
from perception_nodes.core.merging import ALIGNED_PX
from perception_nodes.preprocess import formats
from perception_nodes.preprocess.cpu import Preprocessor


class Regions:
    """Writes regions of frames into slots of the network's size."""

    def __init__(self, width: int, height: int, padding: int) -> None:
        """Prepare for slots of a size in pixels; for `padding` see `Preprocessor`."""
        self._size = width, height
        # A number of bits is given so that none is learned from parts of frames.
        self._preprocessor = Preprocessor(width, height, False, padding=padding, sample_bits=8)

    def write(
        self,
        image: ImageView,
        region: tuple[int, int],
        sample_bits: int,
        out: NDArray[np.uint8],
        header: FrameHeader,
    ) -> None:
        """Fill a slot with a region.

        Args:
            image: the frame, uncompressed.
            region: its left and top, pixels. It begins at a multiple of `ALIGNED_PX` before that;
                where the frame is smaller than the slot, all of it is written, into the middle.
            sample_bits: significant bits of the frame's samples.
            out: uint8 [height, width, 3], the slot's pixels; receives BGR.
            header: the slot's header; receives sizes and letterbox.

        Raises:
            FrameRejected: the region is of a size that the encoding does not have.
        """
        source = image.width, image.height
        (left, width), (top, height) = map(_span, region, self._size, source)
        self._preprocessor.sample_bits = sample_bits
        self._preprocessor.write(cropped(image, left, top, width, height), out, header)
        header.source_width, header.source_height = image.width, image.height
        header.pad_x -= left
        header.pad_y -= top


def can_be_cropped(image: ImageView, header: FrameHeader) -> bool:
    """Whether regions can be made of the frame of a slot: it has all pixels, and is not rectified.

    Args:
        image: the frame, uncompressed.
        header: the slot's header.
    """
    is_whole = (image.width, image.height) == (header.source_width, header.source_height)
    return is_whole and not header.flags & FrameFlag.RECTIFIED


def cropped(image: ImageView, left: int, top: int, width: int, height: int) -> ImageView:
    """A copy of a region of an uncompressed frame, in the frame's encoding.

    Args:
        image: the frame.
        left: where the region begins, pixels; a multiple of `ALIGNED_PX`.
        top: the same, downwards.
        width: of the region, which lies within the frame.
        height: the same, downwards.

    Raises:
        FrameRejected: see `check_frame`.
    """
    encoding, rows = formats.check_frame(image)
    layout, bits = formats.LAYOUTS.get(encoding, (encoding, 8))
    bits = formats.BYTES_PER_PIXEL[layout] * (16 if encoding in formats.DEEP else bits)
    lines = np.frombuffer(image.data, np.uint8, rows * image.step).reshape(rows, image.step)
    first, step = left * bits // 8, width * bits // 8
    parts = [lines[top : top + height, first : first + step]]
    down = slice(top // 2, (top + height) // 2)
    if layout == "i420":
        chroma = lines[image.height :].reshape(2, image.height // 2, -1)
        parts.extend(chroma[:, down, left // 2 : (left + width) // 2])
    elif layout in formats.ROWS_OF_CHROMA:
        parts.append(lines[image.height :][down, first : first + step])
    data = memoryview(np.concatenate([part.ravel() for part in parts]))
    return ImageView(image.stamp_ns, image.frame_id, width, height, encoding, step, data)


def _span(begin: int, own: int, length: int) -> tuple[int, int]:
    """Begin and length of a region within a frame of a length, in one direction."""
    begin = max(0, min(begin, length - own))
    return begin - begin % ALIGNED_PX, min(own, length)
