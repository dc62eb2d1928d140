"""A made-up drive: frames of any size, rate and number, for measurements."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from perception_nodes.replay.bag import (
    COMPRESSED_IMAGE,
    IMAGE,
    BagError,
    Drive,
    RawFrame,
    open_drive,
)

SCHEME = "synthetic:"
PICTURES = 4


@dataclass
class SyntheticDrive:
    """Looks like a `Drive`; a textured picture drifts sideways, over and over."""

    width: int
    height: int
    rate_hz: float
    frame_count: int
    topic: str = "/camera/image_raw"
    message_type: str = IMAGE
    warnings: list[str] = field(default_factory=list)

    def frames(self) -> Iterator[RawFrame]:
        """The frames, serialized as bgr8 Images, or as CompressedImages in JPEG."""
        pictures = [self._picture(index) for index in range(PICTURES)]
        for index in range(self.frame_count):
            yield RawFrame(index, round(index / self.rate_hz * 1e9), pictures[index % PICTURES])

    def camera_info(self) -> bytes | None:
        """None: a camera that nobody calibrated."""
        return None

    def _picture(self, index: int) -> bytes:
        random = np.random.default_rng(0)
        coarse = random.integers(0, 256, (18, 32, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        picture = np.roll(picture, 8 * index, axis=1)
        header = struct.pack("<2iI8s", 0, 0, 7, b"camera\0")
        if self.message_type == COMPRESSED_IMAGE:
            file = cv2.imencode(".jpg", picture)[1].tobytes()
            body = struct.pack("<I5s3xI", 5, b"jpeg\0", len(file))
            return b"\x00\x01\x00\x00" + header + body + file
        pixels = picture.tobytes()
        body = struct.pack(
            "<3I5sB2x2I",
            self.height,
            self.width,
            5,
            b"bgr8\0",
            0,
            3 * self.width,
            len(pixels),
        )
        return b"\x00\x01\x00\x00" + header + body + pixels


def open_source(bag: str | Path, topic: str = "") -> Drive | SyntheticDrive:
    """Open a recorded drive, or make one up from `synthetic:WIDTHxHEIGHT@RATE*FRAMES[.jpeg]`.

    Raises:
        BagError: see `open_drive`; or the text is not of that form.
    """
    text = str(bag)
    if not text.startswith(SCHEME):
        return open_drive(bag, topic)
    match = re.fullmatch(r"(\d+)x(\d+)@([\d.]+)\*(\d+)(\.jpeg)?", text[len(SCHEME) :])
    if match is None:
        raise BagError(f"{text!r} is not of the form {SCHEME}WIDTHxHEIGHT@RATE*FRAMES[.jpeg]")
    width, height, rate, frames, jpeg = match.groups()
    drive = SyntheticDrive(int(width), int(height), float(rate), int(frames))
    if jpeg:
        drive.message_type = COMPRESSED_IMAGE
    return drive
