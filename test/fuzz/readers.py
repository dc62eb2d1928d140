"""What is fuzzed: each reader of bytes from other processes, with valid messages to mutate."""

import ctypes
import struct
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import cdr_messages
import numpy as np
from cdr_messages import STORE, serialize

from perception_nodes.cameras.channel import CameraHeader, view_camera_frame
from perception_nodes.core import frame
from perception_nodes.core.geometry import BoxesToSource, lens_of
from perception_nodes.drives.schemas import COMPRESSED_VIDEO, FFMPEG_PACKET
from perception_nodes.preprocess.encodings import planes_of
from perception_nodes.preprocess.formats import BYTES_PER_PIXEL
from perception_nodes.preprocess.lens import UnknownLens, lens_from
from perception_nodes.preprocess.placement import Placement
from perception_nodes.transport import cdr_reader
from perception_nodes.transport.cdr_writer import write_detection_array, write_frame_report
from perception_nodes.video.encode import VideoPackets
from perception_nodes.video.packet_decoder import VIDEO_ENCODINGS, VideoDecoder

GUARD = b"\xa5" * 64
"""Lies before and behind each message, so that a view out of bounds is noticed."""
STAMP_NS = 1_700_000_000 * 10**9 + 5
SLOT_SIZE = (8, 8)
BOXES = np.array([[1, 1, 7, 7], [-3, 2, 4, 9], [0, 0, 8, 8]], np.float32)
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(40)) + b"\xff\xd9"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(40))


class Guarded:
    """A message between guards, as a view of exactly the message."""

    def __init__(self, data):
        self._memory = np.frombuffer(GUARD + data + GUARD, np.uint8)
        self._begin = self._memory.ctypes.data + len(GUARD)
        self._end = self._begin + len(data)
        self.view = memoryview(self._memory)[len(GUARD) : len(GUARD) + len(data)]

    def holds(self, begin, end):
        """Whether addresses are within the message."""
        return begin == end or self._begin <= begin <= end <= self._end


def check_image(image, guarded):
    """Check that an accepted image lies within its message, and that its header can be reported."""
    pixels = np.frombuffer(image.data, np.uint8)
    assert guarded.holds(pixels.ctypes.data, pixels.ctypes.data + pixels.size)
    frame_id = image.frame_id.encode(errors="replace")[:63]
    write_detection_array(image.stamp_ns, frame_id, frame.Detections.none(), ())
    if not image.file_type and image.encoding not in VIDEO_ENCODINGS:
        for plane in planes_of(image):
            assert guarded.holds(*np.lib.array_utils.byte_bounds(plane))


def image(guarded):
    check_image(cdr_reader.read_image(guarded.view), guarded)


def compressed_image(guarded):
    check_image(cdr_reader.read_compressed_image(guarded.view), guarded)


def video(read, guarded):
    """A packet that a stream begins with; whatever is decoded is a whole picture."""
    packet = read(guarded.view)
    check_image(packet, guarded)
    assert len(planes_of(VideoDecoder().decode(packet))) == 2


def camera_info(guarded):
    info = cdr_reader.read_camera_info(guarded.view)
    assert len(info.matrix) == 9
    assert len(info.distortion) <= 14


def lens(guarded):
    try:
        lens_from(cdr_reader.read_camera_info(guarded.view))
    except UnknownLens as error:
        raise frame.FrameRejected(str(error)) from error


def stamp(guarded):
    write_detection_array(cdr_reader.read_stamp(guarded.view), b"", frame.Detections.none(), ())


H = TypeVar("H", bound=ctypes.Structure)


def split(kind, guarded):
    """The header of a sample in shared memory, and what follows it."""
    size = ctypes.sizeof(kind)
    if len(guarded.view) < size:
        raise frame.FrameRejected("no complete header: shared memory does not lend such a sample")
    return kind.from_buffer_copy(guarded.view[:size]), guarded.view[size:]


def camera_frame(guarded):
    """A frame in shared memory: its header, followed by the slot."""
    header, payload = split(CameraHeader, guarded)
    check_image(view_camera_frame(header, np.frombuffer(payload, np.uint8)), guarded)


def slot(guarded):
    """A frame on its way to the detector: its header, followed by the pixels."""
    header, pixels = split(frame.FrameHeader, guarded)
    record = frame.record_of_header(header)
    write_frame_report(record)
    write_detection_array(record.stamp_ns, record.frame_id, frame.Detections.none(), ())
    frame.check_slot(header, len(pixels), *SLOT_SIZE)
    found = BoxesToSource(header, lens_of(header))(BOXES)
    assert ((found >= 0) & (found <= [header.source_width, header.source_height] * 2)).all()
    grid = Placement.of(header).grid()
    assert grid is None or np.isfinite(grid).all()


def _images(little_endian):
    made = []
    for encoding in ("bgr8", "mono8", "yuyv", "nv12", "bayer_rggb8"):
        step = 4 * BYTES_PER_PIXEL[encoding]
        pixels = np.arange(step * (6 if encoding == "nv12" else 4), dtype=np.uint8)
        message = cdr_messages.image(STAMP_NS, "camera", 4, 4, encoding, pixels)
        message.step = step
        made.append(serialize(message, little_endian))
    return made


def _compressed(little_endian):
    return [
        serialize(cdr_messages.compressed(STAMP_NS, "camera", name, data), little_endian)
        for name, data in (("jpeg", JPEG), ("bgr8; png compressed bgr8", PNG))
    ]


def _packets(make):
    """A key frame of 32 x 16 pixels in H.264."""
    picture = np.arange(32 * 16 * 3, dtype=np.uint8).reshape(16, 32, 3)
    packet = np.frombuffer(VideoPackets().encode(picture), np.uint8)
    return [make(packet, little_endian) for little_endian in (True, False)]


def _compressed_video(packet, little_endian):
    time = cdr_messages.time_of(STAMP_NS)
    return serialize(STORE.types[COMPRESSED_VIDEO](time, "camera", packet, "h264"), little_endian)


def _ffmpeg_packet(packet, little_endian):
    kind = STORE.types[FFMPEG_PACKET]
    header = cdr_messages.header(STAMP_NS, "camera")
    message = kind(header, 32, 16, "h264;yuv420p;bgr8;bgr8", 1, 1, False, packet)
    return serialize(message, little_endian)


def _infos(little_endian):
    lenses = {"plumb_bob": [-0.3, 0.1, 0.001, 0, 0], "equidistant": [0.1, 0.01, 0, 0]}
    made = []
    for model, distortion in lenses.items():
        info = cdr_messages.camera_info(STAMP_NS, "camera", model, distortion)
        info.k = np.array([400.0, 0, 320, 0, 400, 240, 0, 0, 1])
        made.append(serialize(info, little_endian))
    return made


def _camera_frames():
    made = []
    for encoding in ("bgr8", "nv12", "jpeg"):
        payload = JPEG if encoding == "jpeg" else bytes(48)
        header = CameraHeader(number=7)
        step = 4 if encoding == "nv12" else 12
        header.describe(1_700_000_000_000_000_000, encoding, 4, 4, step, len(payload), "camera")
        made.append(bytes(header) + payload)
    return made


def _slots():
    made = []
    for flags in (
        0,
        frame.FrameFlag.RECTIFIED,
        frame.FrameFlag.RECTIFIED | frame.FrameFlag.FISHEYE,
    ):
        width, height = SLOT_SIZE
        header = frame.FrameHeader(scale_x=0.25, scale_y=0.25, pad_y=1.0, camera_source=5)
        header.camera_number, header.sequence, header.deadline_ns = 6, 7, 4
        header.stamp_ns = 1_700_000_000_000_000_000
        header.capture_ns, header.ingested_ns, header.preprocessed_ns = 1, 2, 3
        header.camera_matrix[:] = header.rectified_matrix[:] = (30.0, 30.0, 16.0, 12.0)
        header.distortion[:2] = (-0.3, 0.1)
        header.source_width, header.source_height = 32, 24
        header.width, header.height, header.flags = width, height, flags
        header.camera, header.frame_id = b"front", b"camera"
        made.append(bytes(header) + bytes(3 * width * height))
    return made


def _both(make):
    return make(True) + make(False)


READERS: dict[str, tuple[Callable[[Guarded], None], list[bytes]]] = {
    "Image": (image, _both(_images)),
    "CompressedImage": (compressed_image, _both(_compressed)),
    "CompressedVideo": (
        partial(video, cdr_reader.read_compressed_video),
        _packets(_compressed_video),
    ),
    "FFMPEGPacket": (partial(video, cdr_reader.read_ffmpeg_packet), _packets(_ffmpeg_packet)),
    "CameraInfo": (camera_info, _both(_infos)),
    "lens of a CameraInfo": (lens, _both(_infos)),
    "stamp": (stamp, [struct.pack("<4B2I", 0, 1, 0, 0, 1_700_000_000, 5) + bytes(20)]),
    "camera frame": (camera_frame, _camera_frames()),
    "slot": (slot, _slots()),
}
"""By name: a function that raises FrameRejected or checks what it has read; valid messages."""


def accepts(read, data):
    """Whether a reader accepts a message; any error but FrameRejected with a reason is a bug."""
    try:
        read(Guarded(data))
    except frame.FrameRejected as error:
        assert str(error), "rejected without a reason"
        return False
    return True
