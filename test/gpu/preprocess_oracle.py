"""The specification of `kernels/preprocess.cu` in NumPy: what the GPU makes from a frame.

It is plain and slow. The kernels give the same bits, compiled for a GPU or for the host.
"""

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.geometry import PADDING_VALUE
from perception_nodes.gpu import preprocess_job

ONE = 1 << preprocess_job.BITS
Integers = NDArray[np.int64]

YUV_TO_BGR = np.array([[76309, 132201, 0], [76309, -25675, -53279], [76309, 0, 104597]])
"""BT.601, limited range, from (Y - 16, U - 128, V - 128), in 1 / 65536."""


def preprocess(frame: NDArray[np.uint8], plan: preprocess_job.FramePlan) -> NDArray[np.uint8]:
    """The network's input, uint8 [height, width, 3] blue, green, red.

    Args:
        frame: uint8 [n], the bytes of the frame.
        plan: plan of such frames.
    """
    box = plan.letterbox
    bgr = np.full((box.height, box.width, 3), PADDING_VALUE, np.uint8)
    rows = slice(box.pad_y, box.pad_y + box.inner_height)
    inside = (rows, slice(box.pad_x, box.pad_x + box.inner_width))
    bgr[inside] = _scaled(frame, plan)
    return bgr


def _scaled(frame: NDArray[np.uint8], plan: preprocess_job.FramePlan) -> Integers:
    """The scaled image, [inner_height, inner_width, 3] blue, green, red."""
    if plan.kind == preprocess_job.INTERLEAVED:
        return _interpolated(_samples(frame, plan.planes[0]), plan.planes[0])
    if plan.kind == preprocess_job.YUV:
        luma, chroma = (_interpolated(_samples(frame, plane), plane) for plane in plan.planes)
        yuv = np.concatenate([luma, chroma], axis=2) - [16, 128, 128]
        bgr: Integers = np.clip((yuv @ YUV_TO_BGR.T + 32768) >> 16, 0, 255)
        return bgr
    if plan.kind == preprocess_job.BAYER_CELLS:
        cells = _interpolated(_samples(frame, plan.planes[0]), plan.planes[0])
        green = np.rint((cells[:, :, 1] + cells[:, :, 2]) / 2).astype(np.int64)
        return np.stack([cells[:, :, 0], green, cells[:, :, 3]], axis=2)
    plane = plan.planes[0]
    return _interpolated(_demosaiced(_samples(frame, plane)[:, :, 0], plan.red), plane)


def _samples(frame: NDArray[np.uint8], plane: preprocess_job.PlanePlan) -> Integers:
    """A plane's samples, [height, width, channels]."""
    rows = plane.offset + plane.row_bytes * np.arange(plane.height)
    columns = plane.sample_bytes * np.arange(plane.width)
    columns += columns >> plane.packing
    at = rows[:, None, None] + columns[:, None] + np.array(plane.channels)
    return np.asarray(frame[at], np.int64)


def _interpolated(samples: Integers, plane: preprocess_job.PlanePlan) -> Integers:
    """Samples at the pixels of the scaled image, bilinearly, [inner_height, inner_width, c]."""
    if plane.xy is not None and plane.fraction is not None:
        x, y = plane.xy[:, :, 0].astype(np.int64), plane.xy[:, :, 1].astype(np.int64)
        fraction = plane.fraction.astype(np.int64)
        right = (fraction % (1 << preprocess_job.LENS_BITS)) * (ONE >> preprocess_job.LENS_BITS)
        below = (fraction >> preprocess_job.LENS_BITS) * (ONE >> preprocess_job.LENS_BITS)
    else:
        assert plane.rows is not None and plane.columns is not None
        at = plane.rows.astype(np.int64), plane.columns.astype(np.int64)
        rows, columns = np.meshgrid(*at, indexing="ij")
        x, right = columns >> preprocess_job.BITS, columns % ONE
        y, below = rows >> preprocess_job.BITS, rows % ONE
    bordered = np.pad(samples, ((1, 1), (1, 1), (0, 0)), constant_values=plane.outside)

    def neighbour(i: int, j: int) -> Integers:
        # One step beyond the grid has the same value as any larger number of steps.
        beside = np.clip(x + i, -1, plane.width) + 1
        return bordered[np.clip(y + j, -1, plane.height) + 1, beside]

    right, below = right[:, :, None], below[:, :, None]
    above_both = neighbour(0, 0) * (ONE - right) + neighbour(1, 0) * right
    below_both = neighbour(0, 1) * (ONE - right) + neighbour(1, 1) * right
    total: Integers = above_both * (ONE - below) + below_both * below
    return (total + (1 << (2 * preprocess_job.BITS - 1))) >> (2 * preprocess_job.BITS)


def _demosaiced(mosaic: Integers, red: tuple[int, int]) -> Integers:
    """A mosaic in full colour, [height, width, 3].

    A missing colour is the mean of the neighbours that have it. The outermost pixels get the
    colours of those next to them.
    """
    height, width = mosaic.shape
    around = np.pad(mosaic, 1, mode="reflect")

    def moved(x: int, y: int) -> Integers:
        return around[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    beside = moved(-1, 0) + moved(1, 0)
    stacked = moved(0, -1) + moved(0, 1)
    corners = moved(-1, -1) + moved(1, -1) + moved(-1, 1) + moved(1, 1)
    cross = (beside + stacked + 2) >> 2
    beside, stacked, corners = (beside + 1) >> 1, (stacked + 1) >> 1, (corners + 2) >> 2
    rows, columns = np.indices(mosaic.shape)
    red_row, red_column = rows % 2 == red[1], columns % 2 == red[0]
    at_red, at_blue = red_row & red_column, ~red_row & ~red_column
    beside_red = red_row & ~red_column
    found = np.empty((height, width, 3), np.int64)
    found[:, :, 0] = np.select([at_blue, at_red, beside_red], [mosaic, corners, stacked], beside)
    found[:, :, 1] = np.where(at_red | at_blue, cross, mosaic)
    found[:, :, 2] = np.select([at_red, at_blue, beside_red], [mosaic, corners, beside], stacked)
    inner = np.clip(np.arange(height), 1, max(height - 2, 1))
    return found[inner][:, np.clip(np.arange(width), 1, max(width - 2, 1))]
