"""A synthetic drive: frames of any size, rate and number, for measurements."""

import re
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np

from perception_nodes.drives.bag_file import BagError, Messages
from perception_nodes.drives.image_messages import JPEG_QUALITY, picture_message
from perception_nodes.drives.schemas import COMPRESSED_IMAGE, IMAGE
from perception_nodes.drives.storage import Storage, Topic

SCHEME = "synthetic:"
FORM = f"{SCHEME}WIDTHxHEIGHT@RATE*FRAMES[.jpeg]"
PICTURES = 24
"""The watchdog takes the 16 that it remembers for stale ones if they come in turn. More than these
are left where a machine skips a quarter of the frames."""
TOPIC = "/camera/image_raw"


class SyntheticStorage(Storage):
    """Gives frames without stamps, which repeat a textured picture that drifts sideways."""

    def __init__(self, text: str) -> None:
        """Take its description.

        Raises:
            BagError: the description is not of the form `FORM`.
        """
        super().__init__(Path(text))
        match = re.fullmatch(SCHEME + r"(\d+)x(\d+)@(\d+(?:\.\d+)?)\*(\d+)(\.jpeg)?", text)
        if match is None:
            raise BagError(f"{text!r} is not of the form {FORM}")
        width, height, rate, frames = map(float, match.groups()[:4])
        if not all((width, height, rate, frames)):
            raise BagError(f"{text!r} has no frames: size, rate and number must be more than 0")
        self._size, self._rate_hz = (int(width), int(height)), rate
        self.topics = {TOPIC: Topic(TOPIC, COMPRESSED_IMAGE if match[5] else IMAGE, int(frames))}
        self.duration_ns = round((int(frames) - 1) / rate * 1e9)

    def messages(self, topics: Collection[str]) -> Messages:
        """The frames, as bgr8 Images, or as CompressedImages in JPEG."""
        coarse = np.random.default_rng(0).integers(0, 256, (18, 32, 3), dtype=np.uint8)
        large = cv2.resize(coarse, self._size, interpolation=cv2.INTER_CUBIC)
        shown = min(PICTURES, self.topics[TOPIC].count)
        pictures = [self._message(large, index) for index in range(shown)]
        for index in range(self.topics[TOPIC].count):
            yield round(index / self._rate_hz * 1e9), TOPIC, pictures[index % PICTURES]

    def _message(self, large: cv2.typing.MatLike, index: int) -> bytes:
        # Small pictures are the same again after a few steps, but for their brightness.
        drifted = np.roll(np.asarray(large, np.uint8), 8 * index, axis=1)
        picture = np.asarray(cv2.add(drifted, np.full_like(drifted, index)), np.uint8)
        is_jpeg = self.topics[TOPIC].message_type == COMPRESSED_IMAGE
        return picture_message(picture, JPEG_QUALITY if is_jpeg else 0)
