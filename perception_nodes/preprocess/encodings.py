"""ROS image encodings as planes that can be scaled one by one, with nothing converted before.

Scaling first and converting colours afterwards, on the small image, saves the pass over the whole
frame that converting first would cost.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import FrameRejected, ImageView

Pixels = NDArray[np.uint8]

BYTES_PER_PIXEL = {
    "bgr8": 3,
    "rgb8": 3,
    "8uc3": 3,
    "bgra8": 4,
    "rgba8": 4,
    "mono8": 1,
    "8uc1": 1,
    "uyvy": 2,
    "yuyv": 2,
    "bayer_rggb8": 1,
    "bayer_bggr8": 1,
    "bayer_gbrg8": 1,
    "bayer_grbg8": 1,
    "nv12": 1,
    "nv21": 1,
}
"""Bytes of a pixel in a row of the (first) plane."""

ALIASES = {"yuv422": "uyvy", "yuv422_yuy2": "yuyv"}

# OpenCV names a Bayer pattern by its second row's second and third pixel.
_DEMOSAIC = {
    "bayer_rggb8": cv2.COLOR_BayerBG2BGR,
    "bayer_bggr8": cv2.COLOR_BayerRG2BGR,
    "bayer_gbrg8": cv2.COLOR_BayerGR2BGR,
    "bayer_grbg8": cv2.COLOR_BayerGB2BGR,
}

# BT.601, limited range, as 3 x 4 matrix from (Y, U, V) to (B, G, R).
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
YVU_TO_BGR = YUV_TO_BGR[:, [0, 2, 1, 3]]
"""The same from (Y, V, U)."""


@dataclass(frozen=True)
class Plane:
    """A part of a frame's pixels.

    Attributes:
        pixels: uint8 [h, w] or [h, w, c], a view.
        step_x, step_y: source pixels from one plane pixel to the next.
    """

    pixels: Pixels
    step_x: int = 1
    step_y: int = 1


def planes_of(image: ImageView) -> list[Plane]:
    """View a frame as planes.

    Args:
        image: an uncompressed frame.

    Raises:
        FrameRejected: the encoding is unknown, or size, step and data do not fit together.
    """
    encoding = ALIASES.get(image.encoding, image.encoding)
    width, height, step = image.width, image.height, image.step
    if encoding not in BYTES_PER_PIXEL:
        known = ", ".join([*BYTES_PER_PIXEL, *ALIASES, "jpeg", "png"])
        raise FrameRejected(f"encoding {image.encoding!r} is not supported; known are {known}")
    if width <= 0 or height <= 0:
        raise FrameRejected(f"{encoding}: size {width}x{height} holds no pixels")
    row_bytes = width * BYTES_PER_PIXEL[encoding]
    semi_planar = encoding in ("nv12", "nv21")
    rows = height * 3 // 2 if semi_planar else height
    if step < row_bytes:
        raise FrameRejected(f"{encoding}: step {step} is less than {row_bytes} bytes of a row")
    if len(image.data) < rows * step:
        raise FrameRejected(
            f"{encoding}: {len(image.data)} bytes are fewer than {rows} rows of {step}"
        )
    if BYTES_PER_PIXEL[encoding] < 3 and "mono" not in encoding and encoding != "8uc1":
        if width % 2 or (height % 2 and encoding not in ("uyvy", "yuyv")):
            raise FrameRejected(f"{encoding}: size {width}x{height} is not even")
    lines = np.frombuffer(image.data, np.uint8, rows * step).reshape(rows, step)[:, :row_bytes]

    if semi_planar:
        chroma = lines[height:].reshape(height // 2, width // 2, 2)
        return [Plane(lines[:height]), Plane(chroma, 2, 2)]
    if encoding in ("uyvy", "yuyv"):
        return [Plane(_split(lines, 2)), Plane(_split(lines, 4), 2, 1)]
    if encoding.startswith("bayer"):
        return [Plane(_split(lines[0::2], 2), 2, 2), Plane(_split(lines[1::2], 2), 2, 2)]
    channels = BYTES_PER_PIXEL[encoding]
    return [Plane(lines if channels == 1 else _split(lines, channels))]


def planes_to_bgr(encoding: str, planes: list[Pixels], out: Pixels) -> None:
    """Colours of scaled planes.

    Args:
        encoding: of the frame they come from.
        planes: uint8, each scaled to the same size, in the order of `planes_of`.
        out: uint8 [h, w, 3], receives BGR.
    """
    encoding = ALIASES.get(encoding, encoding)
    first = planes[0]
    if encoding in ("mono8", "8uc1"):
        cv2.cvtColor(first, cv2.COLOR_GRAY2BGR, dst=out)
    elif encoding == "rgb8":
        cv2.cvtColor(first, cv2.COLOR_RGB2BGR, dst=out)
    elif encoding == "bgra8":
        cv2.cvtColor(first, cv2.COLOR_BGRA2BGR, dst=out)
    elif encoding == "rgba8":
        cv2.cvtColor(first, cv2.COLOR_RGBA2BGR, dst=out)
    elif encoding in ("nv12", "nv21"):
        matrix = YUV_TO_BGR if encoding == "nv12" else YVU_TO_BGR
        cv2.transform(cv2.merge([first, planes[1]]), matrix, dst=out)
    elif encoding in ("uyvy", "yuyv"):
        luma, chroma = (1, 0) if encoding == "uyvy" else (0, 1)
        yuv = cv2.merge(
            [
                np.ascontiguousarray(first[:, :, luma]),
                np.ascontiguousarray(planes[1][:, :, chroma]),
                np.ascontiguousarray(planes[1][:, :, chroma + 2]),
            ]
        )
        cv2.transform(yuv, YUV_TO_BGR, dst=out)
    else:
        _bayer_to_bgr(encoding, cv2.merge(planes), out)


def demosaic(image: ImageView) -> ImageView:
    """A full-size BGR frame of a Bayer one: a pass over all pixels, counted as a copy."""
    lines = np.frombuffer(image.data, np.uint8, image.height * image.step)
    mosaic = lines.reshape(image.height, image.step)[:, : image.width]
    bgr = cv2.cvtColor(mosaic, _DEMOSAIC[image.encoding])
    return ImageView(
        image.stamp_ns,
        image.frame_id,
        image.width,
        image.height,
        "bgr8",
        image.width * 3,
        memoryview(bgr.reshape(-1)),
        image.copies + 1,
    )


def _split(lines: Pixels, channels: int) -> Pixels:
    """Rows of interleaved bytes as pixels of so many channels, a view."""
    height, row_bytes = lines.shape
    return np.lib.stride_tricks.as_strided(
        lines,
        (height, row_bytes // channels, channels),
        (lines.strides[0], channels, 1),
        writeable=False,
    )


def _bayer_to_bgr(encoding: str, cells: Pixels, out: Pixels) -> None:
    """Colours of 2 x 2 cells: red, blue, and the mean of the two greens."""
    pattern = encoding[len("bayer_") : -1]
    matrix = np.zeros((3, 4))
    for position, colour in enumerate(pattern):
        matrix["bgr".index(colour), position] = 0.5 if colour == "g" else 1.0
    cv2.transform(cells, matrix, dst=out)
