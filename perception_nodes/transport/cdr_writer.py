"""Serialized ROS messages (OMG CDR, XCDR1), written.

Fields follow the `.msg` definitions of sensor_msgs, vision_msgs and perception_interfaces; the
layout of a frame report is derived from its shipped definition.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby

from perception_nodes.core.frame import DetectionRecord, Detections, FrameRecord, ImageView
from perception_nodes.tracking import motion
from perception_nodes.tracking.tracks import Tracks
from perception_nodes.transport.cdr import HEADER_SIZE, NO_PICTURE, NS_PER_S
from perception_nodes.transport.cdr_reader import read_stamp
from perception_nodes.transport.definitions import MessageField, fields

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


def write_image(image: ImageView) -> bytes:
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
    return write_image(ImageView(stamp_ns, frame_id, 0, 0, NO_PICTURE + reason, 0, memoryview(b"")))


def write_compressed_image(
    stamp_ns: int, frame_id: str, file_format: str, data: memoryview
) -> bytes:
    """Serialize a file, such as a JPEG, as `sensor_msgs/msg/CompressedImage`."""
    out = _Writer()
    out.header(stamp_ns, frame_id.encode())
    out.string(file_format.encode())
    out.pack("I", 4, len(data))
    return b"".join((out.data, data))


def _complete_characters(text: bytes) -> bytes:
    """UTF-8 text without the character that a record's fixed length may have cut at its end.

    Subscribers refuse a message whose strings are not UTF-8.
    """
    return text.decode(errors="ignore").encode()


_UNKNOWN_POSE = struct.pack("<43d", *[0.0] * 6, 1.0, *[0.0] * 36)
"""geometry_msgs/PoseWithCovariance of a 2D detection: the unit pose, no covariance."""
_STAMP = struct.Struct("<iI")
_OBJECT = struct.Struct("<d344s5dI4x")
"""What follows an object's class: score, pose, box, an empty `id`, and three bytes of padding that
the last object does not have."""


@lru_cache
def _fronts(
    frame_id: bytes, class_names: tuple[bytes, ...]
) -> tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]:
    """What stays the same in a `Detection2DArray` from one frame to the next.

    Returns:
        The array's frame_id; and for each class what lies between stamp and score of the first
        object, and of another one. They differ in their padding: others begin at a multiple of 8.
    """
    name = _string(_complete_characters(frame_id))
    first = _STAMP.size + len(name) + 4
    fronts = [name + struct.pack("<I", 1) + _string(class_name) for class_name in class_names]
    return name, _padded_to_score(fronts, first), _padded_to_score(fronts, 0)


def _padded_to_score(fronts: Sequence[bytes], begin: int) -> tuple[bytes, ...]:
    return tuple(front + bytes(-(begin + _STAMP.size + len(front)) % 8) for front in fronts)


def _string(text: bytes) -> bytes:
    """A string whose position, and that of what follows it, is a multiple of 4."""
    return struct.pack("<I", len(text) + 1) + text + bytes(4 - len(text) % 4)


def write_detection_array(
    stamp_ns: int, frame_id: bytes, detections: Detections, class_names: tuple[bytes, ...]
) -> bytes:
    """Serialize a `vision_msgs/msg/Detection2DArray`.

    Args:
        stamp_ns: the image's stamp.
        frame_id: the image's coordinate frame.
        detections: boxes in source pixels.
        class_names: names by class index; they become `class_id`.
    """
    name, fronts, others = _fronts(frame_id, class_names)
    stamp = _STAMP.pack(*divmod(stamp_ns, NS_PER_S))
    parts = [ENCAPSULATION, stamp, name, struct.pack("<I", len(detections))]
    for (x1, y1, x2, y2), score, label in zip(
        detections.boxes.tolist(),
        detections.scores.tolist(),
        detections.classes.tolist(),
        strict=True,
    ):
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        parts += (
            stamp,
            fronts[label],
            _OBJECT.pack(score, _UNKNOWN_POSE, x, y, 0.0, x2 - x1, y2 - y1, 1),
        )
        fronts = others
    return b"".join(parts)[: -3 if len(detections) else None]


def write_tracked_detections(
    stamp_ns: int,
    frame_id: bytes,
    detections: Detections,
    class_names: Sequence[bytes],
    ids: Sequence[int],
) -> bytes:
    """Serialize a `vision_msgs/msg/Detection2DArray` in which objects have identities.

    Identities are of any length, so this message has no template as the one above.

    Args:
        stamp_ns: the image's stamp.
        frame_id: the image's coordinate frame.
        detections: boxes in source pixels.
        class_names: names by class index.
        ids: of the tracks that the detections belong to; 0 for none, which is an empty `id`.
    """
    frame_id = _complete_characters(frame_id)
    out = _Writer()
    out.header(stamp_ns, frame_id)
    out.pack("I", 4, len(detections))
    for (x1, y1, x2, y2), score, label, track in zip(
        detections.boxes.tolist(),
        detections.scores.tolist(),
        detections.classes.tolist(),
        ids,
        strict=True,
    ):
        out.header(stamp_ns, frame_id)
        out.pack("I", 4, 1)
        out.string(class_names[label])
        out.pack("d", 8, score)
        out.data += _UNKNOWN_POSE
        out.pack("5d", 8, (x1 + x2) / 2, (y1 + y2) / 2, 0.0, x2 - x1, y2 - y1)
        out.string(b"%d" % track if track else b"")
    return bytes(out.data)


def write_tracks(
    frame: DetectionRecord | FrameRecord,
    camera: str,
    tracks: Tracks,
    class_names: Sequence[bytes],
    coasted: bool = False,
) -> bytes:
    """Serialize a `perception_interfaces/msg/Tracks`.

    Args:
        frame: the newest one with detections.
        camera: its name.
        tracks: the objects.
        class_names: names by class index.
        coasted: there was a message of the frame before.
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


FRAME_REPORT_FIELDS = [
    field for field in fields("perception_interfaces/msg/FrameReport") if field.name != "header"
]
"""What a frame report holds besides its header; a `FrameRecord` has an attribute of each name."""
_INTEGER_CODES = {
    "bool": "?",
    **{f"uint{bits}": code for bits, code in zip((8, 16, 32, 64), "BHIQ", strict=True)},
    **{f"int{bits}": code for bits, code in zip((8, 16, 32, 64), "bhiq", strict=True)},
}


class _IntegerRun:
    """Integer fields that follow each other, packed in one call.

    CDR pads each number to a multiple of its size. Where a run begins depends on the lengths of the
    strings before it, so there is one layout for each position modulo 8.
    """

    def __init__(self, run: Sequence[MessageField]) -> None:
        self._names = [field.name for field in run]
        codes = [_INTEGER_CODES[field.type_name] for field in run]
        self._layouts = [_padded(codes, start) for start in range(8)]
        self._limits = [(1 << 8 * struct.calcsize(code)) - 1 for code in codes]

    def append_to(self, data: bytearray, record: FrameRecord) -> None:
        values = [getattr(record, name) for name in self._names]
        layout = self._layouts[(len(data) - HEADER_SIZE) % 8]
        try:
            data += layout.pack(*values)
        except struct.error:
            # The record holds its counts in more bits than the message does.
            data += layout.pack(*map(min, values, self._limits))


def _padded(codes: Sequence[str], start: int) -> struct.Struct:
    """Layout of numbers that begin at a position, with the padding that CDR puts before each."""
    layout, position = "<", start
    for code in codes:
        size = struct.calcsize(code)
        padding = -position % size
        layout += f"{padding}x{code}"
        position += padding + size
    return struct.Struct(layout)


def _layout(all_fields: Iterable[MessageField]) -> Iterator[str | _IntegerRun]:
    """The names of string fields, and the integer fields between them as runs."""
    for is_string, group in groupby(all_fields, lambda field: field.type_name == "string"):
        run = list(group)
        if is_string:
            yield from (field.name for field in run)
        else:
            yield _IntegerRun(run)


_FRAME_REPORT_LAYOUT = list(_layout(FRAME_REPORT_FIELDS))


def write_frame_report(record: FrameRecord) -> bytes:
    """Serialize a `perception_interfaces/msg/FrameReport`.

    Args:
        record: the closed record of a frame; counts beyond their field are written as its maximum.
    """
    out = _Writer()
    out.header(record.stamp_ns, _complete_characters(record.frame_id))
    for part in _FRAME_REPORT_LAYOUT:
        if isinstance(part, str):
            out.string(_complete_characters(getattr(record, part)))
        else:
            part.append_to(out.data, record)
    return bytes(out.data)
