"""Frames that are JPEG or PNG files, as `sensor_msgs/CompressedImage` holds them.

image_transport compresses the mosaic of a Bayer camera as a grey picture; only the message's
`format` states the colours.
"""

import struct
import zlib

import cv2
import numpy as np
import simplejpeg

from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.preprocess.encodings import Samples, converted

MAX_PIXELS = 1 << 26
"""Limit for a compressed frame: a forged header must not cost gigabytes and seconds."""
MAX_PNG_PIXELS = 1 << 23
"""Limit for a PNG, which takes ten times as long as a JPEG: frames behind it would wait for a
second."""
SLOW_PIXELS = {"jpeg": 1 << 23, "png": 1 << 20}
"""A larger frame takes so long to decode that we would be taken for hung."""
PNG_GREY = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
PNG_COLOUR = PNG_GREY | cv2.IMREAD_COLOR
"""Flags of OpenCV: samples keep their 8 or 16 bits, and the picture is not turned."""


def read_header(image: ImageView) -> tuple[int, int, bool]:
    """Read the header of a compressed frame.

    Returns:
        Width and height in pixels, and whether the picture has a single channel.

    Raises:
        FrameRejected: it is no header of a JPEG or PNG file, or no camera has this size.
    """
    try:
        if image.file_type == "jpeg":
            height, width, space, _ = simplejpeg.decode_jpeg_header(image.data, strict=True)
            is_grey = space == "Gray"
        else:
            # The first chunk of a PNG is IHDR, so that all of it is at a fixed place. OpenCV
            # allocates the picture before it verifies the checksum.
            width, height, colours, crc = struct.unpack_from(">IIxB3xI", image.data, 16)
            is_grey = colours == 0
    except (ValueError, struct.error) as error:
        raise FrameRejected(f"{image.encoding}: {error}") from error
    _check_size(image, width, height)
    if image.file_type == "png" and width * height > MAX_PNG_PIXELS:
        raise FrameRejected(
            f"{image.encoding}: {width}x{height} takes too long to decode, a PNG may have "
            f"{MAX_PNG_PIXELS:,} pixels; let the camera send JPEG or raw images"
        )
    if image.file_type == "png" and zlib.crc32(image.data[12:29]) != crc:
        raise FrameRejected(f"{image.encoding}: its header is damaged")
    return width, height, is_grey


def decompressed(image: ImageView, is_grey: bool, least_px: tuple[int, int]) -> ImageView:
    """Decode a compressed frame, a JPEG at the smallest of its scales that is large enough.

    Args:
        image: the frame.
        is_grey: whether its file has a single channel.
        least_px: width and height. A mosaic is decoded in full, or its colours would mix.

    Raises:
        FrameRejected: the file is cut off or damaged.
    """
    is_mosaic = bool(image.mosaic) and is_grey
    try:
        if image.file_type == "png":
            flags = PNG_GREY if is_mosaic else PNG_COLOUR
            pixels: Samples | None = cv2.imdecode(np.frombuffer(image.data, np.uint8), flags)
            if pixels is None:
                raise ValueError("cut off or damaged")
        elif is_mosaic:
            pixels = simplejpeg.decode_jpeg(image.data, colorspace="GRAY", strict=True)
        else:
            width, height = least_px
            pixels = simplejpeg.decode_jpeg(
                image.data, colorspace="BGR", min_width=width, min_height=height, strict=True
            )
    except (ValueError, cv2.error) as error:
        raise FrameRejected(f"{image.encoding}: {error}") from error
    family = image.mosaic.rstrip("0123456789") if is_mosaic else "bgr"
    return converted(image, np.asarray(pixels), family)


def source_size(image: ImageView) -> tuple[int, int]:
    """Width and height in pixels, for a compressed frame from the header of its file.

    Raises:
        FrameRejected: see `read_header`.
    """
    if image.file_type:
        return read_header(image)[:2]
    _check_size(image, image.width, image.height)
    return image.width, image.height


def _check_size(image: ImageView, width: int, height: int) -> None:
    """Reject a frame of an absurd size before memory is taken for it."""
    if not 0 < width * height <= MAX_PIXELS:
        size = f"{width}x{height}"
        raise FrameRejected(f"{image.encoding}: size {size} is not plausible for a camera")
