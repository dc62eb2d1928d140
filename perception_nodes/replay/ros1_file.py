"""ROS 1 bags, read by their index where it is sound, from front to back where it is not.

A record is a header of fields and data, each with its length before it; messages lie in chunks,
whose data are records again (http://wiki.ros.org/Bags/Format/2.0).
"""

import re
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rosbags.typesys import Stores, get_typestore

from perception_nodes.replay.packing import MAX_CHUNK_BYTES, PackingError, unpacked
from perception_nodes.replay.parts import Bytes, Damage, FileBytes, MemoryBytes, Messages, Part

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


class _Record(NamedTuple):
    """A record: its fields, where it begins, where its data do, and where they end."""

    fields: dict[bytes, bytes]
    at: int
    body: int
    end: int
    whole: bool

    @property
    def kind(self) -> int:
        return self.fields[b"op"][0]

    def number(self, name: bytes) -> int:
        return int.from_bytes(self.fields[name], "little")

    def time_ns(self, name: bytes) -> int:
        seconds, nanoseconds = TIME.unpack(self.fields[name])
        return int(seconds * 1_000_000_000 + nanoseconds)


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
        bag = _record_at(self._source, len(MAGIC))
        if bag is None or bag.kind != BAG or not bag.number(b"index_pos"):
            return False
        chunks: list[_Chunk] = []
        spans_ns = []
        described: dict[int, _Record] = {}
        counts: Counter[int] = Counter()
        try:
            for record in _records(self._source, bag.number(b"index_pos"), _refused):
                if record.kind == CONNECTION:
                    described[record.number(b"conn")] = record
                elif record.kind == CHUNK_INFO and record.whole:
                    data = self._source.read(record.body, record.end - record.body)
                    inside = dict(struct.iter_unpack("<II", data))
                    if len(inside) != record.number(b"count"):
                        raise ValueError("a chunk's counts are not whole")
                    counts.update(inside)
                    start_ns, at = record.time_ns(b"start_time"), record.number(b"chunk_pos")
                    chunk = _record_at(self._source, at)
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
        for record in _records(source, len(MAGIC), self._skipped):
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

    def _messages(self, chunk: _Record) -> Iterator[tuple[_Record, bytes]]:
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

    def _messages_in(self, data: bytes, chunk_at: int) -> Iterator[tuple[_Record, bytes]]:
        source = MemoryBytes(data)
        for record in _records(source, 0, partial(self._skipped_in_chunk, chunk_at)):
            if record.kind == CONNECTION and record.whole:
                self._describe(source, record)
            elif record.kind == MESSAGE and record.whole:
                yield record, source.read(record.body, record.end - record.body)

    def _in_chunk(self, chunk: _Chunk, wanted: Mapping[int, str]) -> Messages:
        """Messages of a chunk, by log time.

        One that cannot be converted comes as no bytes: it is refused, and counted, as broken.
        """
        record = _record_at(self._source, chunk.at)
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

    def _describe(self, source: Bytes, record: _Record) -> None:
        described = _fields(source.read(record.body, record.end - record.body))
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


def _records(source: Bytes, at: int, skipped: Callable[[int, int], None]) -> Iterator[_Record]:
    """All records from a byte on; `skipped` hears of the bytes from and to which there are none.

    A record's length is believed where a record follows it, or none is found before that.
    """
    while at < source.size:
        record = _record_at(source, at)
        if record is None or not _follows(source, record):
            found = _resynchronized(source, at + 1)
            if record is None or (found is not None and found < record.end):
                skipped(at, source.size if found is None else found)
                if found is None:
                    return
                at = found
                continue
        yield record
        at = record.end


def _record_at(source: Bytes, at: int) -> _Record | None:
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
        fields = _fields(header[:length])
    except MALFORMED:
        return None
    kind = fields.get(b"op", b"")
    if len(kind) != 1 or not _NEEDED.get(kind[0], {b""}) <= fields.keys():
        return None
    (size,) = LENGTH.unpack_from(header, length)
    body = at + 2 * LENGTH.size + length
    end = body + size
    return _Record(fields, at, body, min(end, source.size), end <= source.size)


def _follows(source: Bytes, record: _Record) -> bool:
    """Whether what comes behind a record is one, or the end."""
    return record.whole and (
        record.end >= source.size or _record_at(source, record.end) is not None
    )


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
                record = _record_at(source, first + at)
                if record is not None and _follows(source, record):
                    return first + at
    return None


def _fields(header: bytes) -> dict[bytes, bytes]:
    fields, at = {}, 0
    while at < len(header):
        (length,) = LENGTH.unpack_from(header, at)
        name, separator, value = header[at + LENGTH.size : at + LENGTH.size + length].partition(
            b"="
        )
        if not separator or at + LENGTH.size + length > len(header):
            raise ValueError("a field without a value")
        fields[name] = value
        at += LENGTH.size + length
    return fields
