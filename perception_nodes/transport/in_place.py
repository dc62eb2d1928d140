"""A camera's frames for a reader that is told of them by another one."""

import time
from collections import deque

from perception_nodes.core.frame import FrameHeader, FrameRejected, ImageView
from perception_nodes.transport import channels
from perception_nodes.transport.camera import CameraHeader, view_camera_frame
from perception_nodes.transport.shm import TIMEOUT_TICK_NS, Endpoint, Sample

PATIENCE_NS = 12_000_000
"""A camera gives its frame to one reader after the other, and may be kept from running between."""


class FramesInPlace:
    """Finds the frames that slots tell of, and keeps the one in hand from being overwritten."""

    def __init__(self, endpoint: Endpoint, camera: str) -> None:
        """Join the camera's channel."""
        self._reader = channels.camera_reader(endpoint, camera)
        self._waiting: deque[Sample[CameraHeader]] = deque()
        self._held: Sample[CameraHeader] | None = None

    def take(self, header: FrameHeader) -> ImageView:
        """The frame that a slot tells of; it stays until the next one is taken, or `release`.

        Args:
            header: the slot's; slots come in the order of their frames.

        Raises:
            FrameRejected: the frame is gone, or does not come, or contradicts itself.
        """
        self.release()
        give_up_ns = time.monotonic_ns() + PATIENCE_NS
        while not self._find(header):
            left_ns = give_up_ns - time.monotonic_ns()
            newer = any(one.header.number > header.camera_number for one in self._waiting)
            if newer or left_ns <= TIMEOUT_TICK_NS:
                raise FrameRejected(
                    f"the camera's frame {header.camera_number} was pushed out by newer ones, or "
                    "never came here"
                )
            self._reader.wait(left_ns / 1e6)
        assert self._held is not None
        return view_camera_frame(self._held.header, self._held.payload)

    def _find(self, header: FrameHeader) -> bool:
        """Whether the frame has come; it is then held, and those before it are let go."""
        while (sample := self._reader.receive()) is not None:
            self._waiting.append(sample)
            # As many as the channel holds: what is older would have been pushed out there.
            if len(self._waiting) > channels.CAMERA_DEPTH:
                self._waiting.popleft().release()
        named = (header.camera_number, header.stamp_ns)
        for place, sample in enumerate(self._waiting):
            if (sample.header.number, sample.header.stamp_ns) == named:
                for _ in range(place):
                    self._waiting.popleft().release()
                self._held = self._waiting.popleft()
                return True
        return False

    def release(self) -> None:
        """Let go of the frame in hand."""
        if self._held is not None:
            self._held.release()
            self._held = None

    def clear(self) -> None:
        """Let go of all frames."""
        self.release()
        while self._waiting:
            self._waiting.popleft().release()
