"""ROS image encodings as planes that are scaled one by one, before colours are converted.

Converting colours after scaling, on the small image, saves a pass over the whole frame.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import ImageView
from perception_nodes.preprocess import formats

Pixels = NDArray[np.uint8]
Samples = NDArray[Any]
"""Samples, uint8 or uint16."""
OUTLIERS = 1e-3
"""Share of a frame's samples that may be brighter than its significant bits can express."""

DEMOSAIC = {
    f"{one}8": getattr(cv2, f"COLOR_Bayer{name}2BGR")
    for one, name in zip(formats.BAYER, ("BG", "RG", "GR", "GB"), strict=True)
}
"""OpenCV names a Bayer pattern by the second and third pixel of its second row."""

# BT.601, limited range, as a 3 x 4 matrix from (Y, U, V, 1) to (B, G, R).
_KR, _KB = 0.299, 0.114
_KG = 1 - _KR - _KB
_Y, _C = 255 / 219, 255 / 112 / 2
_YUV_TO_BGR = np.array(
    [
        [_Y, 2 * (1 - _KB) * _C, 0],
        [_Y, -2 * (1 - _KB) * _KB / _KG * _C, -2 * (1 - _KR) * _KR / _KG * _C],
        [_Y, 0, 2 * (1 - _KR) * _C],
    ]
)
YUV_TO_BGR = np.column_stack([_YUV_TO_BGR, _YUV_TO_BGR @ [-16, -128, -128]])


def _bayer_to_bgr(pattern: str) -> NDArray[np.float64]:
    """From a 2 x 2 cell's samples (and 1) to BGR: red, blue, and the mean of its two greens."""
    matrix = np.zeros((3, 4))
    for position, colour in enumerate(pattern):
        matrix["bgr".index(colour), position] = 0.5 if colour == "g" else 1.0
    return matrix


CONVERSIONS = {
    **dict.fromkeys(("mono8", "8uc1"), cv2.COLOR_GRAY2BGR),
    "rgb8": cv2.COLOR_RGB2BGR,
    "bgra8": cv2.COLOR_BGRA2BGR,
    "rgba8": cv2.COLOR_RGBA2BGR,
}
"""OpenCV's conversions to BGR of encodings with one plane; those that are BGR have none."""
MATRICES = {
    **dict.fromkeys(("nv12", "i420", "uyvy", "yuyv"), YUV_TO_BGR),
    "nv21": YUV_TO_BGR[:, [0, 2, 1, 3]],  # from (Y, V, U, 1)
    **{f"{family}8": _bayer_to_bgr(family.removeprefix("bayer_")) for family in formats.BAYER},
}
"""Matrices to BGR from the channels of all planes and 1."""
YUV_CHANNELS = {"uyvy": ((0, 1), (1, 0), (1, 2)), "yuyv": ((0, 0), (1, 1), (1, 3))}
"""Plane and channel of Y, U and V where they lie between others."""


def planes_of(image: ImageView) -> list[Samples]:
    """View a frame as planes.

    Args:
        image: an uncompressed frame.

    Returns:
        uint8 or uint16 [h, w] or [h, w, c]; of YUV, the planes behind the first hold the chroma.

    Raises:
        FrameRejected: see `check_frame`.
    """
    layout, lines = _lines(image)
    channels, height = formats.BYTES_PER_PIXEL[layout], image.height
    if layout == "i420":
        luma_bytes = height * image.step
        chroma = np.frombuffer(image.data, np.uint8, luma_bytes // 2, luma_bytes)
        both = chroma.reshape(height, -1)[:, : image.width // 2]
        return [lines[:height], both[: height // 2], both[height // 2 :]]
    if layout in formats.ROWS_OF_CHROMA:
        return [lines[:height], lines[height:].reshape(height // 2, image.width // 2, 2)]
    if layout in YUV_CHANNELS:
        return [_split(lines, 2), _split(lines, 4)]
    if layout.startswith("bayer"):
        return [_split(lines[0::2], 2), _split(lines[1::2], 2)]
    return [lines if channels == 1 else _split(lines, channels)]


def significant_bits(encoding: str, planes: list[Samples]) -> int:
    """How many bits of a frame's samples are significant, as far as its pixels show.

    No ROS message states whether 10, 12 or 14 bits come in 16. A sixteenth of the pixels is
    examined. A few pixels may be brighter than these bits can express, and become white: an
    outlier, such as a disturbed pixel, must not darken the picture.

    Args:
        encoding: of the frame.
        planes: of the frame.

    Returns:
        8, or the fewest of 10, 12, 14 and 16 that all but `OUTLIERS` of the samples need, but not
        more than the encoding's name says.
    """
    encoding = formats.ALIASES.get(encoding, encoding)
    if encoding not in formats.DEEP:
        return 8
    samples = [np.atleast_3d(plane)[::4, ::4, :3] for plane in planes]  # leave out alpha
    outliers = OUTLIERS * sum(one.size for one in samples)
    most = formats.DEEP[encoding][1]
    for bits in range(10, most, 2):
        if sum(np.count_nonzero(one >> bits) for one in samples) <= outliers:
            return bits
    return most


def to_8_bits(pixels: Samples, bits: int) -> Pixels:
    """Scale samples with `bits` significant bits to 8 bits; uint8 samples stay."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=255 / ((1 << bits) - 1)), np.uint8)


def planes_to_bgr(encoding: str, planes: list[Pixels], out: Pixels) -> None:
    """Convert scaled planes to BGR.

    Args:
        encoding: encoding of the frame that the planes come from.
        planes: uint8, all scaled to the same size, in the order of `planes_of`.
        out: uint8 [h, w, 3]; receives BGR.
    """
    encoding = formats.ALIASES.get(encoding, encoding)
    layout, _ = formats.DEEP.get(encoding, (encoding, 8))
    if layout in CONVERSIONS:
        cv2.cvtColor(planes[0], CONVERSIONS[layout], dst=out)
    elif layout in MATRICES:
        if layout in YUV_CHANNELS:
            picked = (planes[plane][:, :, channel] for plane, channel in YUV_CHANNELS[layout])
            planes = [np.ascontiguousarray(one) for one in picked]
        cv2.transform(cv2.merge(planes), MATRICES[layout], dst=out)
    else:
        np.copyto(out, planes[0])


def demosaic(image: ImageView) -> ImageView:
    """Convert a Bayer frame to BGR at full size: a pass over all pixels, counted as a copy."""
    layout, mosaic = _lines(image)
    return converted(image, np.asarray(cv2.cvtColor(mosaic, DEMOSAIC[layout])))


def unpacked(image: ImageView) -> ImageView:
    """The upper 8 bits of packed samples: a pass over all pixels, counted as a copy.

    Raises:
        FrameRejected: see `check_frame`.
    """
    encoding, rows = formats.check_frame(image)
    layout, bits = formats.PACKED[encoding]
    lines = np.frombuffer(image.data, np.uint8, rows * image.step).reshape(rows, image.step)
    groups = lines[:, : image.width * bits // 8].reshape(rows, -1, formats.GROUPS[bits] * bits // 8)
    return converted(image, groups[:, :, : formats.GROUPS[bits]].reshape(rows, -1), layout[:-1])


def converted(image: ImageView, pixels: Samples, family: str = "bgr") -> ImageView:
    """A frame after a conversion that made a copy.

    Args:
        image: the frame as it came.
        pixels: uint8 or uint16 [h, w] or [h, w, c].
        family: its encoding, without the number of bits.
    """
    height, width = pixels.shape[:2]
    encoding, data = f"{family}{8 * pixels.itemsize}", memoryview(pixels.reshape(-1)).cast("B")
    facts = image.stamp_ns, image.frame_id, width, height, encoding, pixels.strides[0], data
    return ImageView(*facts, image.copies + 1)


def _lines(image: ImageView) -> tuple[str, Samples]:
    """The 8-bit encoding of a frame's layout, and a view of its rows of samples.

    Raises:
        FrameRejected: see `check_frame`.
    """
    encoding, rows = formats.check_frame(image)
    layout, _ = formats.DEEP.get(encoding, (encoding, 8))
    lines = np.frombuffer(image.data, np.uint8, rows * image.step).reshape(rows, image.step)
    row_samples = image.width * formats.BYTES_PER_PIXEL[layout]
    if layout == encoding:
        return layout, lines[:, :row_samples]
    return layout, lines.view("<u2")[:, :row_samples]


def _split(lines: Samples, channels: int) -> Samples:
    """A view of rows of interleaved samples as pixels with this number of channels."""
    height, row_samples = lines.shape
    size = lines.itemsize
    return np.lib.stride_tricks.as_strided(
        lines,
        (height, row_samples // channels, channels),
        (lines.strides[0], channels * size, size),
        writeable=False,
    )
