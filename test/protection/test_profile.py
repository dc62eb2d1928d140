"""Protected messages against an independent implementation of AUTOSAR's profile, bit by bit."""

import struct

import pytest
from e2e.p07 import e2e_p07_check, e2e_p07_protect
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.drives.schemas import typestore
from perception_nodes.protection import profile

TOPIC = "/perception/detections/protected"
ID = profile.data_id(TOPIC)
PAYLOADS = st.binary(max_size=300)
COUNTERS = st.integers(0, 2**32 - 1)
DEADLINES = st.integers(-(2**63), 2**63 - 1)


def reference_crc64(data):
    """CRC-64/XZ by its definition, one bit at a time."""
    crc = 2**64 - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xC96C5795D7870F42 if crc & 1 else 0)
    return crc ^ (2**64 - 1)


def profile_buffer(message):
    """The fields of a `Protected` one behind the other, as its definition says."""
    read = typestore().deserialize_cdr(message, "perception_interfaces/msg/Protected")
    fields = read.crc, read.length, read.counter, read.data_id, read.deadline_ns
    return bytearray(struct.pack(">QIIIq", *fields) + read.data.tobytes())


def test_identity_is_the_lower_half_of_the_topics_crc():
    assert reference_crc64(b"123456789") == 0x995DC9BBDF1939FA  # the check value of CRC-64/XZ
    assert ID == reference_crc64(TOPIC.encode()) % 2**32
    assert profile.data_id(TOPIC, 0xBEEF) == ID ^ 0xBEEF


@given(PAYLOADS, COUNTERS, DEADLINES)
def test_the_autosar_library_makes_and_accepts_the_same_bytes(data, counter, deadline_ns):
    ours = profile_buffer(profile.protect(data, ID, counter, deadline_ns))
    assert e2e_p07_check(bytes(ours), ID)
    assert not e2e_p07_check(bytes(ours), ID ^ 1)
    theirs = bytearray(20) + ours[20:]
    theirs[12:16] = counter.to_bytes(4, "big")
    e2e_p07_protect(theirs, ID, increment_counter=False)
    assert theirs == ours


@given(PAYLOADS, COUNTERS, DEADLINES, st.integers(0, 2**16 - 1))
def test_what_was_protected_can_be_opened(data, counter, deadline_ns, sender):
    message = profile.protect(data, profile.data_id(TOPIC, sender), counter, deadline_ns)
    expected = profile.Opened(counter, deadline_ns, data, sender)
    assert profile.open_protected(message, ID) == expected
    assert profile.open_protected(message + bytes(3), ID) == expected
    for topic in ("detections", "tracks", "health", "frame_report", "safe_stop"):
        other = profile.data_id(f"/perception/{topic}/protected")
        if other != ID:
            assert profile.open_protected(message, other) == "data id: of another topic"


@given(PAYLOADS, st.data())
def test_every_altered_message_is_found(data, draw):
    message = bytearray(profile.protect(data, ID, 7, 10**18))
    padding = range(24, 28)  # CDR's, which means nothing
    meant = [n for n in range(4, len(message)) if n not in padding]
    for position in draw.draw(st.sets(st.sampled_from(meant), min_size=1, max_size=4)):
        message[position] ^= draw.draw(st.integers(1, 255))
    assert isinstance(profile.open_protected(bytes(message), ID), str)


@given(PAYLOADS, st.data())
def test_a_message_that_is_cut_off_is_found(data, draw):
    message = profile.protect(data, ID, 7, 10**18)
    kept = draw.draw(st.integers(0, len(message) - 1))
    assert isinstance(profile.open_protected(message[:kept], ID), str)


@given(st.binary(max_size=100))
def test_any_bytes_can_be_judged(noise):
    assert isinstance(profile.open_protected(noise, ID), str)


@pytest.mark.parametrize("excess", [0, 1])
def test_a_message_is_as_long_as_the_profile_allows(excess):
    message = profile.protect(bytes(profile.MAX_BYTES - profile.OVERHEAD_BYTES + excess), ID, 0, 0)
    assert (profile.open_protected(message, ID) == "length") == bool(excess)
    assert profile.ENVELOPE.size == 40
