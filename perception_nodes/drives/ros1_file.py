"""ROS 1 bags, read by their index where it is sound, from front to back where it is not."""

import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rosbags.typesys import Stores, get_typestore

from perception_nodes.drives.decompression import MAX_CHUNK_BYTES, PackingError, unpacked
from perception_nodes.drives.message_order import (
    Bytes,
    Damage,
    FileBytes,
    MemoryBytes,
    Messages,
    Part,
)
from perception_nodes.drives.ros1_records import (
    BAG,
    CHUNK,
    CHUNK_INFO,
    CONNECTION,
    INDEX,
    MAGIC,
    MALFORMED,
    MESSAGE,
    Record,
    fields_of,
    record_at,
    records,
)


class _Chunk(NamedTuple):
    """A chunk, or a message outside of one: where it begins, its earliest log time, its size."""

    at: int
    start_ns: int
    size: int
    connections: frozenset[int]


class Ros1File:
    """A ROS 1 bag, its messages converted to CDR; see `BagFile`."""

    def __init__(self, file: Path) -> None:
        """Find out what is in it: from its index, else by reading it through."""
        self.types: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.recorded: Counter[str] = Counter()
        self.indexed = False
        self.start_ns = self.end_ns = 0
        self.damage = Damage()
        self._topics: dict[int, str] = {}
        self._chunks: list[_Chunk] = []
        self._readable: Counter[int] = Counter()
        self._lost: Counter[int] = Counter()
        self._convert = get_typestore(Stores.ROS2_HUMBLE).ros1_to_cdr
        self._source = FileBytes(file)
        if self._source.read(0, len(MAGIC)) != MAGIC:
            self.damage.note("it does not start like a ROS 1 bag")
            return
        self.indexed = self._read_index()
        if not self.indexed:
            self._chunks.clear()
            self._readable.clear()
            self._walk()
        self._sum_up()

    def parts(self, topics: Collection[str]) -> list[Part]:
        """What holds the messages of some topics."""
        wanted = {number: topic for number, topic in self._topics.items() if topic in topics}
        return [
            Part(chunk.start_ns, chunk.size, partial(self._in_chunk, chunk, wanted))
            for chunk in self._chunks
            if chunk.connections & wanted.keys()
        ]

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def _read_index(self) -> bool:
        """Take what the records at the end tell; false where they are not sound and complete."""
        bag = record_at(self._source, len(MAGIC))
        if bag is None or bag.kind != BAG or not bag.number(b"index_pos"):
            return False
        chunks: list[_Chunk] = []
        spans_ns = []
        described: dict[int, Record] = {}
        counts: Counter[int] = Counter()
        try:
            for record in records(self._source, bag.number(b"index_pos"), _refused):
                if record.kind == CONNECTION:
                    described[record.number(b"conn")] = record
                elif record.kind == CHUNK_INFO and record.whole:
                    data = self._source.read(record.body, record.end - record.body)
                    inside = dict(struct.iter_unpack("<II", data))
                    if len(inside) != record.number(b"count"):
                        raise ValueError("a chunk's counts are not whole")
                    counts.update(inside)
                    start_ns, at = record.time_ns(b"start_time"), record.number(b"chunk_pos")
                    chunk = record_at(self._source, at)
                    size = 0 if chunk is None or chunk.kind != CHUNK else chunk.number(b"size")
                    chunks.append(_Chunk(at, start_ns, size, frozenset(inside)))
                    spans_ns.append((start_ns, record.time_ns(b"end_time")))
            if (len(chunks), len(described)) != (
                bag.number(b"chunk_count"),
                bag.number(b"conn_count"),
            ) or not counts.keys() <= described.keys():
                raise ValueError("it is not whole")
            for record in described.values():
                self._describe(self._source, record)
        except MALFORMED as error:
            self.damage.note(f"its index is damaged ({error}); it was read through")
            return False
        self._chunks, self._readable = chunks, counts
        if spans_ns:
            self.start_ns = min(start for start, _ in spans_ns)
            self.end_ns = max(end for _, end in spans_ns)
        return True

    def _walk(self) -> None:
        """Read it from front to back."""
        source, span_ns = self._source, [2**64, 0]
        # By connection since the last chunk began; the index behind it tells how many there were.
        found_in: Counter[int] = Counter()
        for record in records(source, len(MAGIC), self._skipped):
            if not record.whole:
                self.damage.note(
                    f"cut off: byte {record.at} of {source.size} begins a record that does not end"
                )
            try:
                times_ns = []
                if record.kind == CONNECTION and record.whole:
                    self._describe(source, record)
                elif record.kind == CHUNK:
                    found_in = Counter()
                    for message, _ in self._messages(record):
                        found_in[message.number(b"conn")] += 1
                        times_ns.append(message.time_ns(b"time"))
                    self._readable += found_in
                    if times_ns:
                        at, size = record.at, record.number(b"size")
                        self._chunks.append(_Chunk(at, min(times_ns), size, frozenset(found_in)))
                elif record.kind == MESSAGE and record.whole:
                    # Of a chunk whose own head is lost.
                    connection, times_ns = record.number(b"conn"), [record.time_ns(b"time")]
                    chunk = _Chunk(record.at, times_ns[0], 0, frozenset([connection]))
                    self._chunks.append(chunk)
                    found_in[connection] += 1
                    self._readable[connection] += 1
                elif record.kind == INDEX and record.whole:
                    connection, count = record.number(b"conn"), record.number(b"count")
                    self._lost[connection] += max(count - found_in.pop(connection, 0), 0)
                if times_ns:
                    span_ns = [min(span_ns[0], *times_ns), max(span_ns[1], *times_ns)]
            except MALFORMED as error:
                self.damage.note(f"the part at byte {record.at} is unreadable ({error}), skipped")
        if self._readable:
            self.start_ns, self.end_ns = span_ns

    def _messages(self, chunk: Record) -> Iterator[tuple[Record, bytes]]:
        """The messages of a chunk; connections that it describes are noted.

        Raises:
            ValueError: it cannot be unpacked.
        """
        data = self._source.read(chunk.body, chunk.end - chunk.body)
        if chunk.kind == MESSAGE:
            yield chunk, data
            return
        try:
            data = unpacked(chunk.fields[b"compression"].decode(), data, MAX_CHUNK_BYTES)
        except PackingError as error:
            if not error.before:
                raise
            data = error.before
            self.damage.note(f"the part at byte {chunk.at} is cut short by damage: {error}")
        yield from self._messages_in(data, chunk.at)

    def _messages_in(self, data: bytes, chunk_at: int) -> Iterator[tuple[Record, bytes]]:
        source = MemoryBytes(data)
        for record in records(source, 0, partial(self._skipped_in_chunk, chunk_at)):
            if record.kind == CONNECTION and record.whole:
                self._describe(source, record)
            elif record.kind == MESSAGE and record.whole:
                yield record, source.read(record.body, record.end - record.body)

    def _in_chunk(self, chunk: _Chunk, wanted: Mapping[int, str]) -> Messages:
        """Messages of a chunk, by log time.

        One that cannot be converted comes as no bytes: it is refused, and counted, as broken.
        """
        record = record_at(self._source, chunk.at)
        try:
            if record is not None and record.kind in (CHUNK, MESSAGE):
                messages = self._messages(record)
            else:
                # Its head is lost; what lies behind that may still be whole.
                following = [other.at for other in self._chunks if other.at > chunk.at]
                end = min([*following, self._source.size, chunk.at + MAX_CHUNK_BYTES])
                data = self._source.read(chunk.at, end - chunk.at)
                messages = self._messages_in(data, chunk.at)
            found = [
                (message.time_ns(b"time"), number, wanted[message.number(b"conn")], data)
                for number, (message, data) in enumerate(messages)
                if message.number(b"conn") in wanted
            ]
        except MALFORMED as error:
            self.damage.note(f"the part at byte {chunk.at} is unreadable ({error}), skipped")
            return
        for log_time_ns, _, topic, data in sorted(found):
            try:
                converted = bytes(self._convert(data, self.types[topic]))
            # The library raises whatever its parser trips over.
            except Exception:
                converted = b""
            yield log_time_ns, topic, converted

    def _describe(self, source: Bytes, record: Record) -> None:
        described = fields_of(source.read(record.body, record.end - record.body))
        package, _, name = described[b"type"].decode().partition("/")
        topic = record.fields[b"topic"].decode()
        self._topics[record.number(b"conn")] = topic
        self.types[topic] = f"{package}/msg/{name}"

    def _sum_up(self) -> None:
        for number, count in (self._readable + self._lost).items():
            if number in self._topics:
                self.counts[self._topics[number]] += self._readable[number]
                self.recorded[self._topics[number]] += count
            elif self._readable[number]:
                self.damage.note(
                    f"{self._readable[number]} messages are of a topic whose description is lost"
                )

    def _skipped(self, at: int, found: int) -> None:
        self.damage.note(f"bytes {at} to {found} are unreadable, skipped")

    def _skipped_in_chunk(self, chunk_at: int, at: int, found: int) -> None:
        self.damage.note(
            f"bytes {at} to {found} of the part at byte {chunk_at} are unreadable, skipped"
        )


def _refused(at: int, found: int) -> None:
    raise ValueError(f"no record begins at byte {at}")
