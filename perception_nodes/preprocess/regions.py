"""Regions of a frame at the resolution of its source, for second looks of the network."""

import ctypes
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import (
    MAX_PLACEMENT,
    FrameHeader,
    FrameRecord,
    FrameRejected,
    ImageView,
)
from perception_nodes.core.geometry import Lens, Letterbox, Points, lens_of, remap_grid
from perception_nodes.core.merging import ALIGNED_PX
from perception_nodes.preprocess import formats
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.placement import Placement

CELL_PX = 8
"""Side of the cells of pixels in whose middle the lens is computed."""


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
        frame: FrameHeader,
        region: tuple[int, int],
        sample_bits: int,
        out: NDArray[np.uint8],
        header: FrameHeader,
    ) -> None:
        """Fill a slot with a region.

        Args:
            image: the frame, uncompressed and in full.
            frame: the header of the whole frame's slot; the region has its facts, and is rectified
                if the frame is: for itself, so that it shows what lies there in the source.
            region: its left and top, pixels. It begins at a multiple of `ALIGNED_PX` before that;
                where the frame is smaller than the slot, all of it is written, into the middle.
            sample_bits: significant bits of the frame's samples.
            out: uint8 [height, width, 3], the slot's pixels; receives BGR.
            header: the slot's header.

        Raises:
            FrameRejected: the region is of a size that the encoding does not have, or the lens
                shows nothing there.
        """
        source = image.width, image.height
        (left, width), (top, height) = map(_span, region, self._size, source)
        self._preprocessor.sample_bits = sample_bits
        lens = lens_of(frame)
        if lens is None:
            part = cropped(image, left, top, width, height)
            placement = self._preprocessor.placer.place(width, height)
        else:
            span = left, top, width, height
            part, placement = self._rectified(image, lens, span, header.rectified_matrix)
            header.camera_matrix, header.distortion = frame.camera_matrix, frame.distortion
        placement.describe(header, self._preprocessor.scale(part, placement, out))
        header.facts = frame.facts
        header.source_width, header.source_height = source
        header.pad_x -= left
        header.pad_y -= top

    def _rectified(
        self,
        image: ImageView,
        lens: Lens,
        span: tuple[int, int, int, int],
        matrix: ctypes.Array[ctypes.c_double],
    ) -> tuple[ImageView, Placement]:
        """What a region is rectified from, and how; `matrix` receives its intrinsics.

        The lens is computed in the middle of each cell of pixels, as in a smaller picture, and
        interpolated between: that takes a tenth of the time, and is exact to a tenth of a pixel.
        """
        left, top, width, height = span
        with np.errstate(all="ignore"):
            fx, fy, cx, cy = seen = lens.region_matrix(*span)
        matrix[:] = [*seen]
        # At its fold a lens gives numbers that no slot may have; comparisons refuse NaN, too.
        if not (np.abs(seen).max() < MAX_PLACEMENT and min(fx, fy) > 1 / MAX_PLACEMENT):
            raise FrameRejected(f"the lens shows nothing at {left}, {top}")
        across, down = (-(-length // CELL_PX) + 2 for length in (width, height))  # one beside each
        cells = Letterbox(across, down, across, down, 0, 0, 1 / CELL_PX, 1 / CELL_PX)
        middles = remap_grid(cells, lens, (fx, fy, cx - left + CELL_PX, cy - top + CELL_PX))
        x, x_end = _around(middles[:, :, 0], image.width)
        y, y_end = _around(middles[:, :, 1], image.height)
        part = cropped(image, x, y, x_end - x, y_end - y)
        grid = cv2.resize(middles - [x, y], (across * CELL_PX, down * CELL_PX))
        grid = grid[CELL_PX:, CELL_PX:][:height, :width]
        box = Letterbox.fit(width, height, *self._size)
        return part, _Part(box, part.width, part.height, positions=np.asarray(grid, np.float64))


@dataclass(frozen=True)
class _Part(Placement):
    """A rectified region, with the position of each of its pixels in a part of the source."""

    positions: Points | None = None

    def grid(self) -> Points | None:
        return self.positions


def is_in_full(image: ImageView, of: FrameHeader | FrameRecord) -> bool:
    """Whether an uncompressed frame has the size of a source."""
    return (image.width, image.height) == (of.source_width, of.source_height)


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


def _around(positions: Points, length: int) -> tuple[int, int]:
    """Begin and end of what is read of a source of a length, and somewhat more, in one direction.

    It begins and ends at multiples of `ALIGNED_PX`, or where the source does.
    """
    first, last = np.clip([positions.min(), positions.max()], 0, length)
    begin = max(0, int(first) // ALIGNED_PX - 1) * ALIGNED_PX
    return begin, min(length, (int(last) // ALIGNED_PX + 3) * ALIGNED_PX)


def _span(begin: int, own: int, length: int) -> tuple[int, int]:
    """Begin and length of a region within a frame of a length, in one direction."""
    begin = max(0, min(begin, length - own))
    return begin - begin % ALIGNED_PX, min(own, length)
