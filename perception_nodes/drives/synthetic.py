"""A synthetic drive: frames of any size, rate and number, for measurements."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from perception_nodes.drives.bag import Drive, RawFrame, open_drive
from perception_nodes.drives.bag_file import BagError
from perception_nodes.drives.footage import compressed_message, image_message
from perception_nodes.drives.schemas import COMPRESSED_IMAGE, IMAGE

SCHEME = "synthetic:"
PICTURES = 4


@dataclass
class SyntheticDrive:
    """Has the interface of a `Drive`; its frames repeat a textured picture that drifts sideways."""

    width: int
    height: int
    rate_hz: float
    frame_count: int
    topic: str = "/camera/image_raw"
    message_type: str = IMAGE
    warnings: list[str] = field(default_factory=list)

    @property
    def duration_ns(self) -> int:
        """From the first to the last frame."""
        return round(max(self.frame_count - 1, 0) / self.rate_hz * 1e9)

    def close(self) -> None:
        """Nothing to do."""

    def frames(self) -> Iterator[RawFrame]:
        """The frames, serialized as bgr8 Images, or as CompressedImages in JPEG."""
        pictures = [self._picture(index) for index in range(PICTURES)]
        for index in range(self.frame_count):
            yield RawFrame(index, round(index / self.rate_hz * 1e9), pictures[index % PICTURES])

    def camera_info(self) -> bytes | None:
        """None: the camera is not calibrated."""
        return None

    def _picture(self, index: int) -> bytes:
        random = np.random.default_rng(0)
        coarse = random.integers(0, 256, (18, 32, 3), dtype=np.uint8)
        large = cv2.resize(coarse, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        picture = np.roll(np.asarray(large, np.uint8), 8 * index, axis=1)
        if self.message_type == COMPRESSED_IMAGE:
            return compressed_message(0, cv2.imencode(".jpg", picture)[1].tobytes())
        return image_message(0, picture)


def open_source(bag: str | Path, topic: str = "") -> Drive | SyntheticDrive:
    """Open a recorded drive, or a synthetic one: `synthetic:WIDTHxHEIGHT@RATE*FRAMES[.jpeg]`.

    Raises:
        BagError: see `open_drive`; or a synthetic drive is not described in that form.
    """
    text = str(bag)
    if not text.startswith(SCHEME):
        return open_drive(bag, topic)
    match = re.fullmatch(r"(\d+)x(\d+)@(\d+(?:\.\d+)?)\*(\d+)(\.jpeg)?", text[len(SCHEME) :])
    if match is None:
        raise BagError(f"{text!r} is not of the form {SCHEME}WIDTHxHEIGHT@RATE*FRAMES[.jpeg]")
    width, height, rate, frames, jpeg = match.groups()
    if not all(map(float, (width, height, rate, frames))):
        raise BagError(f"{text!r} has no frames: size, rate and number must be more than 0")
    drive = SyntheticDrive(int(width), int(height), float(rate), int(frames))
    if jpeg:
        drive.message_type = COMPRESSED_IMAGE
    return drive
