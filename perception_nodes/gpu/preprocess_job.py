"""How the GPU makes the network's input of one kind of frame: what it reads where, and what of it.

A plan holds for every frame of a camera that has the same encoding, size, step and calibration.
The kernel (`kernels/preprocess.cu`) and its specification (`reference.py`) both follow it.
Positions are those of the CPU path, `cv2.resize` and `cv2.remap` with fixed-point maps, so that a
network sees the same picture whichever of the two made it.
"""

import ctypes
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.core.geometry import PADDING_VALUE, Letterbox, Points
from perception_nodes.preprocess.formats import BYTES_PER_PIXEL, check_frame

BITS = 11
"""Of a position between two samples."""
LENS_BITS = 5
"""The same in the map of a lens."""
NEUTRAL_CHROMA = 128
TILE = (64, 4)
"""Width and height of what a block makes, pixels."""
THREADS = TILE[0] * TILE[1]

INTERLEAVED, YUV, BAYER_CELLS, BAYER_MOSAIC = range(4)
_CHANNELS = {
    "bgr8": (0, 1, 2),
    "8uc3": (0, 1, 2),
    "rgb8": (2, 1, 0),
    "bgra8": (0, 1, 2),
    "rgba8": (2, 1, 0),
    "mono8": (0, 0, 0),
    "8uc1": (0, 0, 0),
}
"""Bytes of blue, green and red in a pixel."""
_YUV = {
    "nv12": (1, 0, 2, (0, 1)),
    "nv21": (1, 0, 2, (1, 0)),
    "yuyv": (2, 0, 4, (1, 3)),
    "uyvy": (2, 1, 4, (0, 2)),
}
"""Bytes from a luma sample to the next, and before it; bytes from a chroma sample to the next, and
of U and V in it."""


@dataclass(frozen=True, eq=False)
class PlanePlan:
    """Samples on a regular grid in the frame, and where on it the scaled image's pixels lie.

    Attributes:
        width, height: of the grid, in samples.
        row_bytes, sample_bytes: from a row to the next, from a sample to the next.
        channels: bytes from a sample's first to those that are read.
        outside: value of what lies beyond the grid.
        offset: bytes from the frame's first to the first sample.
        columns: int32 [inner_width], samples in 1 / 2**BITS; with a lens None.
        rows: int32 [inner_height], the same.
        xy: int16 [inner_height, inner_width, 2], the sample left of and above the position; without
            a lens None.
        fraction: uint16 [inner_height, inner_width], from there to it: y and x, LENS_BITS each.
    """

    width: int
    height: int
    row_bytes: int
    sample_bytes: int
    channels: tuple[int, ...]
    outside: int
    offset: int = 0
    columns: NDArray[np.int32] | None = None
    rows: NDArray[np.int32] | None = None
    xy: NDArray[np.int16] | None = None
    fraction: NDArray[np.uint16] | None = None


@dataclass(frozen=True, eq=False)
class FramePlan:
    """What is read of a frame, and where it goes.

    Attributes:
        kind: `INTERLEAVED` (blue, green, red), `YUV` (luma, then chroma), `BAYER_CELLS` (blue, two
            greens, red of 2 x 2 cells) or `BAYER_MOSAIC` (at full resolution).
        planes: one, or two.
        letterbox: the placement.
        red: column and row of red in a cell of a mosaic.
        frame_bytes: that a frame has.
    """

    kind: int
    planes: tuple[PlanePlan, ...]
    letterbox: Letterbox
    red: tuple[int, int]
    frame_bytes: int


def plan_frame(image: ImageView, letterbox: Letterbox, grid: Points | None) -> FramePlan:
    """Plan frames like this one.

    Args:
        image: an uncompressed frame; its pixels are not read.
        letterbox: its placement in the network's input.
        grid: with a lens, the source position of each pixel of the scaled image, of `remap_grid`.

    Raises:
        FrameRejected: it contradicts itself, or is too large.
    """
    encoding, rows = check_frame(image)
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
        below, offset = (2, height * step) if encoding.startswith("nv") else (1, 0)
        columns, lines = width // 2, height // below
        planes.append(PlanePlan(columns, lines, step, chroma_bytes, chroma, NEUTRAL_CHROMA, offset))
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
    placed = tuple(_place(plane, (width, height), letterbox, grid) for plane in planes)
    return FramePlan(kind, placed, letterbox, red, frame_bytes)


def _place(
    plane: PlanePlan, source: tuple[int, int], letterbox: Letterbox, grid: Points | None
) -> PlanePlan:
    positions: dict[str, NDArray[np.generic]] = {}
    if grid is None:
        positions["columns"] = _line(plane.width, letterbox.inner_width)
        positions["rows"] = _line(plane.height, letterbox.inner_height)
    else:
        scale = np.array([plane.width, plane.height], np.float64) / source
        placed = ((grid + 0.5) * scale - 0.5).astype(np.float32)
        fixed = np.rint(placed * np.float32(1 << LENS_BITS)).astype(np.int64)
        limits = np.iinfo(np.int16)
        positions["xy"] = np.clip(fixed >> LENS_BITS, limits.min, limits.max).astype(np.int16)
        between = (fixed & ((1 << LENS_BITS) - 1)).astype(np.uint16)
        positions["fraction"] = between[:, :, 1] << np.uint16(LENS_BITS) | between[:, :, 0]
    return PlanePlan(**{**vars(plane), **positions})


def _line(samples: int, pixels: int) -> NDArray[np.int32]:
    """Where so many pixels lie on a line of samples that has the same length."""
    position = (np.arange(pixels) + 0.5) * (samples / pixels) - 0.5
    fixed: NDArray[np.int32] = np.rint(np.clip(position, 0, samples - 1) * (1 << BITS)).astype(
        np.int32
    )
    return fixed


@dataclass(frozen=True)
class InputFormat:
    """What the network takes.

    Attributes:
        width, height: pixels.
        dtype: of a value.
        layout: channels first (NCHW) or last (NHWC).
        order: of the channels.
        scale: a channel, in the output's order; a value is pixel * scale + bias, computed in
            float64; integers are rounded, ties to even, and limited to what they hold.
        bias: a channel.
    """

    width: int
    height: int
    dtype: Literal["uint8", "int8", "float16", "float32"] = "uint8"
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    order: Literal["BGR", "RGB"] = "BGR"
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def nbytes(self) -> int:
        """Of the input tensor."""
        return 3 * self.width * self.height * np.dtype(self.dtype).itemsize

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the input tensor."""
        size = (self.height, self.width)
        return (1, 3, *size) if self.layout == "NCHW" else (1, *size, 3)

    def table(self) -> NDArray[np.generic]:
        """What each 8-bit pixel value becomes: [3, 256] of `dtype`."""
        pixels = np.arange(256, dtype=np.float64)
        values = pixels * np.array(self.scale)[:, None] + np.array(self.bias)[:, None]
        dtype = np.dtype(self.dtype)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        table: NDArray[np.generic] = values.astype(dtype)
        return table


class PlaneJob(ctypes.Structure):
    """`Plane` of `preprocess.cu`."""

    _fields_ = [
        ("columns", ctypes.c_uint64),
        ("rows", ctypes.c_uint64),
        ("xy", ctypes.c_uint64),
        ("fraction", ctypes.c_uint64),
        ("offset", ctypes.c_int32),
        ("row_bytes", ctypes.c_int32),
        ("sample_bytes", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("channels", ctypes.c_int32 * 4),
        ("outside", ctypes.c_int32),
    ]


class FrameCell(ctypes.Structure):
    """`Frame` of `preprocess.cu`: what changes from frame to frame."""

    _fields_ = [("pixels", ctypes.c_uint64), ("ticket", ctypes.c_uint64)]


class PreprocessJob(ctypes.Structure):
    """`Job` of `preprocess.cu`; addresses are those of the machine that runs it."""

    _fields_ = [
        ("planes", PlaneJob * 2),
        ("frame", ctypes.c_uint64),
        ("ticket", ctypes.c_uint64),
        ("table", ctypes.c_uint64),
        ("out", ctypes.c_uint64),
        ("kind", ctypes.c_int32),
        ("red_x", ctypes.c_int32),
        ("red_y", ctypes.c_int32),
        ("inner_width", ctypes.c_int32),
        ("inner_height", ctypes.c_int32),
        ("pad_x", ctypes.c_int32),
        ("pad_y", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("value_bytes", ctypes.c_int32),
        ("planar", ctypes.c_int32),
        ("reversed", ctypes.c_int32),
    ]


def constants_of(plan: FramePlan, input_format: InputFormat) -> list[NDArray[np.generic]]:
    """Arrays that the kernel reads besides the frame; `build_preprocess_job` keeps their order."""
    arrays = [input_format.table()]
    for plane in plan.planes:
        arrays += [
            a for a in (plane.columns, plane.rows, plane.xy, plane.fraction) if a is not None
        ]
    return arrays


def grid_of(input_format: InputFormat) -> tuple[int, int, int]:
    """Blocks that make the output, in x, y, z; each of `THREADS` threads."""
    return -(-input_format.width // TILE[0]), -(-input_format.height // TILE[1]), 1


def build_preprocess_job(
    plan: FramePlan,
    input_format: InputFormat,
    frame_cell: int,
    ticket: int,
    out: int,
    constants: list[int],
) -> PreprocessJob:
    """The kernel's argument.

    Args:
        plan: of the frames.
        input_format: what the network takes; of the size that the letterbox was fitted to.
        frame_cell: address of a `FrameCell`.
        ticket: address of eight bytes that receive the ticket of the frame.
        out: address of the input tensor.
        constants: addresses of `constants_of`.
    """
    table, *positions = constants
    job = PreprocessJob(frame=frame_cell, ticket=ticket, table=table, out=out, kind=plan.kind)
    for target, plane in zip(job.planes, plan.planes, strict=False):
        names = ("columns", "rows") if plane.xy is None else ("xy", "fraction")
        for name in names:
            setattr(target, name, positions.pop(0))
        for name in ("offset", "row_bytes", "sample_bytes", "width", "height", "outside"):
            setattr(target, name, getattr(plane, name))
        target.channels[: len(plane.channels)] = plane.channels
    box = plan.letterbox
    job.red_x, job.red_y = plan.red
    job.inner_width, job.inner_height = box.inner_width, box.inner_height
    job.pad_x, job.pad_y = box.pad_x, box.pad_y
    job.width, job.height = input_format.width, input_format.height
    job.value_bytes = np.dtype(input_format.dtype).itemsize
    job.planar, job.reversed = input_format.layout == "NCHW", input_format.order == "RGB"
    return job
