"""Frames that are JPEG or PNG files, as `sensor_msgs/CompressedImage` holds them.

image_transport compresses the mosaic of a Bayer camera as a grey picture, and the colours are only
in the message's `format`.
"""

import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg

from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.preprocess.encodings import Samples, converted

MAX_PIXELS = 1 << 26
"""Limit for a compressed frame: a forged header must not cost gigabytes and seconds."""
PNG_GREY = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
PNG_COLOUR = PNG_GREY | cv2.IMREAD_COLOR
"""Samples as they are stored, also with 16 bits, and the picture as the camera has taken it."""


@dataclass(frozen=True)
class FileHeader:
    """What a file says of its picture.

    Attributes:
        width, height: pixels.
        is_grey: whether it has a single channel.
    """

    width: int
    height: int
    is_grey: bool


def read_header(image: ImageView) -> FileHeader:
    """Read the header of a compressed frame.

    Raises:
        FrameRejected: it is not that of a JPEG or PNG file, or no camera has this size.
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
        check_size(width, height)
        if image.file_type == "png" and zlib.crc32(image.data[12:29]) != crc:
            raise ValueError("its header is damaged")
    except (ValueError, struct.error) as error:
        raise FrameRejected(f"{image.encoding}: {error}") from error
    return FileHeader(width, height, is_grey)


def decompressed(image: ImageView, header: FileHeader, least_px: tuple[int, int]) -> ImageView:
    """Decode a compressed frame, a JPEG at the smallest of its scales that is large enough.

    Args:
        image: the frame.
        header: that of its file.
        least_px: width and height. A mosaic is decoded in full, or its colours would mix.

    Raises:
        FrameRejected: the file is cut off or damaged.
    """
    is_mosaic = bool(image.mosaic) and header.is_grey
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
        header = read_header(image)
        return header.width, header.height
    try:
        check_size(image.width, image.height)
    except ValueError as error:
        raise FrameRejected(f"{image.encoding}: {error}") from error
    return image.width, image.height


def check_size(width: int, height: int) -> None:
    """Refuse the size of a frame before memory is taken for it, with a `ValueError`."""
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"size {width}x{height} is not plausible for a camera")
