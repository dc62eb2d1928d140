"""Records of mcap files (https://mcap.dev/spec), found again behind damaged bytes."""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode

from perception_nodes.drives.byte_source import ByteSource
from perception_nodes.drives.decompression import MAX_CHUNK_BYTES, DecompressionError, decompressed

MAGIC = b"\x89MCAP0\r\n"
HEAD = struct.Struct("<BQ")
MESSAGE_HEAD = struct.Struct("<HIQQ")
"""Layout: channel, sequence, log time, publish time. The serialized message follows."""
CHUNK_HEAD = struct.Struct("<QQQII")
"""Layout: start and end time, uncompressed size and CRC, length of the compression's name."""
MALFORMED = (ValueError, OverflowError, LookupError, struct.error, McapError)
"""Errors that reading a malformed record raises."""
PRIVATE_KINDS = 0x80
"""Opcodes from here on are for applications; readers step over their records."""
BLOCK = 1 << 20
_CANDIDATE = re.compile(rb"(?=[\x01-\x0f].{4}\x00{4})", re.DOTALL)
"""Pattern of a record's begin: a known kind, and a length below 4 GiB."""
_IN_A_ROW = 3
"""So many plausible records in a row are no coincidence."""
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
    """The position of a record in its source.

    Attributes:
        kind: its opcode.
        at: position of its first byte.
        body: position of its content, behind kind and length.
        end: position behind its last byte.
        whole: false if the end of the file cuts it off.
    """

    kind: int
    at: int
    body: int
    end: int
    whole: bool = True


def fields(source: ByteSource, record: Record) -> ReadDataStream:
    """The content of a record, for the readers of `mcap.records`."""
    return ReadDataStream(BytesIO(source.read(record.body, record.end - record.body)))


def record_at(source: ByteSource, at: int) -> Record | None:
    """The record that begins at a position; None if the bytes there cannot be a record."""
    seen = source.read(at, HEAD.size + CHUNK_HEAD.size + 4 + 8)
    if len(seen) < HEAD.size:
        return None
    kind, length = HEAD.unpack_from(seen)
    if not _plausible(kind, length, seen[HEAD.size :]):
        return None
    body = at + HEAD.size
    return Record(kind, at, body, min(body + length, source.size), body + length <= source.size)


def records(source: ByteSource, at: int, on_gap: Callable[[int, int], object]) -> Iterator[Record]:
    """All records from a position on, to the end of the source or its closing magic.

    A record's length is trusted in three cases: another record begins behind it, it is the last
    one, or it is an undamaged chunk. Otherwise reading goes on at the next position where records
    follow each other.

    Args:
        source: a file or a chunk.
        at: where a record should begin.
        on_gap: called with the begin and end of bytes that hold no record.
    """
    following: Record | None = None
    while at < source.size and not _is_end(source, at):
        record = following or record_at(source, at)
        following = record_at(source, record.end) if record is not None and record.whole else None
        if record is None or not (
            following or _is_last(source, record) or _decompresses(source, record)
        ):
            resumed = _next_record(source, at + 1)
            if record is None or (resumed is not None and resumed < record.end):
                on_gap(at, source.size if resumed is None else resumed)
                if resumed is None:
                    return
                at, following = resumed, None
                continue
        yield record
        at = record.end


def chunk_data(source: ByteSource, record: Record) -> bytes | memoryview:
    """The decompressed records of a chunk; if it is cut off, those before the cut.

    Raises:
        ValueError, struct.error: the chunk is whole, but its content is damaged.
    """
    body = source.read(record.body, record.end - record.body)
    _, _, size, checksum, name_length = CHUNK_HEAD.unpack_from(body)
    name = body[CHUNK_HEAD.size : CHUNK_HEAD.size + name_length].decode()
    compressed = memoryview(body)[CHUNK_HEAD.size + name_length + 8 :]
    try:
        data = decompressed(name, compressed, MAX_CHUNK_BYTES)
    except DecompressionError as error:
        if record.whole:
            raise
        return error.before
    if record.whole and len(data) != size:
        raise ValueError(f"it holds {len(data)} bytes, not {size}")
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
        if body[CHUNK_HEAD.size : CHUNK_HEAD.size + name_length] not in (b"", b"zstd", b"lz4"):
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


def _is_end(source: ByteSource, at: int) -> bool:
    return at == source.size - len(MAGIC) and source.read(at, len(MAGIC)) == MAGIC


def _is_last(source: ByteSource, record: Record) -> bool:
    """Whether nothing but the closing magic may follow a record."""
    return record.whole and (record.end >= source.size or _is_end(source, record.end))


def _decompresses(source: ByteSource, record: Record) -> bool:
    """Whether a record is a chunk with undamaged content."""
    if record.kind != Opcode.CHUNK or not record.whole:
        return False
    try:
        chunk_data(source, record)
    except MALFORMED:
        return False
    return True


def _next_record(source: ByteSource, start: int) -> int | None:
    """The first position from `start` on where records follow each other; None if there is none."""
    for block in range(start, source.size, BLOCK):
        for match in _CANDIDATE.finditer(source.read(block, BLOCK + HEAD.size)):
            if match.start() < BLOCK and _records_begin(source, block + match.start()):
                return block + match.start()
    return None


def _records_begin(source: ByteSource, at: int) -> bool:
    for _ in range(_IN_A_ROW):
        record = record_at(source, at)
        if record is None or not record.whole:
            return False
        at = record.end
        if at >= source.size or _is_end(source, at):
            return True
    return True
