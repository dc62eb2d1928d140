"""A folder of image files, read as if a camera had been recorded."""

import glob
import re
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np

from perception_nodes.drives.bag_file import Messages
from perception_nodes.drives.exif import PNG_SIGNATURE, UPRIGHT, orientation
from perception_nodes.drives.image_messages import compressed_message
from perception_nodes.drives.schemas import COMPRESSED_IMAGE
from perception_nodes.drives.storage import Storage, Topic

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
RATE_HZ = 10.0
"""Assumed rate, since the files carry no times."""
START_NS = 1_000_000_000
"""Stamp of the first frame; 0 would mean that it has none."""
FAST_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)
TOPIC = "/camera/image_raw/compressed"


class ImageStorage(Storage):
    """Image files as a bag with one topic, `sensor_msgs/msg/CompressedImage`."""

    def __init__(self, name: Path, files: list[Path]) -> None:
        """Order the files by their names, numbers in them by value.

        Args:
            name: what the user calls them: a folder, a file, a pattern of names.
            files: the files.
        """
        super().__init__(name)
        self.frame_files = tuple(sorted(files, key=lambda file: _natural(file.name)))
        rate = f"{RATE_HZ:g} frames a second are assumed"
        self._notes.note(f"{name}: image files have no times: {rate}")
        self.duration_ns = round((len(files) - 1) / RATE_HZ * 1e9)
        self.topics = {TOPIC: Topic(TOPIC, COMPRESSED_IMAGE, len(files))}

    def messages(self, topics: Collection[str]) -> Messages:
        """The files as messages; a file that is no image is rejected when it is decoded."""
        for index, file in enumerate(self.frame_files):
            stamp_ns = START_NS + round(index / RATE_HZ * 1e9)
            try:
                data, trouble = _jpeg_or_png(file)
            except OSError as error:
                data, trouble = b"", f"cannot be read: {error.strerror or error}"
            if trouble:
                self._notes.note(f"{file} {trouble}")
            yield stamp_ns, TOPIC, compressed_message(stamp_ns, data)


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, without its subfolders."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    return [file for file in files if not file.is_dir()]


def images_like(pattern: Path) -> list[Path]:
    """The image files that a pattern of names matches; none if it is no pattern."""
    if glob.has_magic(str(pattern)):
        files = (Path(name) for name in glob.glob(str(pattern), recursive=True))
        return [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    return []


def _jpeg_or_png(file: Path) -> tuple[bytes, str]:
    """Read a file as JPEG or PNG; return its bytes, and what is wrong with it, if that is known.

    Other formats are converted to PNG without loss, and so are photographs that must be turned
    upright. A file that cannot be converted stays as it is.
    """
    data = file.read_bytes()
    is_known = data.startswith((PNG_SIGNATURE, b"\xff\xd8\xff"))
    if not data or (is_known and orientation(data) == UPRIGHT):
        return data, ""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:  # a header that claims more pixels than OpenCV takes
        return data, f"cannot be decoded: {error.err}"
    if pixels is None:
        return data, ""
    if pixels.dtype not in (np.uint8, np.uint16):
        return data, f"has samples of {pixels.dtype}; convert them to 8 or 16 bits"
    return cv2.imencode(".png", pixels, FAST_PNG)[1].tobytes(), ""


def _natural(name: str) -> list[tuple[str, int]]:
    """Sort key that puts `frame_10` behind `frame_9`."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]
