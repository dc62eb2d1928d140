"""The camera frames that slots name, for a detector that reads them in place."""

import time
from collections.abc import Iterator

from perception_nodes.cameras import channel
from perception_nodes.core.frame import FrameHeader, FrameRejected, ImageView
from perception_nodes.transport.shm import TIMEOUT_TICK_NS, Endpoint, Sample

KEPT = channel.CAMERA_BORROWED - 2
"""Number of frames that have arrived and are kept because a slot may still name them."""
PATIENCE_NS = 12_000_000
"""How long to wait for a named frame. A camera hands a frame to one reader after the other, and may
be interrupted in between."""


class NamedFrames:
    """Finds the frames that slots name; the current one is not overwritten."""

    def __init__(self, endpoint: Endpoint, camera: str) -> None:
        self._reader = channel.camera_reader(endpoint, camera)
        self._kept: list[Sample[channel.CameraHeader]] = []
        self._held: Sample[channel.CameraHeader] | None = None

    def take(self, header: FrameHeader) -> ImageView:
        """Take the frame that a slot names; it stays valid until the next `take` or `release`.

        Args:
            header: the slot's header; slots come in the order of their frames.

        Raises:
            FrameRejected: the frame is gone or does not arrive, or its header is wrong.
        """
        self.release()
        source, number = header.camera_source, header.camera_number
        give_up_ns = time.monotonic_ns() + PATIENCE_NS
        while (held := self._find(source, number)) is None:
            left_ns = give_up_ns - time.monotonic_ns()
            is_gone = any(_is_later(sample, source, number) for sample in self._kept)
            if is_gone or left_ns <= TIMEOUT_TICK_NS:
                why = "was pushed out by newer ones, or never came here"
                raise FrameRejected(f"the camera's frame {number} {why}")
            self._reader.wait(left_ns / 1e6)
        self._held = held
        return channel.view_camera_frame(held.header, held.payload)

    def _find(self, source: int, number: int) -> Sample[channel.CameraHeader] | None:
        """The frame if it has arrived; then those before it are released."""
        for sample in self._arrived():
            if (sample.source, sample.header.number) == (source, number):
                kept, self._kept = self._kept, []
                for one in kept:
                    if _is_later(one, source, number):
                        self._kept.append(one)
                    elif one is not sample:
                        one.release()
                return sample
        return None

    def _arrived(self) -> Iterator[Sample[channel.CameraHeader]]:
        """The kept frames, then the new ones, which are kept."""
        yield from [*self._kept]
        while (sample := self._reader.receive()) is not None:
            if sample.header.encoding == channel.NOTICE:
                sample.release()
                continue
            self._kept.append(sample)
            yield sample
            if len(self._kept) > KEPT:
                self._kept.pop(0).release()

    def release(self) -> None:
        """Release the current frame."""
        if self._held is not None:
            self._held.release()
            self._held = None

    def clear(self) -> None:
        """Release all frames."""
        self.release()
        while self._kept:
            self._kept.pop().release()


def _is_later(sample: Sample[channel.CameraHeader], source: int, number: int) -> bool:
    return sample.source == source and bool(sample.header.number > number)
