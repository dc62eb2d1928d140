"""Serialized ROS messages (OMG CDR, XCDR1): images read in place, detections and reports written.

Every read is checked against the end of the buffer: a message from the network is never trusted.
Fields follow the `.msg` definitions of sensor_msgs and vision_msgs; the layout of a frame report is
derived from its shipped definition.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby

from perception_nodes.core.frame import (
    CameraInfo,
    DetectionRecord,
    Detections,
    FrameRecord,
    FrameRejected,
    ImageView,
)
from perception_nodes.tracking import motion
from perception_nodes.tracking.tracks import Tracks
from perception_nodes.transport.definitions import MessageField, fields

Buffer = bytes | bytearray | memoryview
ENCAPSULATION = b"\x00\x01\x00\x00"
"""Of what is written here: plain CDR, little-endian."""
HEADER_SIZE = len(ENCAPSULATION)
MAX_STRING = 4096
BUFFER_MARKER = (0xFFFF_FFFF, 0x524F_5332)
"""Begins what stands in the place of a `uint8[]` whose bytes are not in the message, from ROS 2
Lyrical on: a backend of `rosidl::Buffer` sends only where they are (see Fast DDS's typesupport)."""
NS_PER_S = 1_000_000_000


class CdrReader:
    """Reads one serialized message from front to back."""

    def __init__(self, data: Buffer, message: str) -> None:
        """Start behind the encapsulation header.

        Args:
            data: the serialized message.
            message: its type, for error texts.

        Raises:
            FrameRejected: the header is missing or not plain CDR.
        """
        self._data = memoryview(data).cast("B")
        self._message = message
        self._position = HEADER_SIZE
        if len(self._data) < HEADER_SIZE:
            raise FrameRejected(f"{message}: {len(self._data)} bytes are too few for a message")
        kind = bytes(self._data[:2])
        if kind not in (b"\x00\x00", b"\x00\x01"):
            raise FrameRejected(f"{message}: encapsulation 0x{kind.hex()} is not plain CDR")
        self._order = "<" if kind[1] else ">"

    def numbers(self, fmt: str) -> tuple[float, ...]:
        """Numbers of one type, such as `9d` in the notation of `struct`; aligned to their size."""
        size = struct.calcsize(fmt[-1])
        start = self._align(size)
        count = int(fmt[:-1] or 1)
        self._take(start, size * count)
        return struct.unpack_from(self._order + fmt, self._data, start)

    def uint32(self) -> int:
        """An unsigned 32-bit number."""
        return int(self.numbers("I")[0])

    def uint8(self) -> int:
        """A byte."""
        return int(self.numbers("B")[0])

    def string(self) -> str:
        """A string; its length in CDR includes the closing zero."""
        length = self.uint32()
        if length > MAX_STRING:
            raise FrameRejected(f"{self._message}: a string of {length} bytes is not believable")
        start = self._position
        self._take(start, length)
        return bytes(self._data[start : start + max(length - 1, 0)]).decode(errors="replace")

    def octets(self) -> memoryview:
        """A sequence of uint8, in place."""
        length = self.uint32()
        if length == BUFFER_MARKER[0]:
            self._refuse_descriptor()
        start = self._position
        self._take(start, length)
        return self._data[start : start + length]

    def stamp_ns(self) -> int:
        """A builtin_interfaces/Time."""
        seconds, nanoseconds = int(self.numbers("i")[0]), int(self.numbers("I")[0])
        if nanoseconds >= NS_PER_S:
            # With the carry into the seconds it may exceed what a message can hold.
            raise FrameRejected(f"{self._message}: a stamp of {nanoseconds} nanoseconds is none")
        return seconds * NS_PER_S + nanoseconds

    def _refuse_descriptor(self) -> None:
        if self.uint32() == BUFFER_MARKER[1]:
            raise FrameRejected(
                f"{self._message}: its bytes are in the memory of {self.string()!r}, and the "
                "message only tells where; publish them from CPU memory"
            )

    def _align(self, size: int) -> int:
        behind = self._position - HEADER_SIZE
        return self._position + (-behind % size)

    def _take(self, start: int, size: int) -> None:
        if start + size > len(self._data):
            raise FrameRejected(
                f"{self._message}: cut off, {start + size} bytes needed, {len(self._data)} there"
            )
        self._position = start + size


def read_image(data: Buffer) -> ImageView:
    """View a serialized `sensor_msgs/msg/Image`.

    Args:
        data: the message; the view refers to it.

    Raises:
        FrameRejected: cut off, or the sizes contradict each other, or its sender could not read it.
    """
    reader = CdrReader(data, "Image")
    stamp_ns, frame_id = reader.stamp_ns(), reader.string()
    height, width = reader.uint32(), reader.uint32()
    encoding = reader.string()
    big_endian, step = reader.uint8(), reader.uint32()
    pixels = reader.octets()
    if encoding and not (width or height or pixels):
        raise FrameRejected(encoding)  # see `write_image`
    if not (0 < width <= 65535 and 0 < height <= 65535):
        raise FrameRejected(f"Image: size {width}x{height} is outside 1..65535")
    if big_endian and any(bits in encoding for bits in ("10", "12", "14", "16")):
        raise FrameRejected(f"Image: big-endian {encoding} is not supported; set is_bigendian to 0")
    return ImageView(stamp_ns, frame_id, width, height, encoding.lower(), step, pixels)


def read_compressed_image(data: Buffer) -> ImageView:
    """View a serialized `sensor_msgs/msg/CompressedImage`; its size is known to the file only.

    Raises:
        FrameRejected: cut off, or neither JPEG nor PNG.
    """
    reader = CdrReader(data, "CompressedImage")
    stamp_ns, frame_id, name = reader.stamp_ns(), reader.string(), reader.string()
    payload = reader.octets()
    # The format field is free text ("bgr8; jpeg compressed bgr8"); the file's magic number decides.
    magic = bytes(payload[:8])
    if magic.startswith(b"\xff\xd8\xff"):
        encoding = "jpeg"
    elif magic == b"\x89PNG\r\n\x1a\n":
        encoding = "png"
    else:
        raise FrameRejected(
            f"CompressedImage: format {name!r} with {len(payload)} bytes is neither JPEG nor PNG"
        )
    return ImageView(stamp_ns, frame_id, 0, 0, encoding, 0, payload)


def read_compressed_video(data: Buffer) -> ImageView:
    """View a packet in a serialized `foxglove_msgs/msg/CompressedVideo`; encoding `h264` or `h265`.

    Raises:
        FrameRejected: cut off, or of another codec.
    """
    reader = CdrReader(data, "CompressedVideo")
    stamp_ns, frame_id, packet = reader.stamp_ns(), reader.string(), reader.octets()
    return ImageView(stamp_ns, frame_id, 0, 0, _video_codec(reader.string()), 0, packet)


def read_ffmpeg_packet(data: Buffer) -> ImageView:
    """View a packet in an `ffmpeg_image_transport_msgs/msg/FFMPEGPacket`; see above.

    Raises:
        FrameRejected: cut off, or of another codec.
    """
    reader = CdrReader(data, "FFMPEGPacket")
    stamp_ns, frame_id = reader.stamp_ns(), reader.string()
    reader.numbers("2i")  # width and height, which the stream tells too
    # "h264;yuv420p;bgr8;bgr8", or of older versions the name of the encoder, "hevc_nvenc".
    encoding = _video_codec(reader.string().partition(";")[0])
    reader.numbers("Q")  # presentation time
    reader.uint8(), reader.uint8()  # flags, byte order of high depths
    return ImageView(stamp_ns, frame_id, 0, 0, encoding, 0, reader.octets())


def _video_codec(name: str) -> str:
    for codec, names in (("h264", ("264",)), ("h265", ("265", "hevc"))):
        if any(one in name.lower() for one in names):
            return codec
    raise FrameRejected(f"video in {name!r} is not supported; encode it in H.264 or H.265")


def read_camera_info(data: Buffer) -> CameraInfo:
    """Read a serialized `sensor_msgs/msg/CameraInfo` up to K.

    Raises:
        FrameRejected: cut off.
    """
    reader = CdrReader(data, "CameraInfo")
    reader.stamp_ns()
    reader.string()
    height, width = reader.uint32(), reader.uint32()
    model = reader.string()
    count = reader.uint32()
    if count > 14:
        raise FrameRejected(f"CameraInfo: {count} distortion coefficients are not believable")
    distortion = reader.numbers(f"{count}d") if count else ()
    return CameraInfo(width, height, model, distortion, reader.numbers("9d"))


def read_stamp(data: Buffer) -> int:
    """`header.stamp` of any stamped message, nanoseconds since the Unix epoch.

    Raises:
        FrameRejected: cut off, or not a time.
    """
    return CdrReader(data, "stamped message").stamp_ns()


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
    """Serialize a frame as `sensor_msgs/msg/Image`.

    A frame that could not be read, but has to be accounted for further on, is an image of no size
    whose encoding is the reason; `read_image` rejects it with that.
    """
    out = _Writer()
    out.header(image.stamp_ns, image.frame_id.encode())
    out.pack("2I", 4, image.height, image.width)
    out.string(image.encoding.encode())
    out.pack("B", 1, 0)
    out.pack("2I", 4, image.step, len(image.data))
    return b"".join((out.data, image.data))


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
