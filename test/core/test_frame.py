"""The structures that travel in shared memory, and what is read from them."""

import ctypes
from contextlib import nullcontext

import pytest

from perception_nodes.core import frame

HALF = {"width": 4, "height": 2, "source_width": 8, "source_height": 4, "scale_x": 1, "scale_y": 1}


@pytest.mark.parametrize(
    "structure", [frame.FrameFacts, frame.FrameHeader, frame.FrameRecord, frame.DetectionRecord]
)
def test_a_structure_has_no_hidden_padding_before_its_last_field(structure):
    """C++ processes map the same memory: fields lie one behind the other, by size."""
    end = getattr(structure, structure._fields_[0][0]).offset  # behind the fields of a base
    for name, _ in structure._fields_:
        field = getattr(structure, name)
        assert field.offset == end, name
        end += field.size


@pytest.mark.parametrize(
    ("in_place", "payload_bytes", "reason"),
    [
        (False, 24, None),
        (True, 1, None),
        (False, 25, "slot of 25 bytes, 24 are its pixels"),
        (False, 1, "left with the camera: give both nodes the same preprocess_on"),
        (True, 24, "left in the slot: give both nodes the same preprocess_on"),
    ],
)
def test_pixels_are_where_the_model_takes_them_from(in_place, payload_bytes, reason):
    with nullcontext() if reason is None else pytest.raises(frame.FrameRejected, match=reason):
        frame.check_slot(frame.FrameHeader(**HALF), payload_bytes, 4, 2, in_place)


@pytest.mark.parametrize("name", ["capture_ns", "ingested_ns", "deadline_ns"])
@pytest.mark.parametrize("damaged_ns", [-(1 << 62), 1 << 62])
def test_a_time_that_cannot_be_is_refused(name, damaged_ns):
    header = frame.FrameHeader(**HALF, **{name: damaged_ns})
    with pytest.raises(frame.FrameRejected, match=r"its memory was damaged"):
        frame.check_slot(header, 24, 4, 2)


def test_a_header_and_its_record_agree_on_every_field_they_share():
    raw = bytes(1 + i % 251 for i in range(ctypes.sizeof(frame.FrameFacts)))
    header = frame.FrameHeader(facts=frame.FrameFacts.from_buffer_copy(raw))
    header.stamp_ns = 1
    record = frame.record_of_header(header)
    assert bytes(record.facts) == bytes(header.facts)
    for name, _ in frame.FrameFacts._fields_:
        assert getattr(record, name) == getattr(header, name) == getattr(header.facts, name)
