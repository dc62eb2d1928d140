"""Plays a recorded drive as a camera with faults would; see `faults.camera_faults`."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from rclpy.qos import QoSProfile, ReliabilityPolicy

from perception_nodes.drives.bag import RawFrame
from perception_nodes.drives.image_messages import JPEG_QUALITY, picture_message
from perception_nodes.faults.camera_faults import SentFrame, with_distortion, with_faults
from perception_nodes.faults.graphs import FaultCameraSettings
from perception_nodes.faults.scenario import CameraFault
from perception_nodes.nodes.player_node import PlayerNode
from perception_nodes.system.files import write_whole

FAULTS = TypeAdapter(list[CameraFault])
SENSOR_DATA = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
"""QoS of image drivers: what the network loses is not sent again."""
CLOSING_PERIOD_NS = 1_000_000_000


class FaultCameraNode(PlayerNode):
    """Plays the drive with its faults, and notes when it began.

    A frame that the network has lost is noticed when the next one arrives. So this camera, as a
    real one would, goes on after the end of the drive, until all frames are accounted for or the
    player stops waiting.

    It renders its frames without priority, since a real camera needs no processor for that. A frame
    that is not rendered when it is due is stamped when it is rendered: the graph has not delayed
    it. The node notes how late it was. Frames that are late or wrongly stamped on purpose stay as
    they are.
    """

    settings_type = FaultCameraSettings
    image_qos = SENSOR_DATA
    _announced = False
    _last: SentFrame | None = None
    _closing = 0

    def open(self) -> None:
        """Open the drive, as the player does."""
        self._hits: list[int] = []
        self._late: list[tuple[int, int]] = []
        super().open()

    def step(self) -> None:
        """Send what is due, as the player does; note the time of the first frame."""
        super().step()
        if self._first_due_ns and not self._announced and self.settings.started_file:
            self._announced = True
            write_whole(Path(self.settings.started_file), str(self._first_due_ns))
        if self._next is None and not self.finished and not self._camera.is_shared:
            self._send_after_the_end()

    def _send_after_the_end(self) -> None:
        """Send a frame that fits into one packet if frames are missing from the account."""
        last = self._last
        if last is None or self._graph.last.frames_in >= len(self._sent):
            return
        # Judge by the time of sending, since the stamps may be wrong on purpose.
        if time.time_ns() < self._due_ns(last) + CLOSING_PERIOD_NS:
            return
        at_ns = last.log_time_ns + round(CLOSING_PERIOD_NS * self.settings.rate)
        data = _small(self._compressed, self._closing)
        self._play(replace(last, log_time_ns=at_ns, stamp_shift_ns=0, data=data))
        self._closing += 1
        self._write_sent()

    def _read_frames(self) -> Iterator[SentFrame]:
        faults = FAULTS.validate_json(self.settings.faults)
        return with_faults(super()._read_frames(), faults, self._hits)

    def _write_sent(self) -> None:
        if self.settings.played_file:
            content = {"hits": self._hits, "closing": self._closing, "late": self._late}
            write_whole(Path(self.settings.played_file), json.dumps(content))
        super()._write_sent()

    def _play(self, frame: RawFrame) -> None:
        assert isinstance(frame, SentFrame)
        at_once = self._last is not None and self._last.log_time_ns == frame.log_time_ns
        self._last = frame
        if frame.lost:
            self._sent.append((frame.index, self._stamp_ns(frame)))
            return
        if frame.distortion is not None and frame.camera_info is not None:
            frame = replace(frame, camera_info=with_distortion(frame.camera_info, frame.distortion))
        late_ns = time.time_ns() - self._due_ns(frame)
        if late_ns > 0 and self._clocks is None and not (frame.stamp_shift_ns or at_once):
            frame = replace(frame, stamp_shift_ns=late_ns)
            self._late.append((self._stamp_ns(frame), late_ns))
        super()._play(frame)

    def _stamp_ns(self, frame: RawFrame) -> int:
        assert isinstance(frame, SentFrame)
        return super()._stamp_ns(frame) + frame.stamp_shift_ns


def _small(compressed: bool, number: int) -> bytes:
    """Make a picture that fits into one packet, so that a lossy network hardly loses it.

    Two in a row differ, since the same picture twice would be a frozen camera.
    """
    picture = np.full((16, 16, 3), 97 * number % 256, np.uint8)
    return picture_message(picture, JPEG_QUALITY if compressed else 0)


if __name__ == "__main__":
    FaultCameraNode.main()
