"""Records of mcap (https://mcap.dev/spec), found again behind bytes that are none."""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from typing import NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode

from perception_nodes.drives.decompression import MAX_CHUNK_BYTES, PackingError, unpacked
from perception_nodes.drives.message_order import Bytes
from perception_nodes.drives.resync import walked

MAGIC = b"\x89MCAP0\r\n"
HEAD = struct.Struct("<BQ")
MESSAGE_HEAD = struct.Struct("<HIQQ")
"""Channel, sequence, log time, publish time; the serialized message follows."""
CHUNK_HEAD = struct.Struct("<QQQII")
"""Start and end time, uncompressed size and CRC, length of the compression's name."""
MALFORMED = (ValueError, OverflowError, LookupError, struct.error, McapError)
"""What reading a record's fields raises."""
PRIVATE_KINDS = 0x80
"""From here on applications have kinds of their own; readers step over them."""
BLOCK = 1 << 20
_CANDIDATE = re.compile(rb"(?=[\x01-\x0f].{4}\x00{4})", re.DOTALL)
"""A kind and a length below 4 GiB."""
_IN_A_ROW = 3
"""So many plausible records are no coincidence."""
_FIXED_LENGTH = {Opcode.FOOTER: 20, Opcode.SUMMARY_OFFSET: 17, Opcode.DATA_END: 4}
_LEAST_LENGTH = {
    Opcode.HEADER: 8,
    Opcode.SCHEMA: 14,
    Opcode.CHANNEL: 16,
    Opcode.MESSAGE: MESSAGE_HEAD.size,
    Opcode.CHUNK: CHUNK_HEAD.size + 8,
    Opcode.MESSAGE_INDEX: 6,
    Opcode.CHUNK_INDEX: 56,
    Opcode.ATTACHMENT: 36,
    Opcode.ATTACHMENT_INDEX: 48,
    Opcode.STATISTICS: 42,
    Opcode.METADATA: 8,
    Opcode.METADATA_INDEX: 20,
}


class Record(NamedTuple):
    """A record: its kind, where it begins, where its content does, and where it ends.

    Attributes:
        whole: false for one that is cut off by the end of the file.
    """

    kind: int
    at: int
    body: int
    end: int
    whole: bool = True


def fields(source: Bytes, record: Record) -> ReadDataStream:
    """The content of a record, for the readers of `mcap.records`."""
    return ReadDataStream(BytesIO(source.read(record.body, record.end - record.body)))


def record_at(source: Bytes, at: int) -> Record | None:
    """The record that begins at a byte, None where what is there cannot be one."""
    seen = source.read(at, HEAD.size + CHUNK_HEAD.size + 4 + 8)
    if len(seen) < HEAD.size:
        return None
    kind, length = HEAD.unpack_from(seen)
    if not _plausible(kind, length, seen[HEAD.size :]):
        return None
    body = at + HEAD.size
    return Record(kind, at, body, min(body + length, source.size), body + length <= source.size)


def records(source: Bytes, at: int, skipped: Callable[[int, int], None]) -> Iterator[Record]:
    """All records from a byte on; `skipped` hears of where there are none, see `walked`."""
    return walked(
        at,
        source.size,
        read=partial(record_at, source),
        over=partial(_is_end, source),
        believed=lambda record: _ends(source, record) or _unpacks(source, record),
        resumed=partial(_resynchronized, source),
        skipped=skipped,
    )


def chunk_data(source: Bytes, record: Record) -> bytes | memoryview:
    """The records of a chunk, unpacked; of one that is cut off those before the cut.

    Raises:
        ValueError, struct.error: it is whole, but its content is not what was written.
    """
    body = source.read(record.body, record.end - record.body)
    _, _, size, checksum, name_length = CHUNK_HEAD.unpack_from(body)
    name = body[CHUNK_HEAD.size : CHUNK_HEAD.size + name_length].decode()
    packed = memoryview(body)[CHUNK_HEAD.size + name_length + 8 :]
    try:
        data = unpacked(name, packed, MAX_CHUNK_BYTES)
    except PackingError as error:
        if record.whole:
            raise
        return error.before
    if record.whole and len(data) != size:
        raise ValueError(f"{len(data)} bytes are in it, not {size}")
    if record.whole and checksum and zlib.crc32(data) != checksum:
        raise ValueError("checksum differs")
    return data


def _plausible(kind: int, length: int, body: bytes) -> bool:
    if kind >= PRIVATE_KINDS:
        return length < 2**32
    if kind in _FIXED_LENGTH:
        return length == _FIXED_LENGTH[Opcode(kind)]
    if kind not in _LEAST_LENGTH or length < _LEAST_LENGTH[Opcode(kind)]:
        return False
    if kind == Opcode.CHUNK and len(body) >= CHUNK_HEAD.size + 12:
        name_length = CHUNK_HEAD.unpack_from(body)[4]
        name = body[CHUNK_HEAD.size : CHUNK_HEAD.size + name_length]
        if name not in (b"", b"zstd", b"lz4"):
            return False
        (stored,) = struct.unpack_from("<Q", body, CHUNK_HEAD.size + name_length)
        return bool(stored == length - CHUNK_HEAD.size - name_length - 8)
    if kind == Opcode.MESSAGE_INDEX and len(body) >= 6:
        (entries,) = struct.unpack_from("<I", body, 2)
        return bool(entries == length - 6 and entries % 16 == 0)
    if kind in (Opcode.SCHEMA, Opcode.CHANNEL) and len(body) >= 8:
        (name_length,) = struct.unpack_from("<I", body, 2 if kind == Opcode.SCHEMA else 4)
        return bool(0 < name_length <= length - 8 and name_length < 4096)
    return True


def _is_end(source: Bytes, at: int) -> bool:
    return at == source.size - len(MAGIC) and source.read(at, len(MAGIC)) == MAGIC


def _ends(source: Bytes, record: Record) -> bool:
    """Whether a record is the last one."""
    return record.whole and (record.end >= source.size or _is_end(source, record.end))


def _unpacks(source: Bytes, record: Record) -> bool:
    """Whether it is a chunk with the content that was written."""
    if record.kind != Opcode.CHUNK or not record.whole:
        return False
    try:
        chunk_data(source, record)
    except MALFORMED:
        return False
    return True


def _resynchronized(source: Bytes, start: int) -> int | None:
    """The first byte from here on where one record follows the other, None if there is none."""
    for block in range(start, source.size, BLOCK):
        data = source.read(block, BLOCK + HEAD.size)
        for match in _CANDIDATE.finditer(data):
            if match.start() < BLOCK and _begins(source, block + match.start()):
                return block + match.start()
    return None


def _begins(source: Bytes, at: int) -> bool:
    for _ in range(_IN_A_ROW):
        record = record_at(source, at)
        if record is None or not record.whole:
            return False
        at = record.end
        if at >= source.size or _is_end(source, at):
            return True
    return True
