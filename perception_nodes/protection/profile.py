"""End-to-end protection of a message: AUTOSAR's E2E Profile 7 (AUTOSAR_PRS_E2EProtocol).

Profiles 4 to 6 end at 4 KB; an array of ten detections is larger. Profile 7 has lengths and
counters of 32 bits and a CRC of 64.
"""

import struct
from typing import NamedTuple

from fastcrc import crc64

ENCAPSULATION = b"\x00\x01\x00\x00"
"""Plain CDR, little-endian."""
ENVELOPE = struct.Struct("<4sQIII4xqI")
"""A serialized `perception_interfaces/msg/Protected` in front of its data: encapsulation, crc,
length, counter, data_id, deadline_ns, size of data."""
_COVERED = struct.Struct(">IIIq")
"""The fields before the data that the CRC covers."""
PROFILE_HEADER_BYTES = 20
OVERHEAD_BYTES = PROFILE_HEADER_BYTES + 8
"""Bytes that the profile and the deadline add."""
MAX_BYTES = 4 << 20
"""Largest protected message that the profile allows."""
SENDER_BITS = 16
"""Lower bits of an identity that tell its sender; the others tell its topic alone."""


class Opened(NamedTuple):
    """The content of a protected message that passed the check; see `Protected.msg`."""

    counter: int
    deadline_ns: int
    data: bytes
    sender: int


def data_id(topic: str, sender: int = 0) -> int:
    """Identifies a topic, and the graph that sends on it, in 32 bits.

    Args:
        topic: its full name, such as `/perception/detections/protected`.
        sender: of `SENDER_BITS`; 0 in recordings that are older than senders.
    """
    return int(crc64.xz(topic.encode())) & 0xFFFFFFFF ^ sender


def protect(data: bytes, identity: int, counter: int, deadline_ns: int) -> bytes:
    """Serialize a message of another topic as `perception_interfaces/msg/Protected`.

    Args:
        data: the other message, serialized.
        identity: see `data_id`.
        counter: number of the message, modulo 2^32.
        deadline_ns: see `Protected.msg`.
    """
    length = OVERHEAD_BYTES + len(data)
    crc = crc64.xz(_COVERED.pack(length, counter, identity, deadline_ns) + data)
    return (
        ENVELOPE.pack(ENCAPSULATION, crc, length, counter, identity, deadline_ns, len(data)) + data
    )


def open_protected(message: bytes, identity: int) -> Opened | str:
    """Check what can be checked of a message on its own.

    Args:
        message: a serialized `Protected`, as it came.
        identity: that of the topic that it must be of, without a sender.

    Returns:
        Its content, or a text that says what is wrong with it.
    """
    if len(message) < ENVELOPE.size or not message.startswith(ENCAPSULATION[:2]):
        return "not a protected message"
    _, crc, length, counter, found, deadline_ns, size = ENVELOPE.unpack_from(message)
    # A middleware may pad the end of a message.
    data = message[ENVELOPE.size : ENVELOPE.size + size]
    if len(data) != size or length != OVERHEAD_BYTES + size or length > MAX_BYTES:
        return "length"
    if crc != crc64.xz(_COVERED.pack(length, counter, found, deadline_ns) + data):
        return "CRC"
    if (sender := found ^ identity) >> SENDER_BITS:
        return "data id: of another topic"
    return Opened(counter, deadline_ns, data, sender)
