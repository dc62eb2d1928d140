"""What is written and read, against rosbags' typestore, which knows the messages' definitions."""

import struct
from contextlib import nullcontext

import numpy as np
import pytest
from cdr_messages import (
    JPEG_MARK,
    STORE,
    camera_info,
    compressed,
    fast,
    frame_ids,
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
from made_detections import detected

from perception_nodes.core.frame import (
    STAMPS,
    FrameFlag,
    FrameRecord,
    FrameRejected,
    FrameStatus,
    ImageView,
)
from perception_nodes.drives.schemas import DETECTIONS, FRAME_REPORT
from perception_nodes.tracking import motion
from perception_nodes.tracking.tracks import Tracks
from perception_nodes.transport import cdr_reader, cdr_writer
from perception_nodes.transport.cdr_reader import read_stamp
from perception_nodes.transport.cdr_writer import write_no_image


@fast
@given(stamps, names, sizes, sizes, names, st.binary(max_size=64))
def test_images_are_written_as_the_typestore_does(stamp_ns, frame_id, width, height, name, data):
    view = ImageView(stamp_ns, frame_id, width, height, name, 3 * width, memoryview(data))
    message = image(stamp_ns, frame_id, width, height, name, data)
    assert cdr_writer.write_image(view) == serialize(message)
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
    boxes, scores, labels, _ = zip(*found, strict=True) if found else ((), (), (), ())
    data = cdr_writer.write_detection_array(
        stamp_ns,
        frame_id.encode(),
        detected(boxes, scores, labels),
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
        model=b"open-n",
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
    assert (message.model, message.status, message.sequence) == ("open-n", status, sequence)
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
    written = cdr_writer.write_frame_report(FrameRecord(reason=cut))
    message = STORE.deserialize_cdr(written, FRAME_REPORT)
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
            values = tracks.filters[row, index].astype(np.float32)
            np.testing.assert_array_equal(getattr(one, name), values)
        assert one.class_id == ["car", "traffic light"][tracks.classes[row]]
        assert one.state == tracks.states[row]
        assert (one.hits, one.misses) == (tracks.hits[row], tracks.misses[row])
        assert one.score == np.float32(tracks.scores[row])
        assert one.age_s == np.float32(tracks.age_s[row])
        assert one.unseen_s == np.float32(tracks.unseen_s[row])


READERS = {
    "sensor_msgs/msg/Image": cdr_reader.read_image,
    "sensor_msgs/msg/CompressedImage": cdr_reader.read_compressed_image,
    "sensor_msgs/msg/CameraInfo": cdr_reader.read_camera_info,
}


@fast
@given(stamps, frame_ids, sizes, sizes, st.binary(max_size=64), st.booleans())
def test_image(stamp_ns, frame_id, width, height, data, little_endian):
    message = image(stamp_ns, frame_id, width, height, data=data)
    view = cdr_reader.read_image(serialize(message, little_endian))
    assert (view.stamp_ns, view.frame_id) == (stamp_ns, frame_id)
    assert (view.width, view.height, view.step) == (width, height, width * 3)
    assert (view.encoding, bytes(view.data)) == ("bgr8", data)


def test_a_frame_id_that_detections_could_not_repeat_is_refused():
    with pytest.raises(FrameRejected, match="a frame_id of 90 bytes, at most 63"):
        cdr_reader.read_image(serialize(image(0, 30 * "äx", 4, 4), True))


@fast
@given(stamps, frame_ids, names, st.binary(max_size=64), st.booleans())
def test_compressed_image(stamp_ns, frame_id, name, data, little_endian):
    message = compressed(stamp_ns, frame_id, name, JPEG_MARK + data)
    view = cdr_reader.read_compressed_image(serialize(message, little_endian))
    assert (view.stamp_ns, view.frame_id, view.encoding) == (stamp_ns, frame_id, "jpeg")
    assert bytes(view.data) == JPEG_MARK + data


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("bayer_rggb8; jpeg compressed ", "bayer_rggb8; jpeg"),
        ("bayer_GBRG16;png compressed", "bayer_gbrg16; jpeg"),
        ("mono8; jpeg compressed ", "jpeg"),
        ("bgr8; jpeg compressed bgr8", "jpeg"),
        ("bayer_rggb8", "jpeg"),
        (f"bayer_rggb{9 * '8'}; jpeg", "jpeg"),
    ],
)
def test_a_mosaic_in_a_compressed_image_is_known_by_its_format_alone(name, encoding):
    view = cdr_reader.read_compressed_image(serialize(compressed(name=name)))
    assert view.encoding == encoding
    assert (view.file_type, view.mosaic) == ("jpeg", encoding.removesuffix("jpeg").rstrip("; "))


@fast
@given(names, st.lists(st.floats(allow_nan=False), max_size=14), st.booleans())
def test_camera_info(model, distortion, little_endian):
    message = camera_info(model=model, distortion=distortion)
    message.binning_x, message.binning_y = 2, 3
    message.roi.x_offset, message.roi.y_offset = 4, 5
    message.roi.width, message.roi.height = 6, 7
    info = cdr_reader.read_camera_info(serialize(message, little_endian))
    assert (info.binning, info.region) == ((2, 3), (4, 5, 6, 7))
    assert (info.width, info.height, info.model) == (640, 480, model)
    assert info.distortion == tuple(distortion)
    assert info.matrix == tuple(range(9))


def test_pixels_are_not_copied():
    data = bytearray(serialize(image()))
    view = cdr_reader.read_image(data)
    data[-1] = 99
    assert view.data[-1] == 99


@pytest.mark.parametrize(
    "message", [image(), compressed(), camera_info()], ids=lambda m: m.__msgtype__
)
@pytest.mark.parametrize("little_endian", [True, False])
def test_every_truncation_is_rejected_or_needs_no_more(message, little_endian):
    read = READERS[message.__msgtype__]
    data = serialize(message, little_endian)
    whole = read(data)
    for size in range(len(data)):
        try:
            # A CameraInfo may lack its last byte, do_rectify, which is not read.
            assert read(data[:size]) == whole
        except FrameRejected as error:
            assert message.__msgtype__.rpartition("/")[2] in str(error)


def test_a_stamp_that_no_message_can_have_is_rejected():
    data = bytearray(serialize(image()))
    data[4:12] = struct.pack("<iI", 2**31 - 1, 2**32 - 1)
    for read in (cdr_reader.read_image, cdr_reader.read_stamp):
        with pytest.raises(FrameRejected, match="a stamp of 4294967295 nanoseconds is none"):
            read(data)


@pytest.mark.parametrize("encoding", ["mono16", "bayer_rggb12", "16UC1", "mono12", "nv12"])
def test_deep_samples_with_the_most_significant_byte_first_are_rejected(encoding):
    message = image(encoding=encoding)
    message.is_bigendian = 1
    is_read = encoding == "nv12"
    with nullcontext() if is_read else pytest.raises(FrameRejected, match="swap the bytes"):
        assert cdr_reader.read_image(serialize(message)).encoding == encoding


@pytest.mark.parametrize(
    ("message", "read"),
    [(image, cdr_reader.read_image), (compressed, cdr_reader.read_compressed_image)],
)
def test_a_descriptor_in_the_place_of_the_bytes_is_rejected(message, read):
    """As written by `serialize_buffer_with_endpoint` of rosidl_typesupport_fastrtps_cpp 3.10."""
    empty = serialize(message(data=b""))[: -len(struct.pack("<I", 0))]
    backend = struct.pack("<I", 5) + b"cuda\0"
    data = empty + struct.pack("<2I", 0xFFFF_FFFF, 0x524F_5332) + backend + bytes(67)
    with pytest.raises(FrameRejected, match="in the memory of 'cuda'.* publish them from CPU"):
        read(data)


@pytest.mark.parametrize(
    "message", [image(7, "cam", width=0), compressed(7, "cam", data=b"GIF")], ids=type
)
def test_the_header_of_an_image_that_cannot_be_read_is_read(message):
    assert cdr_reader.read_header(serialize(message)) == (7, "cam")


def test_of_a_header_that_cannot_be_read_there_is_what_can():
    data = serialize(image(7, "cam"))
    assert cdr_reader.read_header(data[:11]) == (0, "")
    assert cdr_reader.read_header(data[:12]) == (7, "")
    assert cdr_reader.read_header(serialize(image(7, "x" * 64))) == (7, "")


def test_an_image_without_a_picture_is_rejected_with_its_reason():
    with pytest.raises(FrameRejected, match=r"^lost\.$"):
        cdr_reader.read_image(write_no_image(7, "cam", "lost."))
    with pytest.raises(FrameRejected, match="^Image: size 0x0 is outside"):
        cdr_reader.read_image(serialize(image(width=0, height=0, data=b"")))
    with pytest.raises(FrameRejected, match="neither JPEG nor PNG"):
        cdr_reader.read_compressed_image(serialize(compressed(data=b"GIF89a")))
