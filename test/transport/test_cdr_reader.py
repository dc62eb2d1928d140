"""What is read of messages that rosbags' typestore wrote, whole and damaged."""

import struct
from contextlib import nullcontext

import pytest
from cdr_messages import (
    JPEG_MARK,
    camera_info,
    compressed,
    fast,
    frame_ids,
    image,
    names,
    serialize,
    sizes,
    stamps,
)
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.core.frame import FrameRejected
from perception_nodes.transport import cdr_reader
from perception_nodes.transport.cdr_writer import write_no_image

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
