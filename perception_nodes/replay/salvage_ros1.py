"""Damaged ROS 1 bags, read from front to back as far as their bytes make sense.

A record is a header of fields and data, each with its length before it; messages lie in chunks,
whose data are records again (http://wiki.ros.org/Bags/Format/2.0).
"""

import bz2
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import lz4.frame
from rosbags.typesys import Stores, get_typestore

from perception_nodes.replay.salvage import Messages, Survey

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, CHUNK, CONNECTION = 2, 5, 7
"""Kinds of records that are looked at."""
MALFORMED = (ValueError, LookupError, struct.error)


class _Record(NamedTuple):
    fields: dict[bytes, bytes]
    data: bytes
    complete: bool

    @property
    def kind(self) -> int:
        return self.fields.get(b"op", b"\0")[0]


class _Connection(NamedTuple):
    topic: str
    message_type: str


def survey_ros1(file: Path) -> Survey:
    """Read a ROS 1 bag through."""
    survey = Survey()
    for connection, log_time_ns, _ in _walk(file, survey):
        survey.see(connection.topic, log_time_ns)
    return survey


def read_ros1(file: Path, topic: str) -> Messages:
    """The readable messages of a topic, converted to CDR, in the order they were written.

    One that cannot be converted comes as no bytes: it is refused, and counted, as a broken message.
    """
    convert = get_typestore(Stores.ROS2_HUMBLE).ros1_to_cdr
    for connection, log_time_ns, data in _walk(file, Survey()):
        if connection.topic != topic:
            continue
        try:
            converted = bytes(convert(data, connection.message_type))
        # The library raises whatever its parser trips over.
        except Exception:
            converted = b""
        yield log_time_ns, converted


def _walk(file: Path, survey: Survey) -> Iterator[tuple[_Connection, int, bytes]]:
    """Messages of a bag; types and damage are noted in the survey."""
    connections: dict[bytes, _Connection] = {}
    size = file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            survey.damage.append("it does not start like a ROS 1 bag")
            return
        while (start := stream.tell()) < size:
            try:
                record = _record(stream, size)
                yield from _messages(record, connections, survey)
            except (*MALFORMED, OSError, EOFError, RuntimeError) as error:
                survey.damage.append(f"the part at byte {start} is unreadable ({error}), skipped")
                continue
            if not record.complete:
                survey.damage.append(
                    f"cut off: byte {start} of {size} begins a record that does not end"
                )


def _messages(
    record: _Record, connections: dict[bytes, _Connection], survey: Survey
) -> Iterator[tuple[_Connection, int, bytes]]:
    """What a record holds of messages; a chunk holds records."""
    if record.kind == CONNECTION:
        described = _fields(record.data)
        package, _, name = described[b"type"].decode().partition("/")
        found = _Connection(record.fields[b"topic"].decode(), f"{package}/msg/{name}")
        connections[record.fields[b"conn"]] = found
        survey.types[found.topic] = found.message_type
    elif record.kind == MESSAGE and record.complete:
        if record.fields[b"conn"] in connections:
            seconds, nanoseconds = struct.unpack("<II", record.fields[b"time"])
            log_time_ns = seconds * 1_000_000_000 + nanoseconds
            yield connections[record.fields[b"conn"]], log_time_ns, record.data
    elif record.kind == CHUNK:
        data = _decompressed(record.fields[b"compression"], record.data)
        inner = BytesIO(data)
        while inner.tell() < len(data):
            yield from _messages(_record(inner, len(data)), connections, survey)


def _record(stream: BinaryIO, size: int) -> _Record:
    """The next record of so many bytes, as far as it is there.

    Raises:
        struct.error, ValueError: its header is not whole.
    """
    header, _ = _part(stream, size)
    data, complete = _part(stream, size)
    return _Record(_fields(header), data, complete)


def _part(stream: BinaryIO, size: int) -> tuple[bytes, bool]:
    """Bytes behind their length, and whether they are all there."""
    (length,) = struct.unpack("<I", stream.read(4))
    # A corrupt length would have memory made for it.
    data = stream.read(min(length, size - stream.tell()))
    return data, len(data) == length


def _fields(header: bytes) -> dict[bytes, bytes]:
    fields, at = {}, 0
    while at < len(header):
        (length,) = struct.unpack_from("<I", header, at)
        name, separator, value = header[at + 4 : at + 4 + length].partition(b"=")
        if not separator:
            raise ValueError("a field without a value")
        fields[name] = value
        at += 4 + length
    return fields


def _decompressed(compression: bytes, data: bytes) -> bytes:
    """As much as can be decompressed of data that may be cut off."""
    if compression == b"bz2":
        return bz2.BZ2Decompressor().decompress(data)
    if compression == b"lz4":
        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data))
    return data
