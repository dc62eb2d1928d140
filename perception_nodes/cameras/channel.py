"""The shared-memory channel of a camera: its name, depths and header, and the view of a frame."""

import ctypes
import time

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.clock import since_receipt
from perception_nodes.core.frame import FRAME_ID_BYTES, STAMP_LIMIT_NS, FrameRejected, ImageView
from perception_nodes.core.structures import fields
from perception_nodes.transport.shm import SPARE_SAMPLES, Endpoint, Reader, Writer

CAMERA_DEPTH = 4
CAMERA_BORROWED = 4
"""Frames that a detector holds if it reads them in place, see `cameras.named_frames`: one in
inference, two that no slot has named yet, and one that arrives. Pages are reserved for these, the
frames in the channel, two each in preprocessing, republishing and view, and the one being
written."""
CAMERA_SPARE = SPARE_SAMPLES + 4
NOTICE = b"notice"
"""In place of an encoding: the payload is no frame, but a text that says why none comes."""
NOTICE_BYTES = 200


class CameraHeader(ctypes.Structure):
    """A frame as a camera driver writes it; the payload holds `step * rows` bytes of pixels.

    `number` counts a publisher's frames from 0 without gaps, so that preprocessing notices frames
    that the channel pushed out; the last `lost` numbers before this one are frames that the sensor
    or its driver lost. `stamp_ns` is the wall clock at capture, nanoseconds since the Unix epoch.
    `filled_us` is CLOCK_MONOTONIC in microseconds, its low 32 bits, when the sender had the frame;
    0 if the sender does not state it.

    A notice has the number of the frame that is to come, and no size; its last `lost` numbers are
    lost, too.
    """

    _fields_ = fields(
        "uint64 number; int64 stamp_ns; uint32 width, height, step, size_bytes; char "
        f"encoding[32], frame_id[{FRAME_ID_BYTES + 1}]; uint32 lost, filled_us"
    )

    def since_filled_ns(self, now_ns: int) -> int:
        """How long ago the sender had the frame, nanoseconds; 0 if that is not known."""
        if not self.filled_us:
            return 0
        return since_receipt(1000 * ((now_ns // 1000 - self.filled_us) % (1 << 32)))

    def describe(
        self,
        stamp_ns: int,
        encoding: str,
        width: int,
        height: int,
        step: int,
        size_bytes: int,
        frame_id: str = "",
    ) -> None:
        """Fill in what `view_camera_frame` reads; a text that has no room is cut."""
        self.stamp_ns, self.width, self.height = stamp_ns, width, height
        self.step, self.size_bytes = step, size_bytes
        self.encoding, self.frame_id = encoding.encode()[:31], frame_id.encode()[:FRAME_ID_BYTES]
        self.filled_us = monotonic_us()

    def note(self, text: str, payload: NDArray[np.uint8]) -> None:
        """Make the sample a notice; a text that has no room is cut."""
        data = text.encode()[: payload.size]
        payload[: len(data)] = np.frombuffer(data, np.uint8)
        self.encoding, self.size_bytes = NOTICE, len(data)


def monotonic_us() -> int:
    """CLOCK_MONOTONIC for `filled_us`."""
    return max(1, time.monotonic_ns() // 1000 % (1 << 32))


def notice_of(header: CameraHeader, payload: NDArray[np.uint8]) -> str:
    """Why no frame comes, if the sample is a notice; else an empty text."""
    if header.encoding != NOTICE:
        return ""
    return payload[: header.size_bytes].tobytes().decode(errors="replace") or "it does not say why"


def view_camera_frame(header: CameraHeader, payload: NDArray[np.uint8]) -> ImageView:
    """View a frame in shared memory without copying it.

    Raises:
        FrameRejected: the header contradicts the payload, its stamp does not fit a ROS message, or
            it is a notice.
    """
    if notice := notice_of(header, payload):
        raise FrameRejected(f"no frame: {notice}")
    if header.size_bytes > payload.size:
        sizes = f"the header says {header.size_bytes} bytes, the slot has {payload.size}"
        raise FrameRejected(f"camera frame: {sizes}")
    if not -STAMP_LIMIT_NS <= header.stamp_ns < STAMP_LIMIT_NS:
        raise FrameRejected(f"camera frame: a stamp of {header.stamp_ns} ns does not fit a message")
    frame_id = header.frame_id.decode(errors="replace")
    encoding = header.encoding.decode(errors="replace").lower()
    layout = header.width, header.height, encoding, header.step
    return ImageView(header.stamp_ns, frame_id, *layout, memoryview(payload[: header.size_bytes]))


def camera_writer(
    endpoint: Endpoint, camera: str, frame_bytes: int, loaned: int = 2
) -> Writer[CameraHeader]:
    """The sending end of frames from a camera, a video or a bag.

    Args:
        endpoint: the endpoint of this process.
        camera: name of the camera.
        frame_bytes: size of a frame; larger frames may follow.
        loaned: frames that are filled at the same time.
    """
    depths = CAMERA_DEPTH, CAMERA_BORROWED, loaned, CAMERA_SPARE
    return endpoint.writer(f"{camera}/camera", CameraHeader, frame_bytes, *depths)


def camera_reader(
    endpoint: Endpoint, camera: str, waiting: int | None = None
) -> Reader[CameraHeader]:
    """The receiving end of `camera_writer`; for `waiting` see `Endpoint.reader`."""
    return endpoint.reader(f"{camera}/camera", CameraHeader, CAMERA_DEPTH, CAMERA_BORROWED, waiting)


def camera_names(endpoint: Endpoint, camera: str) -> dict[int, str]:
    """The endpoints at a `camera_reader`'s channel, see `Endpoint.names`."""
    return endpoint.names(f"{camera}/camera")


def camera_senders(endpoint: Endpoint, camera: str) -> int:
    """How many processes can send frames to a `camera_reader` of this endpoint."""
    return endpoint.senders(f"{camera}/camera")
