"""Ingest of a frame: its number, capture time, deadline and slot."""

import numpy as np
import pytest
from fake_clock import FakeClock
from pictures import compressed, frame, scene, view

from perception_nodes.core.budget import Budget
from perception_nodes.core.frame import (
    FrameFacts,
    FrameFlag,
    FrameHeader,
    FrameRecord,
    FrameRejected,
    FrameStatus,
    RecordKind,
)
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.ingest import Ingest

MS = 1_000_000
NOW, WALL = 5_000 * MS, 1_700_000_000_000 * MS


@pytest.fixture
def clock():
    return FakeClock(NOW, WALL)


@pytest.fixture
def ingest(clock):
    return Ingest(Preprocessor(64, 64, undistort=False), "front", Budget(), clock, incarnation=5)


def test_frames_are_numbered_from_zero_without_gaps(ingest):
    records = [ingest.enter(WALL, "camera", NOW) for _ in range(3)]
    assert [record.sequence for record in records] == [0, 1, 2]
    assert {record.incarnation for record in records} == {5}
    assert {record.kind for record in records} == {RecordKind.ENTERED}


@pytest.mark.parametrize(
    ("stamp_ns", "capture_ms", "is_suspect"),
    [
        (WALL - 3 * MS, -3, False),
        (WALL, 0, False),
        (0, -8, True),
        (WALL + 500 * MS, -8, True),
        (WALL - 2_000 * MS, -8, True),
    ],
)
@pytest.mark.parametrize("passed_ms", [0, 2])
def test_the_deadline_runs_from_capture_or_behind_a_suspect_stamp_from_arrival(
    ingest, clock, passed_ms, stamp_ns, capture_ms, is_suspect
):
    """Whenever the frame enters; it had waited for us for 8 ms."""
    clock.now_ns = passed_ms * MS
    record = ingest.enter(stamp_ns, "camera", NOW, waited_ns=8 * MS)
    assert record.capture_ns == NOW + capture_ms * MS
    assert record.deadline_ns == record.capture_ns + 10 * MS
    assert (record.stamp_ns, record.ingested_ns) == (stamp_ns, NOW + passed_ms * MS)
    assert record.flags == (FrameFlag.CLOCK_SUSPECT if is_suspect else 0)


@pytest.mark.parametrize("text", ["", "é" * 500, "x" * 63, "x" * 128, "🚗" * 90, "bad\udcff"])
def test_any_frame_id_and_reason_fit(ingest, text):
    record = ingest.enter(WALL, text, NOW)
    reason = Ingest.end(record, FrameStatus.FAILED, text).reason
    for kept, size in (
        (record.frame_id, FrameRecord.frame_id.size),
        (reason, FrameRecord.reason.size),
    ):
        assert len(kept) < size
        assert text.encode(errors="replace").startswith(kept)


def test_a_filled_slot_has_all_facts_of_the_record(ingest, clock):
    record = ingest.enter(WALL - 2_000 * MS, "camera", NOW)
    header, pixels = FrameHeader(), np.zeros((64, 64, 3), np.uint8)
    clock.now_ns = MS
    ingest.fill(record, frame(scene(128, 128), "bgr8"), header, pixels)
    for name in ("sequence", "stamp_ns", "capture_ns", "ingested_ns", "deadline_ns"):
        assert getattr(header, name) == getattr(record, name)
    assert (header.camera, header.frame_id) == (b"front", b"camera")
    assert header.flags == FrameFlag.CLOCK_SUSPECT
    assert header.preprocessed_ns == NOW + MS
    assert pixels.any()


def test_a_rejected_frame_ends_failed_with_its_reason(ingest):
    record = ingest.enter(WALL, "camera", NOW)
    with pytest.raises(FrameRejected) as caught:
        pixels = np.zeros((64, 64, 3), np.uint8)
        ingest.fill(record, view(4, 4, "x", 4, bytes(16)), FrameHeader(), pixels)
    ended = Ingest.end(record, FrameStatus.FAILED, str(caught.value))
    assert (ended.kind, ended.status) == (RecordKind.OUTCOME, FrameStatus.FAILED)
    assert ended.reason.startswith(b"encoding 'x' is not supported")
    assert (ended.sequence, ended.preprocessed_ns) == (0, 0)


def pointed_to(ingest, image, name=(7, 3)):
    header = FrameHeader()
    ingest.point_to(ingest.enter(WALL, "camera", NOW), image, header, name)
    return header


def test_a_slot_that_points_to_a_frame_has_the_facts_of_a_filled_one(ingest):
    image, filled = frame(scene(128, 96), "bgr8"), FrameHeader()
    ingest.fill(ingest.enter(WALL, "camera", NOW), image, filled, np.zeros((64, 64, 3), np.uint8))
    header = pointed_to(ingest, image)
    assert (filled.camera_source, filled.camera_number) == (0, 0)
    assert (header.camera_source, header.camera_number) == (7, 3)
    for name, _ in (*FrameFacts._fields_, *FrameHeader._fields_[1:]):
        if name not in ("sequence", "camera_source", "camera_number", "picture"):
            ours, theirs = getattr(header, name), getattr(filled, name)
            if hasattr(ours, "_length_"):
                ours, theirs = list(ours), list(theirs)
            assert ours == theirs, name


def test_the_same_picture_is_known_again_and_another_one_is_not(ingest):
    pictures = {pointed_to(ingest, frame(scene(128, 96), "bgr8")).picture for _ in range(3)}
    assert len(pictures) == 1 and 0 not in pictures
    other = scene(128, 96)
    other[40:60, 40:60] = 255 - other[40:60, 40:60]
    assert pointed_to(ingest, frame(other, "bgr8")).picture not in pictures


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (compressed("bayer_rggb8; jpeg", b"\xff\xd8\xff"), "preprocess_on:=cpu"),
        (frame(scene(64, 48), "mono16", bits=10), "preprocess_on:=cpu"),
        (frame(scene(64, 48), "bayer_grbg12", bits=10), "preprocess_on:=cpu"),
        (view(4, 4, "bgr8", 12, bytes(47)), "47 bytes are fewer than 4 rows"),
    ],
)
def test_what_could_not_be_read_in_place_is_rejected(ingest, image, reason):
    with pytest.raises(FrameRejected, match=reason):
        pointed_to(ingest, image)


@pytest.mark.parametrize("encoding", ["bgr8", "bgra8", "nv12"])
@pytest.mark.parametrize("size", [(1920, 1080), (640, 480), (1280, 720), (1440, 1080), (6, 2)])
def test_a_picture_is_known_by_all_its_columns_and_colours(ingest, size, encoding):
    """A picture that changes in a few columns, or in one colour, counts as another one."""
    width, height = size
    channels = {"bgr8": 3, "bgra8": 4, "nv12": 1}[encoding]
    rows = height * 3 // 2 if encoding == "nv12" else height
    first = np.zeros((rows, width, channels), np.uint8)
    picture = view(width, height, encoding, width * channels, first.tobytes())
    known = pointed_to(ingest, picture).picture
    for channel in range(channels):
        other = first.copy()
        other[:, : max(1, width // 50), channel] = 1
        image = view(width, height, encoding, width * channels, other.tobytes())
        assert pointed_to(ingest, image).picture != known
