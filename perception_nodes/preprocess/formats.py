"""ROS image encodings: their names and sizes, and checks that a frame is complete."""

from perception_nodes.core.frame import FrameRejected, ImageView

BAYER = ("bayer_rggb", "bayer_bggr", "bayer_gbrg", "bayer_grbg")
BYTES_PER_PIXEL = {
    **dict.fromkeys(("bgr8", "rgb8", "8uc3"), 3),
    **dict.fromkeys(("bgra8", "rgba8"), 4),
    **dict.fromkeys(("uyvy", "yuyv"), 2),
    **dict.fromkeys((f"{family}8" for family in BAYER), 1),
    **dict.fromkeys(("mono8", "8uc1", "nv12", "nv21", "i420"), 1),
}
"""Bytes of a pixel, for planar encodings in the first plane."""
DEEP = {f"{one}{bits}": (f"{one}8", bits) for one in ("mono", *BAYER) for bits in (10, 12, 14, 16)}
DEEP |= {f"{one}16": (f"{one}8", 16) for one in ("bgr", "rgb", "bgra", "rgba")}
"""Encodings with 16 bits a sample, the most significant byte last: the encoding of the same layout
with 8 bits, and how many bits are significant at most."""
PACKED = {f"{one}{bits}p": (f"{one}8", bits) for one in ("mono", *BAYER) for bits in (10, 12)}
"""Encodings of MIPI CSI-2: behind the upper 8 bits of four samples (of two with 12 bits) lies a
byte with the lower ones. The encoding of the same layout with 8 bits, and the bits of a sample."""
LAYOUTS = DEEP | PACKED
GROUPS = {10: 4, 12: 2}
"""Samples before a byte of lower bits, by the bits of a sample."""
ALIASES = {
    "yuv422": "uyvy",
    "yuv422_yuy2": "yuyv",
    "8uc4": "bgra8",
    "16uc1": "mono16",
    "16uc3": "bgr16",
    "16uc4": "bgra16",
}
ROWS_OF_CHROMA = ("nv12", "nv21")
PLANAR = (*ROWS_OF_CHROMA, "i420")
EVEN = {
    **dict.fromkeys(("uyvy", "yuyv"), (2, 1)),
    **dict.fromkeys((*PLANAR, *(f"{family}8" for family in BAYER)), (2, 2)),
}
EVEN |= {one: (GROUPS[bits], 1 + (one[0] == "b")) for one, (_, bits) in PACKED.items()}
"""What width and height are multiples of, where that is more than 1."""


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
    layout, bits = LAYOUTS.get(encoding, (encoding, 8))
    if layout not in BYTES_PER_PIXEL:
        known = ", ".join([*BYTES_PER_PIXEL, *ALIASES, "jpeg", "png"])
        raise FrameRejected(
            f"encoding {image.encoding!r} is not supported; known are {known}, and with more bits "
            "mono10 to mono16, mono10p, mono12p, bayer_rggb10 to bayer_grbg16, bayer_rggb10p to "
            "bayer_grbg12p, bgr16, rgb16, bgra16, rgba16"
        )
    if width <= 0 or height <= 0:
        raise FrameRejected(f"{encoding}: size {width}x{height} holds no pixels")
    row_bytes = width * BYTES_PER_PIXEL[layout] * (16 if encoding in DEEP else bits) // 8
    rows = height * 3 // 2 if layout in PLANAR else height
    if step < row_bytes:
        raise FrameRejected(f"{encoding}: step {step} is less than the {row_bytes} bytes of a row")
    if (encoding in DEEP or layout == "i420") and step % 2:
        raise FrameRejected(f"{encoding}: step {step} is not even")
    if len(image.data) < rows * step:
        raise FrameRejected(
            f"{encoding}: {len(image.data)} bytes are fewer than {rows} rows of {step}"
        )
    even_x, even_y = EVEN.get(encoding, EVEN.get(layout, (1, 1)))
    if width % even_x or height % even_y:
        raise FrameRejected(
            f"{encoding}: size {width}x{height} is no multiple of {even_x}x{even_y}"
        )
    return encoding, rows
