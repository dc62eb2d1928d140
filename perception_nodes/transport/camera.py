"""Camera frames in shared memory: their header, and the view that preprocessing reads."""

import ctypes

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import STAMP_LIMIT_NS, FrameRejected, ImageView


class CameraHeader(ctypes.Structure):
    """A frame as a camera driver writes it; the payload holds `step * rows` bytes of pixels.

    `number` counts the camera's frames without gaps, so that preprocessing sees what the channel
    pushed out. `stamp_ns` is the wall clock at capture, nanoseconds since the Unix epoch.
    """

    _fields_ = [
        ("number", ctypes.c_uint64),
        ("stamp_ns", ctypes.c_int64),
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("step", ctypes.c_uint32),
        ("size_bytes", ctypes.c_uint32),
        ("encoding", ctypes.c_char * 32),
        ("frame_id", ctypes.c_char * 64),
    ]


def view_camera_frame(header: CameraHeader, payload: NDArray[np.uint8]) -> ImageView:
    """View a frame in shared memory, where it lies.

    Raises:
        FrameRejected: the header contradicts the payload, or has a stamp that no message can have.
    """
    if header.size_bytes > payload.size:
        raise FrameRejected(
            f"camera frame: header tells of {header.size_bytes} bytes, the slot has {payload.size}"
        )
    if not -STAMP_LIMIT_NS <= header.stamp_ns < STAMP_LIMIT_NS:
        raise FrameRejected(f"camera frame: a stamp of {header.stamp_ns} ns does not fit a message")
    return ImageView(
        header.stamp_ns,
        header.frame_id.decode(errors="replace"),
        header.width,
        header.height,
        header.encoding.decode(errors="replace").lower(),
        header.step,
        memoryview(payload[: header.size_bytes]),
    )
