"""Damaged bag files, read from front to back as far as their bytes make sense."""

import sqlite3
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Message, Schema

MCAP_MAGIC = b"\x89MCAP0\r\n"
RECORD_HEAD = struct.Struct("<BQ")
GIVE_UP_AFTER = 10_000
"""Unreadable sqlite rows in a row after which the rest of the table counts as lost."""

Messages = Iterator[tuple[int, bytes]]


@dataclass
class Survey:
    """What reading a file through found.

    Attributes:
        types: message type by topic.
        counts: readable messages by topic.
        start_ns, end_ns: log times of the first and last message.
        damage: what is wrong with the file, a line each; empty for a sound one.
    """

    types: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    start_ns: int = 2**63 - 1
    end_ns: int = 0
    damage: list[str] = field(default_factory=list)

    def see(self, topic: str, log_time_ns: int) -> None:
        """Count a message."""
        self.counts[topic] += 1
        self.start_ns = min(self.start_ns, log_time_ns)
        self.end_ns = max(self.end_ns, log_time_ns)


def survey_mcap(file: Path) -> Survey:
    """Read an mcap file through."""
    survey = Survey()
    for topic, log_time_ns, _ in _walk_mcap(file, survey):
        survey.see(topic, log_time_ns)
    return survey


def read_mcap(file: Path, topic: str) -> Messages:
    """The readable messages of a topic, in log-time order within each chunk of the file."""
    for name, log_time_ns, data in _walk_mcap(file, Survey()):
        if name == topic:
            yield log_time_ns, data


def _walk_mcap(file: Path, survey: Survey) -> Iterator[tuple[str, int, bytes]]:
    """Messages of an mcap file; types and damage are noted in the survey."""
    channels: dict[int, str] = {}
    schemas: dict[int, str] = {}
    with file.open("rb") as stream:
        size = file.stat().st_size
        if stream.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
            survey.damage.append("it does not start like an mcap file")
            return
        while True:
            start = stream.tell()
            opcode, body, complete = _record(stream, size)
            if opcode in (Opcode.FOOTER, Opcode.DATA_END):
                return
            if not complete:
                survey.damage.append(
                    f"cut off: byte {start} of {size} begins a record that does not end"
                    if start < size
                    else f"cut off: it ends at byte {size} without an index"
                )
            try:
                records: list[tuple[int, bytes]] = [(opcode, body)] if complete else []
                if opcode == Opcode.CHUNK:
                    records = _unpacked(Chunk.read(_fields(body)), complete)
                yield from _messages(records, channels, schemas, survey)
            except (ValueError, McapError, struct.error) as error:
                survey.damage.append(f"the part at byte {start} is unreadable ({error}), skipped")
            if not complete:
                return


def _record(stream: BinaryIO, size: int) -> tuple[int, bytes, bool]:
    """The next record of so many bytes: its kind, its bytes, and whether they are all there."""
    head = stream.read(RECORD_HEAD.size)
    if len(head) < RECORD_HEAD.size:
        return 0, b"", False
    opcode, length = RECORD_HEAD.unpack(head)
    # A corrupt length would have memory made for it that nobody has.
    body = stream.read(min(length, size - stream.tell()))
    return opcode, body, len(body) == length


def _unpacked(chunk: Chunk, complete: bool) -> list[tuple[int, bytes]]:
    """Records of a chunk; of a cut-off one those before the cut.

    Raises:
        ValueError: it is whole, but its content is not what was written.
    """
    try:
        data = _decompress(chunk.compression, chunk.data)
    except (RuntimeError, zstandard.ZstdError) as error:
        raise ValueError(f"{chunk.compression}: {error}") from error
    if complete and chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
        raise ValueError("checksum differs")
    stream, records = BytesIO(data), []
    while True:
        opcode, body, whole = _record(stream, len(data))
        if not whole:
            return records
        records.append((opcode, body))


def _decompress(compression: str, data: bytes) -> bytes:
    """As much as can be decompressed of data that may be cut off."""
    if compression == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    if compression == "lz4":
        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data))
    if compression:
        raise ValueError(f"compression {compression!r} is not known")
    return data


def _messages(
    records: list[tuple[int, bytes]],
    channels: dict[int, str],
    schemas: dict[int, str],
    survey: Survey,
) -> Iterator[tuple[str, int, bytes]]:
    found = []
    for opcode, body in records:
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(_fields(body))
            schemas[schema.id] = schema.name
        elif opcode == Opcode.CHANNEL:
            channel = Channel.read(_fields(body))
            channels[channel.id] = channel.topic
            survey.types[channel.topic] = schemas.get(channel.schema_id, "")
        elif opcode == Opcode.MESSAGE:
            message = Message.read(_fields(body), len(body))
            if message.channel_id in channels:
                found.append((channels[message.channel_id], message.log_time, message.data))
    yield from sorted(found, key=lambda message: message[1])


def _fields(body: bytes) -> ReadDataStream:
    return ReadDataStream(BytesIO(body))


def survey_sqlite(file: Path) -> Survey:
    """Read a sqlite3 bag through, messages included: only reading them shows what is lost."""
    survey = Survey()
    try:
        with closing(_connect(file)) as database:
            topics = dict(database.execute("SELECT id, name FROM topics"))
            survey.types = dict(database.execute("SELECT name, type FROM topics"))
            for topic_id, log_time_ns, _ in _walk_rows(database, survey):
                if topic_id in topics:
                    survey.see(topics[topic_id], log_time_ns)
    except sqlite3.DatabaseError as error:
        survey.damage.append(f"sqlite cannot read its list of topics: {error}")
    return survey


def read_sqlite(file: Path, topic: str) -> Messages:
    """The readable messages of a topic, in the order they were written."""
    with closing(_connect(file)) as database:
        wanted = {i for i, name in database.execute("SELECT id, name FROM topics") if name == topic}
        for topic_id, log_time_ns, data in _walk_rows(database, Survey()):
            if topic_id in wanted:
                yield log_time_ns, data


def _connect(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(f"file:{file}?immutable=1", uri=True)
    # Without this sqlite refuses a file that is shorter than its header says.
    database.execute("PRAGMA writable_schema=ON")
    return database


def _walk_rows(database: sqlite3.Connection, survey: Survey) -> Iterator[tuple[int, int, bytes]]:
    """Rows of the messages table by number; unreadable ones are stepped over and counted."""
    last, lost, failures = 0, 0, 0
    query = "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id"
    while failures < GIVE_UP_AFTER:
        try:
            for row, topic_id, log_time_ns, data in database.execute(query, (last,)):
                if row <= last:
                    # Pages of a damaged file may point at each other in a circle.
                    raise sqlite3.DatabaseError("they come out of order")
                last, lost, failures = row, lost + failures, 0
                yield topic_id, log_time_ns, data
            break
        except sqlite3.DatabaseError as error:
            if not failures:
                survey.damage.append(f"rows behind number {last} of its messages: {error}")
            last, failures = last + 1, failures + 1
    if lost:
        survey.damage.append(f"{lost} messages between readable ones are lost")
