"""FFmpeg through PyAV: loading it, pictures that it has not patched up, and their pixels."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.frame import FrameRejected

FULL_RANGE = 2
"""FFmpeg's AVCOL_RANGE_JPEG: black is 0 and white 255, not 16 and 235."""
MATRICES = {1: "ITU709", 7: "SMPTE240M", 9: "BT2020"}
"""Matrices other than BT.601's: the names of FFmpeg's scaler by AVCOL_SPC number."""
Orientation: TypeAlias = tuple[int, int, int, int]
"""a, b, c and d, each -1, 0 or 1: a pixel at (x, y) is shown at (a x + c y, b x + d y)."""
AS_STORED = 1, 0, 0, 1
BROKEN = "damaged, or a packet before this one is missing"
PATCHED, TOO_LARGE = "concealing", "max pixel count"
HARMLESS = ("mmco: unref short", "unable to decode APP fields")
"""Beginnings of FFmpeg's errors behind which a picture may be whole: the picture that the stream
drops is not there, or a JPEG's notes about its camera cannot be read."""
MAX_PIXELS = 1 << 24
"""Limit for a picture: a larger one takes seconds to decode, and the decoder keeps 16 of them."""
# FFmpeg's messages are read here; they are not for the console.
logging.getLogger("libav").addHandler(logging.NullHandler())


@cache
def pyav() -> Any:
    """PyAV, which takes a while to load, ready for `whole_pictures`.

    Raises:
        PerceptionError: it is not installed.
    """
    try:
        import av
        import av.logging
    except ImportError as error:
        raise PerceptionError("video needs PyAV; install it with: pip install av") from error
    # A decoder may report only in its log that it has patched a picture up.
    av.logging.set_level(av.logging.INFO)
    av.logging.set_skip_repeated(False)
    return av


def whole_pictures(decode: Callable[[], list[Any]]) -> list[Any]:
    """The pictures that a decoder makes of a packet, if it has not patched anything up.

    Args:
        decode: decodes the packet; returns PyAV's frames.

    Raises:
        FrameRejected: something is damaged or missing.
    """
    av = pyav()
    with av.logging.Capture() as logged:
        try:
            frames = list(decode())
        except av.FFmpegError as failed:
            why = [text.split(",")[0] for *_, text in logged if TOO_LARGE in text]
            raise FrameRejected((why or [BROKEN])[0]) from failed
    errors = [text for level, _, text in logged if level <= av.logging.ERROR]
    is_patched = any(text.startswith(PATCHED) for _, _, text in logged)
    is_damaged = any(not text.startswith(HARMLESS) for text in errors)
    if is_patched or is_damaged or any(frame.is_corrupt for frame in frames):
        raise FrameRejected("the picture is damaged")
    return frames


def orientation(frame: Any) -> Orientation:
    """How a frame is to be shown, by its display matrix."""
    from av.sidedata.sidedata import Type

    if (matrix := frame.side_data.get(Type.DISPLAYMATRIX)) is None:
        return AS_STORED
    shares = np.rint(np.frombuffer(matrix, np.int32)[:5] / 65536).clip(-1, 1)
    a, b, _, c, d = shares.astype(int).tolist()
    if a and d:
        return a, 0, 0, d
    return (0, b, c, 0) if b and c else AS_STORED


def upright(pixels: NDArray[np.uint8], orientation: Orientation) -> NDArray[np.uint8]:
    """A view of pixels [h, w, ...] as they are to be shown."""
    a, b, c, d = orientation
    shown = pixels if a else pixels.swapaxes(0, 1)
    return shown[:: b + d, :: a + c]


def write_nv12(frame: Any, out: NDArray[np.uint8], orientation: Orientation = AS_STORED) -> None:
    """Write a decoded frame as NV12, BT.601 in limited range.

    Args:
        frame: PyAV's. FFmpeg converts it first if it is not planar 4:2:0 in this range, or is
            marked as of one of `MATRICES`. A frame without a mark is taken for BT.601.
        out: uint8 [height * 3 / 2, width].
        orientation: how the frame is to be shown.
    """
    target = {}
    if frame.color_range == FULL_RANGE:
        target["dst_color_range"] = "MPEG"
    if frame.colorspace in MATRICES:
        target |= {"src_colorspace": MATRICES[frame.colorspace], "dst_colorspace": "ITU601"}
    if target or frame.format.name != "yuv420p":
        frame = frame.reformat(format="yuv420p", **target)
    planes = [np.frombuffer(one, np.uint8).reshape(-1, one.line_size) for one in frame.planes]
    write_planes(planes, out, orientation)


def write_planes(
    planes: list[NDArray[np.uint8]], out: NDArray[np.uint8], orientation: Orientation = AS_STORED
) -> None:
    """Write a planar 4:2:0 frame as NV12.

    Args:
        planes: Y, U and V, uint8 with at least the rows and columns of the frame.
        out: uint8 [height * 3 / 2, width].
        orientation: how the frame is to be shown.
    """
    height, width = out.shape[0] * 2 // 3, out.shape[1]
    rows, columns = (height, width) if orientation[0] else (width, height)
    luma, *chroma = planes
    out[:height] = upright(luma[:rows, :columns], orientation)
    pairs = out[height:].reshape(height // 2, width // 2, 2)
    for channel, plane in enumerate(chroma):
        pairs[:, :, channel] = upright(plane[: rows // 2, : columns // 2], orientation)
