"""Reading recorded drives, whole and damaged."""

import shutil
import sqlite3
import tempfile

import cv2
import lz4.frame
import numpy as np
import pytest
import yaml
import zstandard
from drives import (
    CAMERA,
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    PERIOD_NS,
    START_NS,
    serialized,
    write_mcap,
    write_ros1,
    write_ros2,
)
from mcap.writer import CompressionType
from rosbags.rosbag2 import CompressionMode

from perception_nodes.drives import decompression
from perception_nodes.drives.bag import BagError, open_drive
from perception_nodes.drives.decompression import decompress_file

FRAMES = 20


def check_whole(path, frames=FRAMES, kind=IMAGE):
    with open_drive(path) as drive:
        assert drive.message_type == kind
        assert drive.frame_count == frames
        assert drive.duration_ns == (frames - 1) * PERIOD_NS
        for _ in range(2):
            read = list(drive.frames())
            assert [frame.index for frame in read] == list(range(frames))
            times_ns = [frame.log_time_ns - START_NS for frame in read]
            assert times_ns == [i * PERIOD_NS for i in range(frames)]
            assert all(frame.data == serialized(kind, frame.index) for frame in read)
        assert drive.camera_info() == serialized(CAMERA_INFO, 0)
        assert drive.warnings == []


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags")
    kinds = ("mcap", "sqlite3")
    return {kind: write_ros2(folder / kind, storage=kind) for kind in kinds}


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("mode", [None, CompressionMode.FILE, CompressionMode.MESSAGE])
def test_a_folder_with_or_without_metadata_and_a_bare_file(tmp_path, storage, mode):
    folder = write_ros2(tmp_path / "bag", storage=storage, compress=mode)
    check_whole(folder)
    (folder / "metadata.yaml").unlink()
    check_whole(folder)
    check_whole(next(folder.iterdir()))


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_cut_off_zstd_file_is_not_taken_for_whole(tmp_path, share):
    """Also where the decompressor has given all that it can of what there is."""
    content = np.random.default_rng(0).bytes(3 << 20)
    packed = zstandard.compress(content[: 2 << 20]) + zstandard.compress(content[2 << 20 :])
    whole, cut, plain = (tmp_path / name for name in ("a.zstd", "b.zstd", "plain"))
    whole.write_bytes(packed)
    assert decompress_file(whole, plain) == ""
    assert plain.read_bytes() == content
    cut.write_bytes(packed[: int(len(packed) * share)])
    assert "it ends within a frame" in decompress_file(cut, plain)
    assert content.startswith(plain.read_bytes())


def test_a_file_that_would_fill_the_disk_is_refused_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(decompression, "ALWAYS_BYTES", 1 << 20)
    bomb = tmp_path / "bomb.mcap.zstd"
    bomb.write_bytes(zstandard.compress(bytes(64 << 20)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(BagError, match="bomb.mcap.zstd: it decompresses to more than 1 MiB"):
        open_drive(bomb)
    assert list(tmp_path.iterdir()) == [bomb]


@pytest.mark.parametrize("compression", [None, "bz2", "lz4"])
def test_ros1(tmp_path, compression):
    check_whole(write_ros1(tmp_path / "old.bag", FRAMES, compression))


def refused(bag):
    """The line with which a damaged ROS 1 bag is refused, when it is opened or read."""
    with pytest.raises(BagError) as refusal, open_drive(bag) as drive:
        list(drive.frames())
    line = str(refusal.value)
    assert str(bag) in line
    assert f"run `rosbag reindex {bag.name}`" in line
    assert "\n" not in line
    return line


@pytest.mark.parametrize("share", [0, 0.001, 0.4, 0.7, 0.95, 0.999])
def test_ros1_cut_off_is_refused(tmp_path, share):
    bag = write_ros1(tmp_path / "old.bag", FRAMES)
    data = bag.read_bytes()
    bag.write_bytes(data[: int(len(data) * share)])
    refused(bag)


def test_ros1_that_was_not_closed_is_refused(tmp_path):
    """The recorder notes at its end where the index is."""
    bag = write_ros1(tmp_path / "old.bag")
    data = bag.read_bytes()
    at = data.index(b"index_pos=") + len(b"index_pos=")
    bag.write_bytes(data[:at] + bytes(8) + data[at + 8 :])
    assert "not indexed" in refused(bag)


@pytest.mark.parametrize("compression", [None, "bz2", "lz4"])
def test_ros1_with_a_damaged_chunk_is_refused(tmp_path, compression):
    """The index is sound, so that it is found when frames are read."""
    bag = write_ros1(tmp_path / "old.bag", FRAMES, compression)
    data = bytearray(bag.read_bytes())
    # Lengths that lead out of the chunk, or what no compressor writes.
    at = data.index(b"op=\x02") if compression is None else 6000
    data[at - 40 : at + 40] = b"\xff" * 80
    bag.write_bytes(data)
    refused(bag)


@pytest.mark.parametrize("mode", ["file", "message"])
def test_lz4_as_of_a_plugin_of_rosbag2(bags, tmp_path, mode):
    """rosbag2 itself brings zstd; lz4 comes with plugins."""
    folder = tmp_path / "packed"
    shutil.copytree(bags["sqlite3"], folder)
    file = next(folder.glob("*.db3"))
    if mode == "file":
        file.with_name(file.name + ".lz4").write_bytes(lz4.frame.compress(file.read_bytes()))
        file.unlink()
    else:
        with sqlite3.connect(file) as database:
            rows = list(database.execute("SELECT id, data FROM messages"))
            packed = [(lz4.frame.compress(data), row) for row, data in rows]
            database.executemany("UPDATE messages SET data = ? WHERE id = ?", packed)
    metadata = folder / "metadata.yaml"
    told = yaml.safe_load(metadata.read_text())
    told["rosbag2_bagfile_information"] |= {"compression_format": "lz4", "compression_mode": mode}
    metadata.write_text(yaml.safe_dump(told))
    check_whole(folder)


@pytest.mark.parametrize("compression", [CompressionType.LZ4, CompressionType.ZSTD])
def test_mcap_with_compressed_chunks(tmp_path, compression):
    check_whole(write_mcap(tmp_path / "bag.mcap", range(FRAMES), compression=compression))


@pytest.mark.parametrize("named", [True, False])
def test_mcap_whose_summary_does_not_repeat_the_schemas(tmp_path, named):
    """The chunks have them; a channel without any has the type that the metadata names."""
    options = {"named": named, "repeat_schemas": False}
    file = write_mcap(tmp_path / "bag.mcap", range(FRAMES), {"/camera/image_raw": IMAGE}, **options)
    if not named:
        topic = {"topic_metadata": {"name": "/camera/image_raw", "type": IMAGE}}
        content = {"topics_with_message_count": [{**topic, "message_count": FRAMES}]}
        metadata = {"rosbag2_bagfile_information": {**content, "relative_file_paths": [file.name]}}
        (tmp_path / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    with open_drive(file if named else tmp_path) as drive:
        assert [f.data for f in drive.frames()] == [serialized(IMAGE, i) for i in range(FRAMES)]


def test_split(tmp_path):
    """Eleven files of one bag: the eleventh is behind the tenth, whatever their names sort like."""
    folder = tmp_path / "split"
    folder.mkdir()
    for part in range(11):
        write_mcap(folder / f"split_{part}.mcap", range(2 * part, 2 * part + 2))
    with open_drive(folder) as drive:
        assert drive.frame_count == 22
        assert [frame.data for frame in drive.frames()] == [serialized(IMAGE, i) for i in range(22)]
    next(folder.glob("split_4.mcap")).write_bytes(b"lost")
    with open_drive(folder) as drive:
        assert len(list(drive.frames())) == 20
        assert "split_4.mcap" in " ".join(drive.warnings)


def test_compressed_images_and_their_calibration(tmp_path):
    topics = {"/front/image_raw/compressed": COMPRESSED, "/front/camera_info": CAMERA_INFO}
    check_whole(write_ros2(tmp_path / "bag", topics), kind=COMPRESSED)


def test_no_calibration(tmp_path):
    topics = {"/front/image": IMAGE, "/rear/camera_info": CAMERA_INFO}
    with open_drive(write_ros2(tmp_path / "bag", topics, 2)) as drive:
        assert drive.camera_info() is None


def test_the_longest_image_topic_is_chosen_and_named(tmp_path):
    topics = {"/a": IMAGE, "/b": COMPRESSED, "/c": IMAGE}
    bag = write_ros2(tmp_path / "bag", topics, {"/a": 2, "/b": 4, "/c": 3})
    with open_drive(bag) as drive:
        assert (drive.topic, drive.frame_count) == ("/b", 4)
        assert "/b (4 frames) is used, not /a (2), /c (3)" in drive.warnings[0]
    with open_drive(bag, "/c") as drive:
        assert (drive.topic, drive.warnings) == ("/c", [])
    with open_drive(write_ros2(tmp_path / "equally", {"/a": COMPRESSED, "/b": IMAGE}, 2)) as drive:
        assert drive.topic == "/b", "a raw one"


@pytest.mark.parametrize(
    ("topics", "frames", "topic", "problem"),
    [
        (CAMERA, 2, "/camera/camera_info", "is a sensor_msgs/msg/CameraInfo, not an image"),
        (CAMERA, 2, "/nope", "is not in it; image topics: /camera/image_raw"),
        ({"/info": CAMERA_INFO}, 3, "", r"no image topic .*/info \(sensor_msgs"),
        (CAMERA, {"/camera/image_raw": 0, "/camera/camera_info": 1}, "", "no frame of /camera/im"),
    ],
)
def test_a_topic_without_frames_is_named(tmp_path, topics, frames, topic, problem):
    bag = write_ros2(tmp_path / "bag", topics, frames)
    with pytest.raises(BagError, match=problem):
        open_drive(bag, topic)


def test_not_bags(tmp_path):
    (tmp_path / "notes.txt").write_text("no bag")
    write_ros1(tmp_path / "old.bag", frames=0)
    for name, problem in (
        ("nope", "does not exist"),
        (
            "http://host/x.mp4",
            "does not exist; fetch it, or play it by `perception run source:=URL`",
        ),
        (".", r"no \.mcap or \.db3 file is in it"),
        ("notes.txt", "is not a bag, a video or a folder of images"),
        ("old.bag", r"old\.bag: it is empty"),
    ):
        with pytest.raises(BagError, match=problem):
            open_drive(tmp_path / name)


def test_a_video_without_frames_is_named(tmp_path, capfd):
    nothing, header = tmp_path / "nothing.mp4", tmp_path / "header.avi"
    nothing.write_bytes(b"")
    cv2.VideoWriter(str(header), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48)).release()
    assert cv2.VideoCapture(str(header)).isOpened()
    for video, said in ((nothing, " is an empty file"), (header, ": no frame can be decoded")):
        with pytest.raises(BagError, match=f"{video.name}{said}"):
            open_drive(video)
    assert capfd.readouterr().err == ""
