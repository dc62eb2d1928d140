"""Records of ROS 1 bags, found again behind bytes that are none.

A record is a header of fields and data, each with its length before it; messages lie in chunks,
whose data are records again (http://wiki.ros.org/Bags/Format/2.0).
"""

import re
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from perception_nodes.drives.message_order import Bytes
from perception_nodes.drives.resync import walked

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG, INDEX, CHUNK, CHUNK_INFO, CONNECTION = 2, 3, 4, 5, 6, 7
"""Kinds of records."""
LENGTH = struct.Struct("<I")
TIME = struct.Struct("<II")
MALFORMED = (ValueError, LookupError, struct.error)
MAX_HEADER_BYTES = 4096
"""The fields of a connection hold its topic, those of other records numbers."""
BLOCK = 1 << 20
_NEEDED = {
    MESSAGE: {b"conn", b"time"},
    BAG: {b"index_pos", b"conn_count", b"chunk_count"},
    INDEX: {b"ver", b"conn", b"count"},
    CHUNK: {b"compression", b"size"},
    CHUNK_INFO: {b"ver", b"chunk_pos", b"start_time", b"end_time", b"count"},
    CONNECTION: {b"conn", b"topic"},
}
_KIND = re.compile(rb"\x04\x00\x00\x00op=[\x02-\x07]")


class Record(NamedTuple):
    """A record: its fields, where it begins, where its data do, and where they end."""

    fields: dict[bytes, bytes]
    at: int
    body: int
    end: int
    whole: bool

    @property
    def kind(self) -> int:
        """One of those above."""
        return self.fields[b"op"][0]

    def number(self, name: bytes) -> int:
        """A field that holds a number."""
        return int.from_bytes(self.fields[name], "little")

    def time_ns(self, name: bytes) -> int:
        """A field that holds a time, in nanoseconds since the Unix epoch."""
        seconds, nanoseconds = TIME.unpack(self.fields[name])
        return int(seconds * 1_000_000_000 + nanoseconds)


def records(source: Bytes, at: int, skipped: Callable[[int, int], None]) -> Iterator[Record]:
    """All records from a byte on; `skipped` hears of where there are none, see `walked`."""
    return walked(
        at,
        source.size,
        read=partial(record_at, source),
        over=lambda _: False,
        believed=lambda record: record.whole and record.end >= source.size,
        resumed=partial(_resynchronized, source),
        skipped=skipped,
    )


def record_at(source: Bytes, at: int) -> Record | None:
    """The record that begins at a byte, None where what is there cannot be one."""
    seen = source.read(at, LENGTH.size)
    if len(seen) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(seen)
    if not 0 < length <= MAX_HEADER_BYTES:
        return None
    header = source.read(at + LENGTH.size, length + LENGTH.size)
    if len(header) < length + LENGTH.size:
        return None
    try:
        found = fields_of(header[:length])
    except MALFORMED:
        return None
    kind = found.get(b"op", b"")
    if len(kind) != 1 or not _NEEDED.get(kind[0], {b""}) <= found.keys():
        return None
    (size,) = LENGTH.unpack_from(header, length)
    body = at + 2 * LENGTH.size + length
    end = body + size
    return Record(found, at, body, min(end, source.size), end <= source.size)


def _follows(source: Bytes, record: Record) -> bool:
    """Whether what comes behind a record is one, or the end."""
    return record.whole and (record.end >= source.size or record_at(source, record.end) is not None)


def _resynchronized(source: Bytes, start: int) -> int | None:
    """The first byte from here on at which a record begins that another one or the end follows."""
    for block in range(start, source.size, BLOCK):
        first = max(block - MAX_HEADER_BYTES, start)
        data = source.read(first, block - first + BLOCK + 16)
        for match in _KIND.finditer(data):
            # The field that tells the kind is not always the first one.
            earliest = max(match.start() - MAX_HEADER_BYTES, 0)
            for at in range(match.start() - LENGTH.size, earliest - 1, -1):
                (length,) = LENGTH.unpack_from(data, at)
                if at + LENGTH.size + length < match.end() or length > MAX_HEADER_BYTES:
                    continue
                record = record_at(source, first + at)
                if record is not None and _follows(source, record):
                    return first + at
    return None


def fields_of(header: bytes) -> dict[bytes, bytes]:
    """The fields of a header, or of what describes a connection.

    Raises:
        ValueError, struct.error: they are none.
    """
    found, at = {}, 0
    while at < len(header):
        (length,) = LENGTH.unpack_from(header, at)
        name, separator, value = header[at + LENGTH.size : at + LENGTH.size + length].partition(
            b"="
        )
        if not separator or at + LENGTH.size + length > len(header):
            raise ValueError("a field without a value")
        found[name] = value
        at += LENGTH.size + length
    return found
