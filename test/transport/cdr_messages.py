"""Messages as rosbags' typestore makes them, which knows them from their definitions."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from perception_nodes.drives.schemas import typestore

STORE = typestore()
JPEG_MARK = b"\xff\xd8\xff\xe0"

stamps = st.integers(0, (2**31 - 1) * 10**9 + 999_999_999)
frame_ids = st.text(st.characters(exclude_categories=["Cs"], min_codepoint=1), max_size=15)
names = st.text(st.characters(blacklist_categories=["Cs"], min_codepoint=1), max_size=40)
sizes = st.integers(1, 65535)
fast = settings(max_examples=60)


def time_of(stamp_ns):
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    return STORE.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)


def header(stamp_ns, frame_id):
    return STORE.types["std_msgs/msg/Header"](stamp=time_of(stamp_ns), frame_id=frame_id)


def image(stamp_ns=5, frame_id="cam", width=4, height=3, encoding="bgr8", data=b"\x07" * 36):
    pixels = np.frombuffer(data, np.uint8)
    return STORE.types["sensor_msgs/msg/Image"](
        header(stamp_ns, frame_id), height, width, encoding, 0, width * 3, pixels
    )


def compressed(stamp_ns=5, frame_id="cam", name="jpeg", data=JPEG_MARK + b"pixels"):
    pixels = np.frombuffer(data, np.uint8)
    return STORE.types["sensor_msgs/msg/CompressedImage"](header(stamp_ns, frame_id), name, pixels)


def camera_info(stamp_ns=5, frame_id="cam", model="plumb_bob", distortion=(0.1, 0.2, 0, 0, 0)):
    return STORE.types["sensor_msgs/msg/CameraInfo"](
        header(stamp_ns, frame_id),
        480,
        640,
        model,
        np.array(distortion, np.float64),
        np.arange(9, dtype=np.float64),
        np.eye(3).ravel(),
        np.zeros(12),
        0,
        0,
        STORE.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
    )


def serialize(message, little_endian=True):
    return bytes(STORE.serialize_cdr(message, message.__msgtype__, little_endian=little_endian))
