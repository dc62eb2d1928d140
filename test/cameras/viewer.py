"""Feeds a source's frames into a camera's channel, and takes them out again."""

from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
from observe import until

from perception_nodes.cameras.camera_feed import CameraFeed
from perception_nodes.cameras.channel import camera_reader, notice_of, view_camera_frame


class Seen(NamedTuple):
    """A frame: its header's facts, its rows of luma or grey, and what `look` says of the sample.

    What notices before it say is lost counts as lost by it, too.
    """

    number: int
    lost: int
    stamp_ns: int
    encoding: str
    luma: Any
    looked: Any


class Viewer:
    """What comes of a source.

    Attributes:
        log: lines that the feed logs.
        found: the frames so far.
        notices: what those said that came, with their lost frames.
        lost: frames that the last notices lost, behind the last frame.
    """

    def __init__(self, join, source, look=lambda sample: None, camera="front"):
        self.log, self.found, self._look = [], [], look
        self.notices, self.lost = [], 0
        self._reader = camera_reader(join("reader"), camera)
        self.feed = CameraFeed(join("camera"), camera, source, "optical", self.log.append)

    def until(self, condition, timeout_s=300.0):
        """Step until it is so; opens the source at first."""

        def step():
            try:
                self.feed.step(20.0)
            finally:
                self._look_at_all()

        until(condition, timeout_s, lambda: (self.log, len(self.found)), step)

    def _look_at_all(self):
        while (sample := self._reader.receive()) is not None:
            header = sample.header
            if notice := notice_of(header, sample.payload):
                self.notices.append((header.lost, notice))
                self.lost += header.lost
                sample.release()
                continue
            view = view_camera_frame(header, sample.payload)
            rows = np.frombuffer(view.data, np.uint8)[: view.width * view.height].copy()
            luma = rows.reshape(view.height, view.width)
            facts = header.number, header.lost + self.lost, view.stamp_ns, view.encoding
            self.lost = 0
            self.found.append(Seen(*facts, luma, self._look(sample)))
            sample.release()

    def take(self, frames, timeout_s=30.0):
        """So many frames, closed after them, or after the error that ends them."""
        with closing(self.feed):
            self.until(lambda: len(self.found) >= frames, timeout_s)
        return self.found
