"""A camera's frames for a detector that reads them in place, as the slots name them."""

import time

from perception_nodes.cameras.channel import (
    CAMERA_BORROWED,
    CameraHeader,
    camera_reader,
    view_camera_frame,
)
from perception_nodes.core.frame import FrameHeader, FrameRejected, ImageView
from perception_nodes.transport.shm import TIMEOUT_TICK_NS, Endpoint, Sample

KEPT = CAMERA_BORROWED - 2
"""Number of frames that have arrived and are kept because a slot may still name them."""
PATIENCE_NS = 12_000_000
"""How long to wait for a named frame. A camera hands a frame to one reader after the other and may
be interrupted in between."""


class NamedFrames:
    """Finds the camera frames that slots name, and holds the current one against overwriting."""

    def __init__(self, endpoint: Endpoint, camera: str) -> None:
        self._reader = camera_reader(endpoint, camera)
        self._kept: list[Sample[CameraHeader]] = []
        self._held: Sample[CameraHeader] | None = None

    def take(self, header: FrameHeader) -> ImageView:
        """Take the frame that a slot names; it stays valid until the next `take` or `release`.

        Args:
            header: the slot's header; slots come in the order of their frames.

        Raises:
            FrameRejected: the frame is gone, or does not arrive, or its header is wrong.
        """
        self.release()
        give_up_ns = time.monotonic_ns() + PATIENCE_NS
        while not self._find(header):
            left_ns = give_up_ns - time.monotonic_ns()
            name = header.camera_source, header.camera_number
            is_gone = any(_is_later(sample, *name) for sample in self._kept)
            if is_gone or left_ns <= TIMEOUT_TICK_NS:
                raise FrameRejected(
                    f"the camera's frame {header.camera_number} was pushed out by newer ones, or "
                    "never came here"
                )
            self._reader.wait(left_ns / 1e6)
        assert self._held is not None
        return view_camera_frame(self._held.header, self._held.payload)

    def _find(self, header: FrameHeader) -> bool:
        """Look for the frame; if it has arrived, hold it and release those before it."""
        for place, sample in enumerate(self._kept):
            if _is_named(sample, header):
                del self._kept[place]
                self._hold(sample)
                return True
        while (came := self._reader.receive()) is not None:
            if _is_named(came, header):
                self._hold(came)
                return True
            self._kept.append(came)
            if len(self._kept) > KEPT:
                self._kept.pop(0).release()
        return False

    def _hold(self, sample: Sample[CameraHeader]) -> None:
        self._held = sample
        later = [one for one in self._kept if _is_later(one, sample.source, sample.header.number)]
        for one in self._kept:
            if one not in later:
                one.release()
        self._kept = later

    def release(self) -> None:
        """Release the current frame."""
        if self._held is not None:
            self._held.release()
            self._held = None

    def clear(self) -> None:
        """Release all frames."""
        self.release()
        for sample in self._kept:
            sample.release()
        self._kept.clear()


def _is_named(sample: Sample[CameraHeader], header: FrameHeader) -> bool:
    named = (header.camera_source, header.camera_number)
    return (sample.source, sample.header.number) == named


def _is_later(sample: Sample[CameraHeader], source: int, number: int) -> bool:
    return sample.source == source and bool(sample.header.number > number)
