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

ALIASES = {"yuv422": "uyvy", "yuv422_yuy2": "yuyv"}


def check_uncompressed(image: ImageView) -> None:
    """Check that a frame can be read in place.

    Raises:
        FrameRejected: the frame is compressed, or `check_frame` rejects it.
    """
    if image.encoding in ("jpeg", "png"):
        raise FrameRejected(
            f"{image.encoding}: the GPU's preprocessing reads uncompressed frames; publish those, "
            "or preprocess on the CPU"
        )
    check_frame(image)


def check_frame(image: ImageView) -> tuple[str, int]:
    """Check that size, step and data of an uncompressed frame fit together.

    Returns:
        The encoding with aliases resolved, and the number of rows of `step` bytes.

    Raises:
        FrameRejected: they do not fit, or the encoding is unknown.
    """
    encoding = ALIASES.get(image.encoding, image.encoding)
    width, height, step = image.width, image.height, image.step
    if encoding not in BYTES_PER_PIXEL:
        known = ", ".join([*BYTES_PER_PIXEL, *ALIASES, "jpeg", "png"])
        raise FrameRejected(f"encoding {image.encoding!r} is not supported; known are {known}")
    if width <= 0 or height <= 0:
        raise FrameRejected(f"{encoding}: size {width}x{height} holds no pixels")
    row_bytes = width * BYTES_PER_PIXEL[encoding]
    rows = height * 3 // 2 if encoding in ("nv12", "nv21") else height
    if step < row_bytes:
        raise FrameRejected(f"{encoding}: step {step} is less than the {row_bytes} bytes of a row")
    if len(image.data) < rows * step:
        raise FrameRejected(
            f"{encoding}: {len(image.data)} bytes are fewer than {rows} rows of {step}"
        )
    if BYTES_PER_PIXEL[encoding] < 3 and "mono" not in encoding and encoding != "8uc1":
        if width % 2 or (height % 2 and encoding not in ("uyvy", "yuyv")):
            raise FrameRejected(f"{encoding}: size {width}x{height} is not even")
    return encoding, rows
