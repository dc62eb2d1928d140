"""What is written, against rosbags' typestore, which knows the messages from their definitions."""

import numpy as np
import pytest
from cdr_messages import (
    STORE,
    camera_info,
    compressed,
    fast,
    header,
    image,
    names,
    serialize,
    sizes,
    stamps,
    time_of,
)
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.core.frame import (
    STAMPS,
    Detections,
    FrameFlag,
    FrameRecord,
    FrameStatus,
    ImageView,
)
from perception_nodes.drives.schemas import DETECTIONS, FRAME_REPORT
from perception_nodes.tracking import motion
from perception_nodes.tracking.tracks import Tracks
from perception_nodes.transport import cdr_writer
from perception_nodes.transport.cdr_reader import read_stamp


@fast
@given(stamps, names, sizes, sizes, names, st.binary(max_size=64))
def test_images_are_written_as_the_typestore_does(stamp_ns, frame_id, width, height, name, data):
    view = ImageView(stamp_ns, frame_id, width, height, name, 3 * width, memoryview(data))
    assert cdr_writer.write_image(view) == serialize(
        image(stamp_ns, frame_id, width, height, name, data)
    )
    written = cdr_writer.write_compressed_image(stamp_ns, frame_id, name, memoryview(data))
    assert written == serialize(compressed(stamp_ns, frame_id, name, data))


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize(
    "message", [image(), compressed(), camera_info()], ids=lambda m: m.__msgtype__
)
def test_every_stamped_message_can_be_given_another_stamp(message, little_endian):
    data = cdr_writer.stamped(serialize(message, little_endian), 7 * 10**9 + 3)
    assert read_stamp(data) == 7 * 10**9 + 3
    assert len(data) == len(serialize(message, little_endian))
    assert cdr_writer.stamped(data, 5) == serialize(message, little_endian)


boxes = st.tuples(*[st.floats(0, 4096, width=32)] * 4)
ids = st.one_of(st.just(0), st.integers(0, 2**63))
objects = st.tuples(boxes, st.floats(0, 1, width=32), st.integers(0, 2), ids)


@fast
@given(stamps, names, st.lists(objects, max_size=20), st.booleans())
def test_detection_array(stamp_ns, frame_id, found, followed):
    classes = ["person", "bus", "traffic light"]
    detections = Detections(
        np.array([box for box, *_ in found], np.float32).reshape(-1, 4),
        np.array([score for _, score, *_ in found], np.float32),
        np.array([label for _, _, label, _ in found], np.int64),
    )
    data = cdr_writer.write_detection_array(
        stamp_ns,
        frame_id.encode(),
        detections,
        tuple(name.encode() for name in classes),
        [number for *_, number in found] if followed else (),
    )
    message = STORE.deserialize_cdr(data, DETECTIONS)
    assert message.header == header(stamp_ns, frame_id)
    assert len(message.detections) == len(found)
    for got, (box, score, label, number) in zip(message.detections, found, strict=True):
        assert got.header == message.header
        assert got.id == (str(number) if followed and number else "")
        assert got.results[0].hypothesis.class_id == classes[label]
        assert got.results[0].hypothesis.score == score
        assert got.results[0].pose.pose.orientation.w == 1
        assert not got.results[0].pose.covariance.any()
        x1, y1, x2, y2 = box
        centre = got.bbox.center.position
        assert (centre.x, centre.y) == ((x1 + x2) / 2, (y1 + y2) / 2)
        assert (got.bbox.size_x, got.bbox.size_y) == (x2 - x1, y2 - y1)
    # The oracle writes the very same bytes, padding included.
    assert bytes(STORE.serialize_cdr(message, DETECTIONS)) == data


def short_text(size):
    """Texts whose UTF-8 fits a C string of so many bytes."""
    return names.map(str.encode).filter(lambda text: len(text) < size)


@fast
@given(
    stamps,
    short_text(32),
    short_text(64),
    short_text(128),
    st.sampled_from(FrameStatus),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=7, max_size=7),
    st.booleans(),
)
def test_frame_report(stamp_ns, camera, frame_id, reason, status, sequence, times, suspect):
    record = FrameRecord(
        stamp_ns=stamp_ns,
        sequence=sequence,
        status=status,
        camera=camera,
        frame_id=frame_id,
        model=b"road-n",
        reason=reason,
        flags=FrameFlag.RECTIFIED | (FrameFlag.CLOCK_SUSPECT if suspect else 0),
        source_width=1920,
        source_height=1080,
        copies=1,
        detections=7,
        incarnation=2**64 - 1 - sequence,
        report_number=2**40,
        lost_after_ns=stamp_ns,
        deadline_ns=times[-1],
        **dict(zip(STAMPS, times, strict=False)),
    )
    data = cdr_writer.write_frame_report(record)
    message = STORE.deserialize_cdr(data, FRAME_REPORT)
    assert message.header == header(stamp_ns, frame_id.decode())
    assert (message.camera, message.reason) == (camera.decode(), reason.decode())
    assert (message.model, message.status, message.sequence) == ("road-n", status, sequence)
    assert message.clock_suspect == suspect
    assert (message.source_width, message.source_height) == (1920, 1080)
    assert (message.copies, message.detections, message.deadline_ns) == (1, 7, times[-1])
    assert [getattr(message, name) for name in STAMPS] == times[:6]
    assert (message.incarnation, message.report_number) == (2**64 - 1 - sequence, 2**40)
    assert (message.lost_after, message.lost_before) == (time_of(stamp_ns), time_of(0))
    assert bytes(STORE.serialize_cdr(message, FRAME_REPORT)) == data


def test_durations_are_for_plots_and_no_numbers_where_there_are_none():
    record = FrameRecord(capture_ns=1_000_000, ingested_ns=3_500_000, published_ns=9_000_000)
    message = STORE.deserialize_cdr(cdr_writer.write_frame_report(record), FRAME_REPORT)
    assert message.latency_ms == 8
    np.testing.assert_array_equal(message.stage_ms, [2.5, *[np.nan] * 4])
    lost = STORE.deserialize_cdr(cdr_writer.write_frame_report(FrameRecord()), FRAME_REPORT)
    assert np.isnan(lost.latency_ms) and len(lost.looks) == 0


def test_second_looks_are_shown_within_the_frame_and_belong_to_no_stage():
    record = FrameRecord(inferred_ns=1_000_000, postprocessed_ns=9_000_000)
    record.source_width, record.source_height = 1242, 200
    record.add_look((826, -28), (416, 256), 3.5)
    record.add_look((900, 0), (416, 256), 4.0)
    message = STORE.deserialize_cdr(cdr_writer.write_frame_report(record), FRAME_REPORT)
    shown = [(one.x_offset, one.y_offset, one.width, one.height) for one in message.looks]
    assert shown == [(826, 0, 416, 200), (900, 0, 342, 200)]
    assert [one.cost_ms for one in message.looks] == [3.5, 4.0]
    assert message.stage_ms[3] == 0.5


def test_counts_beyond_their_field_are_clipped():
    data = cdr_writer.write_frame_report(FrameRecord(copies=300, detections=70_000))
    message = STORE.deserialize_cdr(data, FRAME_REPORT)
    assert (message.copies, message.detections) == (255, 65535)


def test_a_text_cut_within_a_character_is_still_text():
    cut = "Straße".encode()[:5]
    message = STORE.deserialize_cdr(
        cdr_writer.write_frame_report(FrameRecord(reason=cut)), FRAME_REPORT
    )
    assert message.reason == "Stra"


@fast
@given(stamp_ns=stamps, frame_id=names, reason=names, n=st.integers(0, 40), coasted=st.booleans())
def test_tracks_are_what_rosbags_reads(stamp_ns, frame_id, reason, n, coasted):
    random = np.random.default_rng(n)
    tracks = Tracks(
        stamp_ns,
        123_000_000,
        4,
        reason,
        np.arange(1, n + 1, dtype=np.uint64) * 10**12,
        random.integers(0, 3, n).astype(np.uint8),
        random.integers(0, 2, n),
        random.random(n),
        random.random((n, 6, 4)),
        random.random(n),
        random.random(n),
        random.integers(0, 9, n).astype(np.uint32),
        random.integers(0, 9, n).astype(np.uint32),
    )
    record = FrameRecord(sequence=2**40, stamp_ns=stamp_ns // 2, status=FrameStatus.LATE)
    record.frame_id = frame_id.encode()[:60]
    data = cdr_writer.write_tracks(record, "rear", tracks, [b"car", b"traffic light"], coasted)
    message = STORE.deserialize_cdr(data, "perception_interfaces/msg/Tracks")
    assert message.header.stamp == time_of(stamp_ns // 2)
    assert message.predicted_to == time_of(stamp_ns)
    assert (message.camera, message.sequence, message.status) == ("rear", 2**40, FrameStatus.LATE)
    assert (message.coasted, message.reason, message.frames_without) == (coasted, reason, 4)
    assert message.gap_s == np.float32(0.123)
    assert [one.id for one in message.tracks] == tracks.ids.tolist()
    fields = {
        "box": motion.BOX,
        "velocity": motion.VELOCITY,
        "box_variance": motion.BOX_VARIANCE,
        "box_velocity_covariance": motion.COVARIANCE,
        "velocity_variance": motion.VELOCITY_VARIANCE,
    }
    for row, one in enumerate(message.tracks):
        for name, index in fields.items():
            np.testing.assert_array_equal(
                getattr(one, name), tracks.filters[row, index].astype(np.float32)
            )
        assert one.class_id == ["car", "traffic light"][tracks.classes[row]]
        assert (one.state, one.hits, one.misses) == (
            tracks.states[row],
            tracks.hits[row],
            tracks.misses[row],
        )
        assert one.score == np.float32(tracks.scores[row])
        assert one.age_s == np.float32(tracks.age_s[row])
        assert one.unseen_s == np.float32(tracks.unseen_s[row])
