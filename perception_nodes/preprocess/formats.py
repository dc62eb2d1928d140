"""ROS image encodings: their names and sizes, and checks that a frame is complete."""

from perception_nodes.core.frame import FrameRejected, ImageView

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
"""Bytes of a pixel, for planar encodings in the first plane."""

_BAYER = ("bayer_rggb", "bayer_bggr", "bayer_gbrg", "bayer_grbg")
DEEP = {
    f"{family}{bits}": (f"{family}8", bits)
    for families, depths in (
        (("mono", *_BAYER), (10, 12, 14, 16)),
        (("bgr", "rgb", "bgra", "rgba"), (16,)),
    )
    for family in families
    for bits in depths
}
"""Encodings with 16 bits a sample, the most significant byte last: the encoding of the same layout
with 8 bits, and how many bits are significant at most."""

ALIASES = {
    "yuv422": "uyvy",
    "yuv422_yuy2": "yuyv",
    "8uc4": "bgra8",
    "16uc1": "mono16",
    "16uc3": "bgr16",
    "16uc4": "bgra16",
}


def bytes_per_pixel(encoding: str) -> int:
    """Bytes of a pixel of any known encoding that is not an alias; see `BYTES_PER_PIXEL`."""
    if encoding in DEEP:
        return 2 * BYTES_PER_PIXEL[DEEP[encoding][0]]
    return BYTES_PER_PIXEL[encoding]


def check_in_place(image: ImageView) -> tuple[str, int]:
    """Check that a GPU can read a frame in place.

    Returns:
        As `check_frame`.

    Raises:
        FrameRejected: the frame is compressed or has more than 8 bits a sample, or `check_frame`
            rejects it.
    """
    if image.file_type or ALIASES.get(image.encoding, image.encoding) in DEEP:
        raise FrameRejected(
            f"{image.encoding}: the GPU's preprocessing reads uncompressed frames of 8 bits a "
            "sample; publish those, or set preprocess_on:=cpu"
        )
    return check_frame(image)


def check_frame(image: ImageView) -> tuple[str, int]:
    """Check that size, step and data of an uncompressed frame fit together.

    Returns:
        The encoding with aliases resolved, and the number of rows of `step` bytes.

    Raises:
        FrameRejected: they do not fit, or the encoding is unknown.
    """
    encoding = ALIASES.get(image.encoding, image.encoding)
    width, height, step = image.width, image.height, image.step
    if encoding not in BYTES_PER_PIXEL and encoding not in DEEP:
        known = ", ".join([*BYTES_PER_PIXEL, *ALIASES, "jpeg", "png"])
        raise FrameRejected(
            f"encoding {image.encoding!r} is not supported; known are {known}, and with more bits "
            "mono10 to mono16, bayer_rggb10 to bayer_grbg16, bgr16, rgb16, bgra16, rgba16"
        )
    if width <= 0 or height <= 0:
        raise FrameRejected(f"{encoding}: size {width}x{height} holds no pixels")
    row_bytes = width * bytes_per_pixel(encoding)
    rows = height * 3 // 2 if encoding in ("nv12", "nv21") else height
    if step < row_bytes:
        raise FrameRejected(f"{encoding}: step {step} is less than the {row_bytes} bytes of a row")
    if encoding in DEEP and step % 2:
        raise FrameRejected(f"{encoding}: step {step} splits a sample of two bytes")
    if len(image.data) < rows * step:
        raise FrameRejected(
            f"{encoding}: {len(image.data)} bytes are fewer than {rows} rows of {step}"
        )
    if encoding.startswith(("bayer", "nv", "uyvy", "yuyv")):
        if width % 2 or (height % 2 and encoding not in ("uyvy", "yuyv")):
            raise FrameRejected(f"{encoding}: size {width}x{height} is not even")
    return encoding, rows
