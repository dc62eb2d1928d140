"""Mcap files, read by their index if it is undamaged, otherwise scanned from front to back."""

import struct
import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mcap.opcode import Opcode
from mcap.records import Channel, ChunkIndex, Schema, Statistics

from perception_nodes.drives.bag_file import BagFile, MessageList, Messages, Segment
from perception_nodes.drives.byte_source import ByteSource, FileBytes, MemoryBytes
from perception_nodes.drives.mcap_records import (
    HEAD,
    MAGIC,
    MALFORMED,
    MESSAGE_HEAD,
    Record,
    chunk_data,
    fields,
    record_at,
    records,
)

FOOTER = struct.Struct("<BQQQI")
"""Layout: opcode, length, starts of the summary and of the summary offsets, CRC of the summary."""


class _Chunk(NamedTuple):
    """A chunk in the file.

    Attributes:
        at: position of its record.
        start_ns: the earliest log time in it.
        size: bytes when decompressed.
        channels: channels with messages in it; empty if they are not known.
    """

    at: int
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
        self._source = FileBytes(file)
        if not self._read_index():
            self._chunks.clear()
            self.indexed = _Scan(self).run()
        for topic, schema in self._channels.values():
            self.types[topic] = self._schemas.get(schema, "") or self.types.get(topic, "")

    def segments(self, topics: Collection[str]) -> list[Segment]:
        """The chunks with messages of some topics, and their messages outside of chunks."""
        wanted = {
            channel: topic for channel, (topic, _) in self._channels.items() if topic in topics
        }
        found = [
            Segment(chunk.start_ns, chunk.size, partial(self._in_chunk, chunk, wanted))
            for chunk in self._chunks
            if not chunk.channels or chunk.channels & wanted.keys()
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
                    self._chunks.append(_Chunk(at, index.message_start_time, size, channels))
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
        self.damage.note(
            f"bytes {at} to {resumed} of the chunk at byte {chunk_at} are unreadable, skipped"
        )


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
                file.damage.note(
                    f"cut off: byte {record.at} of {source.size} begins a record that does not end"
                )
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
            self._file._chunks.append(_Chunk(record.at, start_ns, len(data), frozenset(channels)))

    def _count(self, source: ByteSource, record: Record) -> tuple[int, int]:
        """Count a message; return its channel and log time."""
        channel, _, log_time_ns, _ = MESSAGE_HEAD.unpack(
            source.read(record.body, MESSAGE_HEAD.size)
        )
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
