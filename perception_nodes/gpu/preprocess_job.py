"""Preprocessing on the GPU: plans of what is read from a frame, and arguments of the kernels.

A plan is valid for all frames of a camera with the same encoding, size, step and calibration. The
kernels (`kernels/fetch.cu`, `kernels/preprocess.cu`) and the specification of their result
(`test/gpu/preprocess_oracle.py`) follow it.
Sampling positions are those of the CPU path, `cv2.resize` and `cv2.remap` with fixed-point maps, so
that a network sees the same picture from both.
"""

import ctypes
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.core.geometry import PADDING_VALUE, Letterbox, Points
from perception_nodes.core.structures import fields
from perception_nodes.preprocess.formats import BYTES_PER_PIXEL, PACKED, PLANAR, check_in_place

BITS = 11
"""Fraction bits of a position between two samples."""
LENS_BITS = 5
"""Fraction bits of a position in the map of a lens."""
NEUTRAL_CHROMA = 128
TILE = (64, 4)
"""Width and height of the pixels that a block computes."""
THREADS = TILE[0] * TILE[1]
FETCH_THREADS = 256
UNPACKED = 31
PACKINGS = {10: 2, 12: 1}
"""Shifts of packed samples by their bits."""
PIECE_BYTES = 16
"""Bytes that a thread of `fetch` moves."""

INTERLEAVED, YUV, BAYER_CELLS, BAYER_MOSAIC = range(4)
_CHANNELS = {
    **dict.fromkeys(("bgr8", "8uc3", "bgra8"), (0, 1, 2)),
    **dict.fromkeys(("rgb8", "rgba8"), (2, 1, 0)),
    **dict.fromkeys(("mono8", "8uc1"), (0, 0, 0)),
}
"""Offsets of blue, green and red in a pixel, bytes."""
_YUV = {
    "nv12": (1, 0, 2, (0, 1)),
    "nv21": (1, 0, 2, (1, 0)),
    "i420": (1, 0, 1, (0,)),
    "yuyv": (2, 0, 4, (1, 3)),
    "uyvy": (2, 1, 4, (0, 2)),
}
"""Bytes: the distance of luma samples and the offset of the first one; the distance of chroma
samples and the offsets of U and V."""


@dataclass(frozen=True, eq=False)
class PlanePlan:
    """A regular grid of samples in the frame, and positions of the scaled image's pixels on it.

    Attributes:
        width, height: size of the grid, in samples.
        row_bytes, sample_bytes: distance of rows and of samples, in bytes.
        channels: offsets of the bytes of a sample that are read.
        outside: value of samples beyond the grid.
        offset: offset of the first sample in the frame, bytes.
        packing: byte k of a row without the bytes of lower bits is byte k + (k >> packing).
        columns: int32 [inner_width], x positions in units of 1 / 2**BITS sample; None with a lens.
        rows: int32 [inner_height], the same for y.
        xy: int16 [inner_height, inner_width, 2], the sample left of and above each position; None
            without a lens.
        fraction: uint16 [inner_height, inner_width], the distance from that sample to the position:
            y in the upper, x in the lower LENS_BITS bits; None without a lens.
    """

    width: int
    height: int
    row_bytes: int
    sample_bytes: int
    channels: tuple[int, ...]
    outside: int
    offset: int = 0
    packing: int = UNPACKED
    columns: NDArray[np.int32] | None = None
    rows: NDArray[np.int32] | None = None
    xy: NDArray[np.int16] | None = None
    fraction: NDArray[np.uint16] | None = None


@dataclass(frozen=True, eq=False)
class FramePlan:
    """What is read from a frame, and where it goes in the network's input.

    Attributes:
        kind: `INTERLEAVED` (blue, green, red), `YUV` (luma, then chroma), `BAYER_CELLS` (blue, two
            greens, red of 2 x 2 cells) or `BAYER_MOSAIC` (at full resolution).
        planes: one plane, or two for `YUV`.
        letterbox: placement of the scaled image.
        red: column and row of red in a 2 x 2 cell of a mosaic.
        frame_bytes: size of a frame.
        rows: int32 [n], offsets of the frame's rows that are read, bytes.
        row_bytes: size of a row without padding.
    """

    kind: int
    planes: tuple[PlanePlan, ...]
    letterbox: Letterbox
    red: tuple[int, int]
    frame_bytes: int
    rows: NDArray[np.int32]
    row_bytes: int


def plan_frame(image: ImageView, letterbox: Letterbox, grid: Points | None) -> FramePlan:
    """Make the plan for frames of one kind.

    Args:
        image: a frame of this kind; its pixels are not read.
        letterbox: placement of the frames in the network's input.
        grid: for a lens, the result of `core.geometry.remap_grid`, else None.

    Raises:
        FrameRejected: see `check_in_place`; or it is too large.
    """
    packed, rows = check_in_place(image)
    encoding, bits = PACKED.get(packed, (packed, 8))
    width, height, step = image.width, image.height, image.step
    frame_bytes = rows * step
    if frame_bytes >= 1 << 31 or (grid is not None and max(width, height) >= 1 << 15):
        raise FrameRejected(f"{encoding}: {width}x{height}, {step} bytes a row, is too large")
    red = (0, 0)
    grey = PADDING_VALUE
    if encoding in _CHANNELS:
        kind = INTERLEAVED
        size = BYTES_PER_PIXEL[encoding]
        planes = [PlanePlan(width, height, step, size, _CHANNELS[encoding], grey)]
    elif encoding in _YUV:
        kind = YUV
        luma_bytes, luma, chroma_bytes, chroma = _YUV[encoding]
        planes = [PlanePlan(width, height, step, luma_bytes, (luma,), grey)]
        below, offset = (2, height * step) if encoding in PLANAR else (1, 0)
        columns, lines = width // 2, height // below
        is_split = encoding == "i420"
        row, chroma = (step // 2, (0, lines * step // 2)) if is_split else (step, chroma)
        planes.append(PlanePlan(columns, lines, row, chroma_bytes, chroma, NEUTRAL_CHROMA, offset))
    else:
        pattern = encoding[len("bayer_") : -1]
        places = [position % 2 + position // 2 * step for position in range(4)]
        if letterbox.scale_x > 0.5:
            kind = BAYER_MOSAIC
            red = (pattern.index("r") % 2, pattern.index("r") // 2)
            planes = [PlanePlan(width, height, step, 1, (0,), grey)]
        else:
            kind = BAYER_CELLS
            cell = sorted(range(4), key=lambda position: "bgr".index(pattern[position]))
            channels = tuple(places[position] for position in cell)
            planes = [PlanePlan(width // 2, height // 2, 2 * step, 2, channels, grey)]
    planes = [replace(plane, packing=PACKINGS.get(bits, UNPACKED)) for plane in planes]
    placed = tuple(_place(plane, (width, height), letterbox, grid) for plane in planes)
    needed = [_rows(plane, step, kind == BAYER_MOSAIC) for plane in placed]
    row_bytes = width * BYTES_PER_PIXEL[encoding] * bits // 8
    if encoding == "i420":  # in pieces of a row of chroma
        row_bytes //= 2
        needed.append(needed[0] + row_bytes)
    offsets = np.unique(np.concatenate(needed)).astype(np.int32)
    return FramePlan(kind, placed, letterbox, red, frame_bytes, offsets, row_bytes)


def _rows(plane: PlanePlan, step: int, all_rows: bool) -> NDArray[np.int64]:
    """Offsets of the frame's rows with samples that are read, bytes, in any order."""
    if all_rows:
        rows = np.arange(plane.height)
    elif plane.rows is not None:
        rows = np.append(plane.rows >> BITS, -(-plane.rows >> BITS))
    else:
        assert plane.xy is not None and plane.fraction is not None
        above = plane.xy[:, :, 1].astype(np.int64)
        rows = np.unique(np.append(above, above + (plane.fraction >> LENS_BITS > 0)))
    rows = rows[(rows >= 0) & (rows < plane.height)].astype(np.int64)
    # Two for the cells of a mosaic, and for U and V of which each row has both.
    begins = plane.channels if plane.row_bytes < step else (*range(0, plane.row_bytes, step),)
    return np.concatenate([plane.offset + rows * plane.row_bytes + begin for begin in begins])


def _place(
    plane: PlanePlan, source: tuple[int, int], letterbox: Letterbox, grid: Points | None
) -> PlanePlan:
    if grid is None:
        columns = _line(plane.width, letterbox.inner_width)
        return replace(plane, columns=columns, rows=_line(plane.height, letterbox.inner_height))
    scale = np.array([plane.width, plane.height], np.float64) / source
    placed = ((grid + 0.5) * scale - 0.5).astype(np.float32)
    fixed = np.rint(placed * np.float32(1 << LENS_BITS)).astype(np.int64)
    limits = np.iinfo(np.int16)
    xy = np.clip(fixed >> LENS_BITS, limits.min, limits.max).astype(np.int16)
    between = (fixed & ((1 << LENS_BITS) - 1)).astype(np.uint16)
    fraction = between[:, :, 1] << np.uint16(LENS_BITS) | between[:, :, 0]
    return replace(plane, xy=xy, fraction=fraction)


def _line(samples: int, pixels: int) -> NDArray[np.int32]:
    """Spread pixels evenly over a line of samples; return their positions in 1 / 2**BITS."""
    position = (np.arange(pixels) + 0.5) * (samples / pixels) - 0.5
    within = np.clip(position, 0, samples - 1)
    fixed: NDArray[np.int32] = np.rint(within * (1 << BITS)).astype(np.int32)
    return fixed


class PlaneJob(ctypes.Structure):
    """`Plane` of `preprocess.cu`."""

    _fields_ = fields(
        "uint64 columns, rows, xy, fraction; int32 offset, row_bytes, sample_bytes, width, height, "
        "channels[4], outside, packing"
    )


class FrameCell(ctypes.Structure):
    """`Frame` of `frame.cuh`: the part of the input that changes from frame to frame."""

    _fields_ = fields("uint64 pixels, source, ticket")


class FetchJob(ctypes.Structure):
    """`Job` of `fetch.cu`."""

    _fields_ = fields("uint64 frame, rows; int32 row_count, row_bytes, pieces")


class PreprocessJob(ctypes.Structure):
    """`Job` of `preprocess.cu`."""

    _fields_ = [
        ("planes", PlaneJob * 2),
        *fields("uint64 frame, ticket, out; int32 kind, red_x, red_y, inner_width, inner_height"),
        *fields("int32 pad_x, pad_y, width, height"),
    ]


def constants_of(plan: FramePlan) -> list[NDArray[np.generic]]:
    """Arrays that the kernels read besides the frame: the rows, then positions on each plane."""
    positions = [(p.columns, p.rows) if p.xy is None else (p.xy, p.fraction) for p in plan.planes]
    return [plan.rows, *(array for pair in positions for array in pair if array is not None)]


def grid_of(plan: FramePlan) -> tuple[int, int, int]:
    """Number of blocks in x, y and z that compute the input tensor, with `THREADS` threads each."""
    return -(-plan.letterbox.width // TILE[0]), -(-plan.letterbox.height // TILE[1]), 1


def build_preprocess_job(
    plan: FramePlan, frame_cell: int, ticket: int, out: int, constants: list[int]
) -> PreprocessJob:
    """Build the kernel's argument.

    Args:
        plan: plan of the frames.
        frame_cell: address of a `FrameCell`.
        ticket: address of eight bytes that receive the ticket of the frame.
        out: address of the input tensor, uint8 [height, width, 3].
        constants: addresses of the arrays of `constants_of`.
    """
    positions = constants[1:]
    job = PreprocessJob(frame=frame_cell, ticket=ticket, out=out, kind=plan.kind)
    for target, plane in zip(job.planes, plan.planes, strict=False):
        for name in ("columns", "rows") if plane.xy is None else ("xy", "fraction"):
            setattr(target, name, positions.pop(0))
        for name in "offset row_bytes sample_bytes width height outside packing".split():
            setattr(target, name, getattr(plane, name))
        target.channels[: len(plane.channels)] = plane.channels
    job.red_x, job.red_y = plan.red
    for name in ("inner_width", "inner_height", "pad_x", "pad_y", "width", "height"):
        setattr(job, name, getattr(plan.letterbox, name))
    return job


def build_fetch_job(plan: FramePlan, frame_cell: int, rows: int) -> tuple[FetchJob, int]:
    """Build the argument of `fetch`, and the number of its blocks.

    Args:
        plan: plan of the frames.
        frame_cell: address of a `FrameCell`. Its `pixels` must have room for a frame and
            `PIECE_BYTES` before and behind it, and the same remainder by `PIECE_BYTES` as `source`.
        rows: address of the plan's rows.
    """
    # One piece more, because a row need not begin where a piece does.
    pieces = -(-plan.row_bytes // PIECE_BYTES) + 1
    job = FetchJob(frame_cell, rows, len(plan.rows), plan.row_bytes, pieces)
    return job, max(1, -(-len(plan.rows) * pieces // FETCH_THREADS))
