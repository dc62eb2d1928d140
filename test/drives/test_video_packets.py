"""Recorded video packets: each is a frame of the drive, with its picture or its reason."""

import numpy as np
import pytest
from commands import replay
from drives import CAMERA_INFO, PERIOD_NS, START_NS, serialized
from rosbags.rosbag2 import StoragePlugin, Writer
from videos import KEY_EVERY, packets

from perception_nodes.core.frame import FrameRejected
from perception_nodes.drives.bag import open_drive
from perception_nodes.drives.schemas import COMPRESSED_VIDEO, FFMPEG_PACKET, IMAGE, typestore
from perception_nodes.report.recording import read_recording
from perception_nodes.transport.cdr_reader import read_image

CODECS = {
    COMPRESSED_VIDEO: {"h264": "h264", "h265": "h265"},
    FFMPEG_PACKET: {"h264": "h264;yuv420p;bgr8;bgr8", "h265": "hevc_nvenc"},
}
FRAMES = 20


def message(kind, index, packet, codec):
    types = typestore().types
    time = types["builtin_interfaces/msg/Time"](*divmod(START_NS + index * PERIOD_NS, 10**9))
    data = np.frombuffer(packet, np.uint8)
    if kind == COMPRESSED_VIDEO:
        made = types[kind](time, "optical", data, codec)
    else:
        header = types["std_msgs/msg/Header"](time, "optical")
        made = types[kind](header, 96, 64, codec, index, 0, False, data)
    return bytes(typestore().serialize_cdr(made, kind))


def write_video(path, kind, codec, stream, storage=StoragePlugin.MCAP):
    """A bag with a topic of video; None in the stream is a packet that was not recorded."""
    topics = {"/camera/image_raw/ffmpeg": kind, "/camera/camera_info": CAMERA_INFO}
    with Writer(path, version=9, storage_plugin=storage) as writer:
        both = topics.items()
        images, infos = (writer.add_connection(t, one, typestore=typestore()) for t, one in both)
        for index, packet in enumerate(stream):
            if packet is not None:
                log_time_ns = START_NS + index * PERIOD_NS
                writer.write(infos, log_time_ns, serialized(CAMERA_INFO, index))
                writer.write(images, log_time_ns, message(kind, index, packet, codec))
    return path


def read(path):
    """For each frame of a drive: stamp and luma, or the reason why there is no picture."""
    found = []
    with open_drive(path) as drive:
        assert drive.message_type == IMAGE
        for frame in drive.frames():
            assert frame.camera_info is not None
            try:
                view = read_image(frame.data)
                assert (view.encoding, view.frame_id) == ("nv12", "optical")
                found.append((view.stamp_ns, bytes(view.data)))
            except FrameRejected as error:
                found.append(str(error))
    return found


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize("kind", CODECS)
def test_packets_are_frames(kind, codec, storage, tmp_path):
    path = write_video(tmp_path / "bag", kind, CODECS[kind][codec], packets(codec), storage)
    found = read(path)
    stamps = [START_NS + index * PERIOD_NS for index in range(FRAMES)]
    assert [stamp_ns for stamp_ns, _ in found] == stamps
    assert len({luma for _, luma in found}) == FRAMES
    assert read(path) == found, "a drive may be read again"


def test_a_codec_that_is_not_decoded_is_named(tmp_path):
    path = write_video(tmp_path / "bag", COMPRESSED_VIDEO, "av1", packets("h264"))
    assert set(read(path)) == {"video in 'av1' is not supported; encode it in H.264 or H.265"}


def test_replay_accounts_for_each_packet(tmp_path):
    stream = list(packets("h264"))[3:]
    first = KEY_EVERY - 3
    stream[first + 3] = None
    bag, out = write_video(tmp_path / "bag", COMPRESSED_VIDEO, "h264", stream), tmp_path / "out"
    summary = replay(bag, "--out", out, "--backend", "null")
    assert summary["frames_in"] == len(stream) - 1 == sum(summary["status"].values())
    reports = read_recording(out / "detections.mcap", by_number=True).reports
    reasons = [report.reason for report in reports]
    assert [bool(reason) for reason in reasons] == [True] * first + [False] * 3 + [True] * 4 + (
        [False] * (len(stream) - first - KEY_EVERY)
    )
    assert set(reasons[:first]) == {"h264: decoding starts at a key frame, and none has come yet"}
    lost = "a packet before this one is missing"
    assert reasons[first + 3] == f"h264: {lost}"
    assert set(reasons[first + 4 : first + 7]) == {f"h264: a key frame is awaited since: {lost}"}


def test_a_part_of_the_frames_can_be_replayed(tmp_path):
    bag = write_video(tmp_path / "bag", COMPRESSED_VIDEO, "h264", packets("h264"))
    summary = replay(bag, "--out", tmp_path / "out", "--backend", "null", "--every", 3)
    assert summary["status"]["FAILED"] == 0
    assert summary["frames_in"] == 7
