"""Damaged bags of ROS 2: what is lost is counted and named, and no more is lost than is damaged."""

import errno
import os
import shutil
import sqlite3
from unittest.mock import Mock

import lz4.frame
import numpy as np
import pytest
import yaml
import zstandard
from drives import IMAGE, PERIOD_NS, START_NS, serialized, write_mcap, write_ros2
from mcap.writer import CompressionType, IndexType
from rosbags.rosbag2 import CompressionMode

from perception_nodes.drives.bag import BagError, open_drive
from perception_nodes.drives.bag_file import Segment
from perception_nodes.drives.decompression import MAX_MESSAGE_BYTES, decompressed_message
from perception_nodes.drives.message_order import MAX_OPEN_BYTES, in_log_time_order

FRAMES = 40


NONE = {"compression": CompressionType.NONE}
NO_INDEX = {
    "index_types": IndexType.NONE,
    "use_statistics": False,
    "repeat_channels": False,
    "repeat_schemas": False,
    "use_summary_offsets": False,
}


COUNTED = {
    "mcap": {},
    "mcap, messages": {"compress": CompressionMode.MESSAGE},
    "mcap, file": {"compress": CompressionMode.FILE},
    "sqlite3": {"storage": "sqlite3"},
}
"""Their metadata states how many frames there were, whatever is damaged."""
FILES = {
    "mcap, chunks": NONE,
    "mcap, zstd": {},
    "mcap, lz4": {"compression": CompressionType.LZ4},
    "mcap, no chunks": {"use_chunking": False},
    "mcap, no index": {**NONE, **NO_INDEX},
}


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    at = tmp_path_factory.mktemp("bags")
    folders = {name: write_ros2(at / name, frames=FRAMES, **how) for name, how in COUNTED.items()}
    every = range(FRAMES)
    files = {name: write_mcap(at / f"{name}.mcap", every, **how) for name, how in FILES.items()}
    return {**folders, **files}


@pytest.fixture
def copy(bags, tmp_path):
    """A copy of a bag, and its data file, which a test may damage."""

    def make(name, number=0):
        source = bags[name]
        copied = tmp_path / f"{number}" / source.name
        copied.parent.mkdir()
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copied)
        if copied.is_file():
            return copied, copied
        return copied, next(f for f in copied.iterdir() if f.suffix != ".yaml")

    return make


def damage(data, random):
    """Cut it off, flip a bit, or zero 4 KB."""
    at = int(random.integers(len(data)))
    kind = random.choice(["cut", "flip", "zero"])
    if kind == "cut":
        del data[at:]
    elif kind == "flip":
        data[at] ^= 1 << int(random.integers(8))
    else:
        data[at : at + 4096] = bytes(len(data[at : at + 4096]))


def read(bag):
    """Numbers of the frames that come whole, how many come in all, and the drive after that."""
    with open_drive(bag) as drive:
        frames = list(drive.frames())
        again = [(frame.log_time_ns, frame.data) for frame in drive.frames()]
        assert again == [(frame.log_time_ns, frame.data) for frame in frames]
        assert [frame.index for frame in frames] == list(range(len(frames)))
        whole = []
        for frame in frames:
            number, rest = divmod(frame.log_time_ns - START_NS, PERIOD_NS)
            if rest == 0 and 0 <= number < FRAMES and frame.data == serialized(IMAGE, number):
                whole.append(number)
        return whole, len(frames), drive.lost, drive.warnings


def flip(file, at):
    """Flip a bit."""
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", [*COUNTED, *FILES])
def test_what_does_not_come_is_counted_and_named(copy, name):
    random = np.random.default_rng(7)
    for number in range(12):
        bag, file = copy(name, number)
        data = bytearray(file.read_bytes())
        damage(data, random)
        file.write_bytes(data)
        try:
            whole, count, lost, warnings = read(bag)
        except BagError as error:
            assert "\n" not in str(error)
            continue
        assert whole == sorted(set(whole)), "in order, and none twice"
        assert count + lost <= FRAMES
        if name in COUNTED:
            assert count + lost == FRAMES
        if count < FRAMES:
            assert warnings


@pytest.mark.parametrize("name", ["mcap", "mcap, file", "sqlite3"])
@pytest.mark.parametrize("share", [0.4, 0.77, 0.95, 0.999])
def test_of_a_file_that_is_cut_off_what_is_there_comes(copy, name, share):
    bag, file = copy(name)
    os.truncate(file, int(file.stat().st_size * share))
    whole, count, lost, warnings = read(bag)
    assert count >= 1 if name == "mcap, file" else count >= int(FRAMES * share) - 3
    assert (whole, count + lost) == (list(range(count)), FRAMES)
    assert warnings or count == FRAMES
    (bag / "metadata.yaml").unlink()
    assert read(file)[:2] == (whole, count)


def test_a_file_that_is_cut_off_before_the_first_frame_is_refused(copy):
    bag, file = copy("mcap")
    os.truncate(file, 500)
    with pytest.raises(BagError, match="not one message"):
        open_drive(bag)


@pytest.mark.parametrize(
    "name", ["mcap", "mcap, chunks", "mcap, no chunks", "mcap, no index", "sqlite3"]
)
def test_a_hole_of_4_kb_costs_the_chunk_or_the_frames_that_it_lies_in(copy, name):
    for number, share in enumerate((0.2, 0.5, 0.7)):
        bag, file = copy(name, number)
        at = int(file.stat().st_size * share)
        with file.open("r+b") as stream:
            stream.seek(at)
            stream.write(bytes(4096))
        whole, count, lost, _ = read(bag)
        # A chunk of these has five frames, a hole lies in two of them at most.
        assert len(whole) >= FRAMES - 10
        assert lost == FRAMES - count or name == "mcap, no index"


def test_one_flipped_bit_in_the_first_chunk_costs_that_chunk(copy):
    """The topics are described there, and in the summary."""
    bag, file = copy("mcap, chunks")
    flip(file, 10_000)
    whole, _, lost, warnings = read(bag)
    assert whole == list(range(lost, FRAMES))
    assert 0 < lost < 8
    assert "checksum differs" in " ".join(warnings)


@pytest.mark.parametrize("name", ["mcap, zstd", "mcap, chunks", "mcap, no chunks"])
def test_a_flipped_bit_in_the_index_costs_nothing(copy, name):
    for number, behind in enumerate((40, 120, 300)):
        bag, file = copy(name, number)
        flip(file, -behind)
        assert read(bag)[:3] == (list(range(FRAMES)), FRAMES, 0)


def test_bytes_that_are_gone_do_not_hide_what_the_index_tells(copy):
    bag, file = copy("mcap, zstd")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + data[len(data) // 2 + 900 :])
    _, count, lost, _ = read(bag)
    assert 0 < lost == FRAMES - count < 20


@pytest.mark.parametrize("name", ["mcap", "sqlite3"])
def test_sound_files_with_less_than_the_metadata_tells(copy, tmp_path, name):
    bag, file = copy(name)
    if name == "sqlite3":
        with sqlite3.connect(file) as database:
            database.execute("DELETE FROM messages WHERE id > 60")
    else:
        shutil.copy(next(write_ros2(tmp_path / "shorter", frames=30).glob("*.mcap")), file)
    whole, count, lost, warnings = read(bag)
    assert (whole, count, lost) == (list(range(30)), 30, 10)
    assert "10 of 40 frames are lost" in warnings[-1]


def test_a_log_time_before_1970_is_damage(copy):
    bag, file = copy("sqlite3")
    with sqlite3.connect(file) as database:
        database.execute("UPDATE messages SET timestamp = -5 WHERE id = 7")
    (bag / "metadata.yaml").unlink()
    whole, count, lost, warnings = read(bag)
    assert (count, lost, len(whole)) == (FRAMES - 1, 1, FRAMES - 1)
    assert any("1 messages have a log time before 1970, or none" in line for line in warnings)


def test_a_file_that_was_just_being_compressed_is_read_once(copy):
    bag, file = copy("mcap")
    (bag / "metadata.yaml").unlink()
    half = zstandard.compress(file.read_bytes())[: file.stat().st_size // 8]
    file.with_name(f"{file.name}.zstd").write_bytes(half)
    whole, count, lost, warnings = read(bag)
    assert (whole, count, lost) == (list(range(FRAMES)), FRAMES, 0)
    assert any(f"{file.name} lies beside it" in line for line in warnings)


def test_a_disk_that_is_gone_is_named(copy, monkeypatch):
    bag, _ = copy("mcap")

    with open_drive(bag) as drive:
        monkeypatch.setattr("os.pread", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
        with pytest.raises(BagError, match=f"{bag} cannot be read: Input/output error"):
            list(drive.frames())


def test_messages_in_a_journal_of_sqlite_are_read_and_left_as_they_are(copy, tmp_path):
    bag, file = copy("sqlite3")
    crashed = tmp_path / "crashed"
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    rows = list(database.execute("SELECT * FROM messages WHERE id > 40"))
    database.execute("DELETE FROM messages WHERE id > 40")
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.execute("PRAGMA wal_autocheckpoint=0")
    marks = ",".join("?" * len(rows[0]))
    database.executemany(f"INSERT INTO messages VALUES({marks})", rows)
    database.commit()
    shutil.copytree(bag, crashed)
    database.close()
    assert any(f.name.endswith("-wal") and f.stat().st_size for f in crashed.iterdir())
    before = {f.name: f.read_bytes() for f in crashed.iterdir()}
    assert read(crashed) == (list(range(FRAMES)), FRAMES, 0, [])
    assert {f.name: f.read_bytes() for f in crashed.iterdir()} == before


@pytest.mark.parametrize("options", [{"use_chunking": False}, {**NONE, **NO_INDEX}, {}, NONE])
@pytest.mark.parametrize("order", [[i ^ 1 for i in range(FRAMES)], list(range(FRAMES))[::-1]])
def test_log_times_out_of_order_are_put_in_order(tmp_path, options, order):
    file = write_mcap(tmp_path / "bag.mcap", order, **options)
    assert read(file) == (list(range(FRAMES)), FRAMES, 0, [])


def test_records_of_an_application_are_no_damage(copy):
    bag, file = copy("mcap, no index")
    data = file.read_bytes()
    at = 8 + 9 + int.from_bytes(data[9:17], "little")  # behind the magic and the header
    record = b"\x80" + (5).to_bytes(8, "little") + b"hello"
    file.write_bytes(data[:at] + record + data[at:])
    assert read(bag) == (list(range(FRAMES)), FRAMES, 0, [])


def test_more_disorder_than_memory_holds_is_noted():
    """Each segment begins with a message from long ago, so that all would be open at once."""
    size = MAX_OPEN_BYTES // 4

    def segment(number):
        return Segment(0, size, lambda: iter([(0, "t", b""), (number, "t", bytes([number]))]))

    noted = []
    given = list(in_log_time_order([segment(n) for n in range(1, 20)], lambda: noted.append(1)))
    assert sorted(time for time, _, _ in given) == [0] * 19 + list(range(1, 20))
    assert noted


def test_a_file_without_messages_does_not_hide_the_other_parts(tmp_path):
    folder = tmp_path / "bag"
    folder.mkdir()
    (folder / "bag_0.db3").write_bytes(b"")
    whole = write_ros2(tmp_path / "b", frames=FRAMES, storage="sqlite3")
    shutil.copy(next(whole.glob("*.db3")), folder / "bag_1.db3")
    whole, _, _, warnings = read(folder)
    assert whole == list(range(FRAMES))
    assert "bag_0.db3" in " ".join(warnings)


@pytest.mark.parametrize("name", ["a#b", "a?b", "50% x", "q&mode=ro"])
def test_odd_paths(tmp_path, name):
    bag = write_ros2(tmp_path / "bag", frames=FRAMES, storage="sqlite3")
    (tmp_path / name).mkdir()
    bag = bag.rename(tmp_path / name / "bag")
    assert read(bag) == (list(range(FRAMES)), FRAMES, 0, [])


def test_files_that_the_metadata_does_not_name_are_not_read(copy):
    bag, file = copy("mcap")
    shutil.copy(file, file.with_name(f"copy of {file.name}"))
    whole, count, _, warnings = read(bag)
    assert (whole, count) == (list(range(FRAMES)), FRAMES)
    assert "does not name it" in " ".join(warnings)


def test_an_unknown_loss_is_not_told_as_none(copy):
    bag, file = copy("mcap, zstd")
    os.truncate(file, file.stat().st_size // 2)
    _, count, lost, warnings = read(bag)
    assert count < FRAMES
    assert lost == 0
    assert "how many more frames are lost is not known" in warnings[-1]


def test_a_message_that_decompresses_to_more_than_any_image_stays_compressed():
    small = serialized(IMAGE, 0)
    for packer in (zstandard.ZstdCompressor().compress, lz4.frame.compress):
        assert decompressed_message(packer(small)) == small
        bomb = packer(bytes(MAX_MESSAGE_BYTES + 1))
        assert decompressed_message(bomb) is bomb


def test_metadata_of_any_content_is_met_with_frames(copy):
    bag, _ = copy("mcap")
    file = bag / "metadata.yaml"
    told = yaml.safe_load(file.read_text())
    for wrong in (
        {"relative_file_paths": 3},
        {"relative_file_paths": ["../../x.mcap"]},
        {"topics_with_message_count": [3, {"topic_metadata": None}]},
        {"topics_with_message_count": "text"},
    ):
        changed = {"rosbag2_bagfile_information": told["rosbag2_bagfile_information"] | wrong}
        file.write_text(yaml.safe_dump(changed))
        assert read(bag)[0] == list(range(FRAMES))
    for text in ("", "[" * 5000, "a: b", "\x00", "rosbag2_bagfile_information: 3"):
        file.write_text(text)
        whole, _, _, warnings = read(bag)
        assert whole == list(range(FRAMES))
        assert "metadata.yaml" in " ".join(warnings)
