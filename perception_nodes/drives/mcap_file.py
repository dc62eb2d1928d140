"""Mcap files (https://mcap.dev/spec), read by their index if it is undamaged.

Otherwise they are scanned from front to back, and records are found again behind damaged bytes.
"""

import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, ChunkIndex, Schema, Statistics

from perception_nodes.drives.bag_file import BagFile, MessageList, Messages, Segment
from perception_nodes.drives.byte_source import ByteSource, FileBytes, MemoryBytes, ObjectBytes
from perception_nodes.drives.decompression import MAX_CHUNK_BYTES, DecompressionError, decompressed
from perception_nodes.system.object_path import ObjectPath

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


FOOTER = struct.Struct("<BQQQI")
"""Layout: opcode, length, starts of the summary and of the summary offsets, CRC of the summary."""


class _Chunk(NamedTuple):
    """A chunk in the file.

    Attributes:
        at, end: position of its record and behind it.
        start_ns: the earliest log time in it.
        size: bytes when decompressed.
        channels: channels with messages in it; empty if they are not known.
    """

    at: int
    end: int
    start_ns: int
    size: int
    channels: frozenset[int]


class McapFile(BagFile):
    """An mcap file; see `BagFile`."""

    def __init__(self, file: Path) -> None:
        """Find out what it holds: from its index, or else by a scan of the whole file."""
        super().__init__()
        self._schemas: dict[int, str] = {}
        self._channels: dict[int, tuple[str, int]] = {}
        self._chunks: list[_Chunk] = []
        self._unchunked: dict[int, MessageList] = {}  # of each channel, outside of chunks
        self._source: FileBytes | ObjectBytes
        self._source = ObjectBytes(file) if isinstance(file, ObjectPath) else FileBytes(file)
        if not self._read_index():
            self._chunks.clear()
            if isinstance(file, ObjectPath):
                self._source = FileBytes(file.fetched())
            self.indexed = _Scan(self).run()
        for topic, schema in self._channels.values():
            self.types[topic] = self._schemas.get(schema, "") or self.types.get(topic, "")

    def segments(self, topics: Collection[str]) -> list[Segment]:
        """The chunks with messages of some topics, and their messages outside of chunks."""
        wanted = {
            channel: topic for channel, (topic, _) in self._channels.items() if topic in topics
        }
        chunks = [
            chunk for chunk in self._chunks if not chunk.channels or chunk.channels & wanted.keys()
        ]
        if isinstance(self._source, ObjectBytes):
            self._source.expect((chunk.at, chunk.end) for chunk in chunks)
        found = [
            Segment(chunk.start_ns, chunk.size, partial(self._in_chunk, chunk, wanted))
            for chunk in chunks
        ]
        for channel in wanted.keys() & self._unchunked.keys():
            unchunked = self._unchunked[channel]
            read = partial(self._outside_of_chunks, unchunked, wanted[channel])
            found.append(Segment(min(unchunked.times_ns), 0, read))
        return found

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def _read_index(self) -> bool:
        """Take over the summary; return false if it is missing, damaged or incomplete."""
        end = self._source.size - len(MAGIC)
        footer = self._source.read(end - FOOTER.size, FOOTER.size) if end > FOOTER.size else b""
        if len(footer) < FOOTER.size or self._source.read(end, len(MAGIC)) != MAGIC:
            return False
        kind, _, start, _, checksum = FOOTER.unpack(footer)
        if kind != Opcode.FOOTER or start == 0:
            return False
        summary = self._source.read(start, end - 4 - start)
        if checksum and zlib.crc32(summary) != checksum:
            self.damage.note("its index is damaged (checksum differs); the whole file was scanned")
            return False
        statistics = None
        source = MemoryBytes(summary[: len(summary) - FOOTER.size + 4])
        try:
            for record in records(source, 0, _refuse_gap):
                if record.kind == Opcode.CHUNK_INDEX:
                    index = ChunkIndex.read(fields(source, record))
                    channels = frozenset(index.message_index_offsets)
                    at, size = index.chunk_start_offset, index.uncompressed_size
                    end, start_ns = at + index.chunk_length, index.message_start_time
                    self._chunks.append(_Chunk(at, end, start_ns, size, channels))
                elif record.kind == Opcode.STATISTICS:
                    statistics = Statistics.read(fields(source, record))
                else:
                    self._describe(source, record)
        except MALFORMED as error:
            self.damage.note(f"its index is damaged ({error}); the whole file was scanned")
            return False
        if statistics is None:
            return False
        counts = statistics.channel_message_counts
        for channel in counts.keys() & self._channels.keys():
            self.recorded[self._channels[channel][0]] += counts[channel]
        schemas = {schema for _, schema in self._channels.values() if schema}
        if not (
            len(self._chunks) == statistics.chunk_count
            and counts.keys() <= self._channels.keys()
            and schemas <= self._schemas.keys()  # a summary need not repeat the schemas
            and (self._chunks or not statistics.message_count)
        ):
            return False
        self.counts = self.recorded.copy()
        self.start_ns = statistics.message_start_time
        self.end_ns = statistics.message_end_time
        return True

    def _describe(self, source: ByteSource, record: Record) -> None:
        """Take over a record if it is a schema or a channel."""
        if record.kind == Opcode.SCHEMA:
            schema = Schema.read(fields(source, record))
            self._schemas[schema.id] = schema.name
        elif record.kind == Opcode.CHANNEL:
            channel = Channel.read(fields(source, record))
            self._channels[channel.id] = (channel.topic, channel.schema_id)

    def _in_chunk(self, chunk: _Chunk, wanted: Mapping[int, str]) -> Messages:
        record = record_at(self._source, chunk.at)
        try:
            if record is None or record.kind != Opcode.CHUNK:
                raise ValueError("it does not begin there")
            data = chunk_data(self._source, record)
        except MALFORMED as error:
            self.damage.note(f"the chunk at byte {chunk.at} is unreadable ({error}), skipped")
            return
        source = MemoryBytes(data)
        found = []
        for inner in records(source, 0, partial(self._note_gap_in_chunk, chunk.at)):
            if inner.kind == Opcode.MESSAGE and inner.whole:
                channel, _, log_time_ns, _ = MESSAGE_HEAD.unpack(source.read(inner.body, 22))
                if channel in wanted:
                    position = inner.body + MESSAGE_HEAD.size
                    found.append((log_time_ns, position, inner.end - position, wanted[channel]))
        for log_time_ns, position, length, topic in sorted(found):
            yield log_time_ns, topic, source.read(position, length)

    def _outside_of_chunks(self, messages: MessageList, topic: str) -> Messages:
        for log_time_ns, at in messages.in_order():
            (_, length) = HEAD.unpack(self._source.read(at, HEAD.size))
            yield log_time_ns, topic, self._source.read(at + HEAD.size, length)[MESSAGE_HEAD.size :]

    def _note_gap_in_chunk(self, chunk_at: int, at: int, resumed: int) -> None:
        where = f"bytes {at} to {resumed} of the chunk at byte {chunk_at}"
        self.damage.note(f"{where} are unreadable, skipped")


class _Scan:
    """Reads a file from front to back: finds chunks, messages outside of chunks, and losses."""

    def __init__(self, file: McapFile) -> None:
        self._file, self._source = file, file._source
        self._readable: Counter[int] = Counter()
        self._lost: Counter[int] = Counter()
        self._in_statistics: Counter[int] = Counter()
        self._times_ns = [2**64, 0]
        # Count messages since the last readable chunk. A message index behind damage counts them
        # and the lost ones together.
        self._since_damage: Counter[int] | None = None

    def run(self) -> bool:
        """Fill in what the file holds; return whether its statistics say how much was recorded."""
        file, source = self._file, self._source
        begins = source.read(0, len(MAGIC)) == MAGIC
        if not begins:
            file.damage.note("it does not start like an mcap file")
        ended, last = False, len(MAGIC)
        for record in records(source, len(MAGIC) if begins else 0, self._note_gap):
            last = record.end
            ended = ended or record.kind in (Opcode.DATA_END, Opcode.FOOTER)
            if not record.whole:
                where = f"byte {record.at} of {source.size}"
                file.damage.note(f"cut off: {where} begins a record that does not end")
            try:
                self._take(record)
            except MALFORMED as error:
                file.damage.note(f"the record at byte {record.at} is unreadable ({error}), skipped")
                self._since_damage = Counter()
        if begins and not ended and last == source.size:
            file.damage.note(f"cut off: it ends at byte {last} without an index")
        self._sum_up()
        return bool(self._in_statistics)

    def _note_gap(self, at: int, resumed: int) -> None:
        self._file.damage.note(f"bytes {at} to {resumed} are unreadable, skipped")
        self._since_damage = self._since_damage or Counter()

    def _take(self, record: Record) -> None:
        if record.kind == Opcode.CHUNK:
            self._take_chunk(record)
        elif record.kind == Opcode.MESSAGE and record.whole:
            channel, log_time_ns = self._count(self._source, record)
            self._file._unchunked.setdefault(channel, MessageList()).add(log_time_ns, record.at)
            if self._since_damage is not None:
                self._since_damage[channel] += 1
        elif record.kind == Opcode.MESSAGE_INDEX and self._since_damage is not None:
            (channel, length) = struct.unpack("<HI", self._source.read(record.body, 6))
            self._lost[channel] += max(length // 16 - self._since_damage.pop(channel, 0), 0)
        elif record.kind == Opcode.STATISTICS and record.whole:
            statistics = Statistics.read(fields(self._source, record))
            if statistics.message_count == sum(statistics.channel_message_counts.values()):
                self._in_statistics = Counter(statistics.channel_message_counts)
        elif record.whole:
            self._file._describe(self._source, record)

    def _take_chunk(self, record: Record) -> None:
        data = chunk_data(self._source, record)
        self._since_damage = None
        source = MemoryBytes(data)
        channels, start_ns = set(), 2**64
        for inner in records(source, 0, partial(self._file._note_gap_in_chunk, record.at)):
            if inner.kind == Opcode.MESSAGE and inner.whole:
                channel, log_time_ns = self._count(source, inner)
                channels.add(channel)
                start_ns = min(start_ns, log_time_ns)
            elif inner.whole:
                self._file._describe(source, inner)
        if channels:
            at, end, size = record.at, record.end, len(data)
            self._file._chunks.append(_Chunk(at, end, start_ns, size, frozenset(channels)))

    def _count(self, source: ByteSource, record: Record) -> tuple[int, int]:
        """Count a message; return its channel and log time."""
        head = source.read(record.body, MESSAGE_HEAD.size)
        channel, _, log_time_ns, _ = MESSAGE_HEAD.unpack(head)
        self._readable[channel] += 1
        first_ns, last_ns = self._times_ns
        self._times_ns = [min(first_ns, log_time_ns), max(last_ns, log_time_ns)]
        return channel, log_time_ns

    def _sum_up(self) -> None:
        file, nameless = self._file, 0
        recorded: Counter[str] = Counter()
        for channel, count in ((self._readable + self._lost) | self._in_statistics).items():
            if channel in file._channels:
                topic = file._channels[channel][0]
                file.counts[topic] += self._readable[channel]
                recorded[topic] += count
            else:
                nameless += self._readable[channel]
        if nameless:
            file.damage.note(f"{nameless} messages are of topics whose description is lost")
        file.recorded |= recorded
        if self._readable:
            file.start_ns, file.end_ns = self._times_ns


def _refuse_gap(at: int, resumed: int) -> None:
    raise ValueError(f"no record begins at its byte {at}")
