"""Video files and image folders, read as if a camera had been recorded."""

import re
import struct
from collections.abc import Collection, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import ImageView
from perception_nodes.drives.bag_file import BagError, Messages
from perception_nodes.drives.exif import PNG_SIGNATURE, UPRIGHT, orientation
from perception_nodes.drives.schemas import COMPRESSED_IMAGE, IMAGE
from perception_nodes.drives.storage import Topic
from perception_nodes.transport.cdr_writer import ENCAPSULATION, write_image, write_no_image
from perception_nodes.video.decode import pyav
from perception_nodes.video.demux import (
    FileTimes,
    Picture,
    WholePictures,
    quarter_turns,
    rate_of,
)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg")
FOLDER_RATE_HZ = 10.0
"""Assumed for image folders, whose files carry no times."""
MISSING_S = 1.0
"""A video that ends so long before the end that it states may have been cut off. That may be the
end of its sound, which may be longer."""
MISSING_INTERVALS = 1.5
"""The same where it states the end of its pictures, in the longest interval between two of them:
one is the last picture's own."""
FAST_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)
FRAME_ID = "camera"
START_NS = 1_000_000_000
"""Stamp of the first frame; 0 would mean that it has none."""


class VideoStorage:
    """A video file as a bag with one topic, `sensor_msgs/msg/Image` in bgr8."""

    frame_files: tuple[Path, ...] = ()

    def __init__(self, path: Path) -> None:
        """Open it and decode its first frame.

        Raises:
            BagError: it holds no frame that can be decoded.
        """
        if path.stat().st_size == 0:
            raise BagError(f"{path} is an empty file; copy it again, or leave it out")
        self._path = path
        self.warnings: list[str] = []
        self.damaged = False
        with closing(self._decoded()) as decoded:
            for packet, pictures in decoded:
                video = packet.stream
                if any(picture.frame is not None for picture in pictures):
                    break
            else:
                why = "; ".join(self.warnings) or str(path)
                raise BagError(
                    f"{why}: no frame can be decoded; copy it again, or convert it to H.264"
                )
            self._rate_hz = rate_of(video, FOLDER_RATE_HZ)
            duration_s = (video.duration or 0) * video.time_base
            self._duration_s = float(duration_s or (video.container.duration or 0) / 1e6)
            tagged_s = _tagged_duration_s(video)
            self._is_tagged = tagged_s > 0
            if self._is_tagged:
                self._duration_s = tagged_s - float((video.start_time or 0) * video.time_base)
            is_stated = video.frames > 0
            about = _frames_of(video) if is_stated else self._duration_s * self._rate_hz
        count = max(round(about), 1)
        self.duration_ns = round(self._duration_s * 1e9 * (count - 1) / count)
        name = "/camera/image_raw"
        self.topics = {name: Topic(name, IMAGE, count, counted=is_stated, estimated=not is_stated)}

    def messages(self, topics: Collection[str]) -> Messages:
        """The frames, with the video's own times; of one that is lost an image that tells why."""
        (topic,) = self.topics
        times, at_ns, longest_ns = None, 0, round(1e9 / self._rate_hz)
        for packet, pictures in self._decoded():
            times = times or FileTimes(packet.stream, self._rate_hz)
            for picture in pictures:
                before_ns, at_ns = at_ns, times.next_ns(picture.pts)
                longest_ns = max(longest_ns, at_ns - before_ns)
                yield START_NS + at_ns, topic, _picture_message(START_NS + at_ns, picture)
        missing_s, limit_s = self._duration_s - at_ns / 1e9, MISSING_S
        if self._is_tagged:
            limit_s = min(limit_s, MISSING_INTERVALS * longest_ns / 1e9)
        if self.topics[topic].estimated and missing_s > limit_s:
            self._note(f"its last frame is {missing_s:.2f} s before the end that it states")

    def close(self) -> None:
        """Nothing is open between readings."""

    def _decoded(self) -> Generator[tuple[Any, list[Picture]], None, None]:
        """The packets, of which the last is empty, and the pictures that each completes."""
        av = pyav()
        try:
            # With its scheme, since a name may hold a colon.
            with av.open(f"file:{self._path}", metadata_errors="ignore") as container:
                if not container.streams.video:
                    self._note("it has no video stream")
                for video in container.streams.video[:1]:
                    if video.codec_context is None:
                        self._note("no decoder is known for its codec")
                        return
                    whole = WholePictures(video, "the file is damaged")
                    for packet in container.demux(video):
                        yield packet, whole.take(packet)
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            self._note(f"it cannot be read any further: {error.strerror}")

    def _note(self, damage: str) -> None:
        self.damaged = True
        if (note := f"{self._path}: {damage}") not in self.warnings:
            self.warnings.append(note)


def _tagged_duration_s(video: Any) -> float:
    """Where the pictures end by Matroska's tag `DURATION`, hours:minutes:seconds; 0 without it."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", video.metadata.get("DURATION", ""))
    if found is None:
        return 0.0
    hours, minutes, seconds = map(float, found.groups())
    return 3600 * hours + 60 * minutes + seconds


def _frames_of(video: Any) -> int:
    """Frames that a file is to show: without those that it cuts off, and without empty packets.

    The number in its header counts them all, but an index may be missing.
    """
    index = getattr(video, "index_entries", ())  # older PyAV has none
    shown = sum(not entry.is_discard and entry.size > 0 for entry in index)
    return shown if len(index) > 1 else int(video.frames)


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


def _picture_message(stamp_ns: int, picture: Picture) -> bytes:
    """A picture of a video as `image_message`; a lost one in no size, with the cause."""
    if picture.frame is None:
        return write_no_image(stamp_ns, FRAME_ID, picture.cause)
    pixels = picture.frame.reformat(format="bgr24", interpolation="BICUBIC").to_ndarray()
    turned = np.rot90(pixels, quarter_turns(picture.frame))
    return image_message(stamp_ns, np.ascontiguousarray(turned))


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
    is_known = data.startswith((PNG_SIGNATURE, b"\xff\xd8\xff"))
    if not data or (is_known and orientation(data) == UPRIGHT):
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
