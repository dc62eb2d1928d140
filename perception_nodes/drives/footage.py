"""Video files and image folders, read as if a camera had been recorded."""

import os
import re
import struct
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import ImageView
from perception_nodes.drives.bag_file import BagError, Messages
from perception_nodes.drives.exif import UPRIGHT, orientation
from perception_nodes.drives.schemas import COMPRESSED_IMAGE, IMAGE
from perception_nodes.drives.storage import Topic
from perception_nodes.transport.cdr_writer import ENCAPSULATION, write_image

# A video that cannot be read is named in one line of ours: FFmpeg's own messages stay out.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")
FOLDER_RATE_HZ = 10.0
"""Assumed for image folders, whose files carry no times."""
FAST_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)
FRAME_ID = "camera"
START_NS = 1_000_000_000
"""Stamp of the first frame; 0 would mean that it has none."""


class VideoStorage:
    """A video file as a bag with one topic, `sensor_msgs/msg/Image` in bgr8."""

    def __init__(self, path: Path) -> None:
        """Open it and decode its first frame.

        Raises:
            BagError: it holds no frame that can be decoded.
        """
        self._path = path
        video = cv2.VideoCapture(str(path))
        decoded, _ = video.read()
        rate_hz = float(video.get(cv2.CAP_PROP_FPS))
        count = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 1)
        video.release()
        if not decoded:
            if path.stat().st_size == 0:
                raise BagError(f"{path} is an empty file; copy it again, or leave it out")
            raise BagError(f"{path} holds no frame that can be decoded; convert it to H.264")
        self._rate_hz = rate_hz if 0 < rate_hz < 1000 else FOLDER_RATE_HZ
        self.warnings: list[str] = []
        self.duration_ns = round((count - 1) / self._rate_hz * 1e9)
        self.frame_files: tuple[Path, ...] = ()
        self.damaged = False
        name = "/camera/image_raw"
        self.topics = {name: Topic(name, IMAGE, count)}

    def messages(self, topics: Collection[str]) -> Messages:
        """The frames, with stamps by the video's rate."""
        (topic,) = self.topics
        video = cv2.VideoCapture(str(self._path))
        try:
            index = 0
            while (read := video.read())[0]:
                stamp_ns = START_NS + round(index / self._rate_hz * 1e9)
                yield stamp_ns, topic, image_message(stamp_ns, read[1].astype(np.uint8, copy=False))
                index += 1
        finally:
            video.release()
        promised = self.topics[topic].count
        # The decoder cannot continue behind damage.
        note = f"{self._path}: frame {index} of {promised} and those behind it cannot be decoded"
        if index < promised and note not in self.warnings:
            self.warnings.append(note)

    def close(self) -> None:
        """Nothing is open between readings."""


class ImagesStorage:
    """A folder of images as a bag with one topic, `sensor_msgs/msg/CompressedImage`."""

    damaged = False

    def __init__(self, folder: Path, files: list[Path]) -> None:
        """Order the files by their names, numbers in them by value."""
        self.frame_files = tuple(sorted(files, key=lambda file: _natural(file.name)))
        self.warnings = [
            f"{folder}: image files have no times: {FOLDER_RATE_HZ:g} frames a second are assumed"
        ]
        self.duration_ns = round((len(files) - 1) / FOLDER_RATE_HZ * 1e9)
        name = "/camera/image_raw/compressed"
        self.topics = {name: Topic(name, COMPRESSED_IMAGE, len(files))}

    def messages(self, topics: Collection[str]) -> Messages:
        """The files as messages; one that is not an image is rejected when it is decoded."""
        (topic,) = self.topics
        for index, file in enumerate(self.frame_files):
            stamp_ns = START_NS + round(index / FOLDER_RATE_HZ * 1e9)
            try:
                data, trouble = _jpeg_or_png(file)
            except OSError as error:
                data, trouble = b"", f"cannot be read: {error.strerror or error}"
            if trouble and (note := f"{file} {trouble}") not in self.warnings:
                self.warnings.append(note)
            yield stamp_ns, topic, compressed_message(stamp_ns, data)

    def close(self) -> None:
        """Nothing is open between readings."""


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, without its subfolders."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    return [file for file in files if not file.is_dir()]


def image_message(stamp_ns: int, pixels: NDArray[np.uint8]) -> bytes:
    """Serialize uint8 [height, width, 3] BGR as `sensor_msgs/msg/Image`."""
    return write_image(replace(ImageView.of_pixels(pixels), stamp_ns=stamp_ns, frame_id=FRAME_ID))


def compressed_message(stamp_ns: int, file: bytes) -> bytes:
    """Serialize the bytes of a JPEG or PNG as `sensor_msgs/msg/CompressedImage`."""
    return _header(stamp_ns) + struct.pack("<I5s3xI", 5, b"jpeg\0", len(file)) + file


def _header(stamp_ns: int) -> bytes:
    """The encapsulation header of CDR and a `std_msgs/Header` with `FRAME_ID`."""
    stamp = struct.pack("<iI", *divmod(stamp_ns, 1_000_000_000))
    return ENCAPSULATION + stamp + struct.pack("<I8s", 7, b"camera\0")


def _jpeg_or_png(file: Path) -> tuple[bytes, str]:
    """A JPEG or PNG file as it is, and what is wrong with it, if that is known.

    Other image formats are converted to PNG without loss, and so are photographs that are stored as
    the camera was held: they are turned upright. What cannot be converted stays as it is.
    """
    data = file.read_bytes()
    as_it_is = data.startswith(b"\x89PNG")
    if data.startswith(b"\xff\xd8\xff"):
        as_it_is = orientation(data) == UPRIGHT
    if as_it_is or not data:
        return data, ""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
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
