"""Serialized ROS messages (OMG CDR, XCDR1), written.

Fields follow the `.msg` definitions of sensor_msgs, vision_msgs and perception_interfaces; the
layout of a frame report is derived from its shipped definition.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from math import nan

from perception_nodes.core import frame as frames
from perception_nodes.core.budget import STAGES
from perception_nodes.tracking import motion
from perception_nodes.tracking.tracks import Tracks
from perception_nodes.transport.cdr import HEADER_SIZE, NO_PICTURE, NS_PER_S
from perception_nodes.transport.cdr_reader import read_stamp
from perception_nodes.transport.definitions import fields

ENCAPSULATION = b"\x00\x01\x00\x00"
"""Plain CDR, little-endian."""


def stamped(message: bytes, stamp_ns: int) -> bytes:
    """A copy of a serialized stamped message with another stamp.

    Raises:
        FrameRejected: it is too short to have one.
    """
    read_stamp(message)
    order = "<" if message[1] else ">"
    stamp = struct.pack(order + "iI", *divmod(stamp_ns, NS_PER_S))
    return b"".join((message[:HEADER_SIZE], stamp, message[HEADER_SIZE + len(stamp) :]))


class _Writer:
    """Appends little-endian CDR."""

    def __init__(self) -> None:
        self.data = bytearray(ENCAPSULATION)

    def pack(self, fmt: str, alignment: int, *values: float) -> None:
        self.data += bytes(-(len(self.data) - HEADER_SIZE) % alignment)
        self.data += struct.pack("<" + fmt, *values)

    def string(self, text: bytes) -> None:
        self.pack("I", 4, len(text) + 1)
        self.data += text + b"\x00"

    def header(self, stamp_ns: int, frame_id: bytes) -> None:
        """A std_msgs/Header."""
        self.pack("iI", 4, *divmod(stamp_ns, NS_PER_S))
        self.string(frame_id)


def write_image(image: frames.ImageView) -> bytes:
    """Serialize a frame as `sensor_msgs/msg/Image`."""
    out = _Writer()
    out.header(image.stamp_ns, image.frame_id.encode())
    out.pack("2I", 4, image.height, image.width)
    out.string(image.encoding.encode())
    out.pack("B", 1, 0)
    out.pack("2I", 4, image.step, len(image.data))
    return b"".join((out.data, image.data))


def write_no_image(stamp_ns: int, frame_id: str, reason: str) -> bytes:
    """Serialize a frame that could not be read, but has to be accounted for further on.

    It is an image of no size, which `read_image` rejects with that reason.
    """
    return write_image(
        frames.ImageView(stamp_ns, frame_id, 0, 0, NO_PICTURE + reason, 0, memoryview(b""))
    )


def write_compressed_image(
    stamp_ns: int, frame_id: str, file_format: str, data: bytes | memoryview
) -> bytes:
    """Serialize a file, such as a JPEG, as `sensor_msgs/msg/CompressedImage`."""
    out = _Writer()
    out.header(stamp_ns, frame_id.encode())
    out.string(file_format.encode())
    out.pack("I", 4, len(data))
    return b"".join((out.data, data))


def _complete_characters(text: bytes) -> bytes:
    """Drop the character that a record's fixed length may have cut at the end of UTF-8 text.

    Subscribers refuse a message whose strings are not UTF-8.
    """
    return text.decode(errors="ignore").encode()


_UNKNOWN_POSE = struct.pack("<43d", *[0.0] * 6, 1.0, *[0.0] * 36)
"""geometry_msgs/PoseWithCovariance of a 2D detection: the unit pose, no covariance."""
_STAMP = struct.Struct("<iI")
_OBJECT = struct.Struct("<d344s5d")
"""Layout of the fields after an object's class: score, pose and box."""
_NO_ID = struct.pack("<I4x", 1)


@lru_cache
def _fronts(
    frame_id: bytes, class_names: tuple[bytes, ...]
) -> tuple[bytes, tuple[tuple[bytes, ...], ...]]:
    """What stays the same in a `Detection2DArray` from one frame to the next.

    Returns:
        The array's frame_id; and what lies between stamp and score of an object, for each class: of
        one that begins at a multiple of 8, and of one that begins 4 behind it, which differ in
        their padding.
    """
    name = _string(_complete_characters(frame_id))
    fronts = [name + struct.pack("<I", 1) + _string(class_name) for class_name in class_names]
    return name, tuple(
        tuple(front + bytes(-(begin + _STAMP.size + len(front)) % 8) for front in fronts)
        for begin in (0, 4)
    )


def _string(text: bytes) -> bytes:
    """A string that begins and ends at a multiple of 4."""
    return struct.pack("<I", len(text) + 1) + text + bytes(4 - len(text) % 4)


def write_detection_array(
    stamp_ns: int,
    frame_id: bytes,
    detections: frames.Detections,
    class_names: tuple[bytes, ...],
    ids: Sequence[int] = (),
) -> bytes:
    """Serialize a `vision_msgs/msg/Detection2DArray`.

    Args:
        stamp_ns: the image's stamp.
        frame_id: the image's coordinate frame.
        detections: boxes in source pixels.
        class_names: names by class index; they become `class_id`.
        ids: identities of the detections' tracks, if objects are followed; 0 for no track.
    """
    name, fronts = _fronts(frame_id, class_names)
    stamp = _STAMP.pack(*divmod(stamp_ns, NS_PER_S))
    parts = [ENCAPSULATION, stamp, name, struct.pack("<I", len(detections))]
    begin = len(stamp) + len(name) + 4
    for (x1, y1, x2, y2), score, label, track in zip(
        detections.boxes.tolist(),
        detections.scores.tolist(),
        detections.classes.tolist(),
        ids or [0] * len(detections),
        strict=True,
    ):
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        end = _string(b"%d" % track) if track else _NO_ID
        parts += (
            stamp,
            fronts[begin // 4 % 2][label],
            _OBJECT.pack(score, _UNKNOWN_POSE, x, y, 0.0, x2 - x1, y2 - y1),
            end,
        )
        begin = len(end)  # what is before it ends at a multiple of 8
    if len(detections):  # nothing follows the last string, so it has no padding
        parts[-1] = end[:4] + end[4:].rstrip(b"\0") + b"\0"
    return b"".join(parts)


def write_tracks(
    frame: frames.DetectionRecord | frames.FrameRecord,
    camera: str,
    tracks: Tracks,
    class_names: Sequence[bytes],
    coasted: bool = False,
) -> bytes:
    """Serialize a `perception_interfaces/msg/Tracks`.

    Args:
        frame: the newest frame with detections.
        camera: its name.
        tracks: the objects.
        class_names: names by class index.
        coasted: whether this frame had a message before.
    """
    out = _Writer()
    out.header(frame.stamp_ns, _complete_characters(frame.frame_id))
    out.string(camera.encode())
    out.pack("Q2B", 8, frame.sequence, frame.status, coasted)
    out.pack(
        "iIfI", 4, *divmod(tracks.time_ns, NS_PER_S), tracks.gap_ns / 1e9, tracks.frames_without
    )
    out.string(tracks.reason.encode())
    out.pack("I", 4, len(tracks))
    for track, state, label, numbers in zip(
        tracks.ids.tolist(),
        tracks.states.tolist(),
        tracks.classes.tolist(),
        zip(
            tracks.scores.tolist(),
            *tracks.filters[:, : motion.SIZE].reshape(len(tracks), 4 * motion.SIZE).T.tolist(),
            tracks.age_s.tolist(),
            tracks.unseen_s.tolist(),
            tracks.hits.tolist(),
            tracks.misses.tolist(),
            strict=True,
        ),
        strict=True,
    ):
        out.pack("QB", 8, track, state)
        out.string(class_names[label])
        out.pack("23f2I", 4, *numbers)
    return bytes(out.data)


_INTEGER_CODES = dict(
    one.split(":") for one in "bool:? uint8:B uint16:H uint32:I uint64:Q int64:q".split()
)
FRAME_REPORT_FIELDS = [
    field
    for field in fields("perception_interfaces/msg/FrameReport")
    if field.type_name in (*_INTEGER_CODES, "string")
]
"""The integers and strings of a frame report; a `FrameRecord` has an attribute of each name."""


_CODES = [(_INTEGER_CODES.get(type_name, ""), name) for type_name, name in FRAME_REPORT_FIELDS]
_RUNS = [
    ("".join(code for code, _ in run), [name for _, name in run])
    for run in (list(group) for _, group in groupby(_CODES, lambda field: not field[0]))
]
"""Integer fields that follow each other, with their codes; and strings that do, without."""


@lru_cache
def _layout(codes: str, start: int) -> struct.Struct:
    """Layout of numbers that begin at a position, with the padding that CDR puts before each."""
    layout, at = "<", start
    for code in codes:
        size = struct.calcsize(code)
        layout += f"{-at % size}x{code}"
        at += -at % size + size
    return struct.Struct(layout)


def write_frame_report(record: frames.FrameRecord) -> bytes:
    """Serialize a `perception_interfaces/msg/FrameReport`.

    Args:
        record: the closed record of a frame; counts beyond their field are written as its maximum.
    """
    out = _Writer()
    out.header(record.stamp_ns, _complete_characters(record.frame_id))
    for codes, names in _RUNS:
        if not codes:
            for name in names:
                out.string(_complete_characters(getattr(record, name)))
            continue
        layout = _layout(codes, (len(out.data) - HEADER_SIZE) % 8)
        values = [getattr(record, name) for name in names]
        try:
            out.data += layout.pack(*values)
        except struct.error:  # the record holds its counts in more bits than the message does
            sizes = map(struct.calcsize, codes)
            out.data += layout.pack(*map(min, values, ((1 << 8 * size) - 1 for size in sizes)))
    total_ms, stages_ms = frames.latency_ms(record), frames.stage_durations_ms(record)
    durations_ms = [nan if total_ms is None else total_ms]
    durations_ms += (stages_ms.get(stage, nan) for stage in STAGES)
    out.pack("6f", 4, *durations_ms)
    around = record.lost_after_ns, record.lost_before_ns
    out.pack("iIiI", 4, *(part for at_ns in around for part in divmod(at_ns, NS_PER_S)))
    out.pack("I", 4, len(record.looks))
    for look in record.looks:
        out.pack("4If", 4, look.x_offset, look.y_offset, look.width, look.height, look.cost_ms)
    return bytes(out.data)
