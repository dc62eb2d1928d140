"""`perception replay` as a whole: lockstep, real time, second looks, inputs, golden, labels."""

import csv
import hashlib
import io
import json
import shutil
import signal
import struct
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace as replaced

import cv2
import numpy as np
import pytest
from commands import replay, unusable
from drives import (
    COMPRESSED,
    IMAGE,
    PERIOD_NS,
    START_NS,
    STORE,
    message,
    write_labels,
    write_ros1,
    write_ros2,
)
from mcap.reader import make_reader
from observe import until
from rich.console import Console
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from typer.testing import CliRunner

from perception_nodes.cli.app import app
from perception_nodes.core.frame import STAMPS, Detections, FrameHeader
from perception_nodes.drives.bag import open_drive
from perception_nodes.drives.schemas import DETECTIONS, TRACKS, typestore
from perception_nodes.evaluation.datasets import read_set
from perception_nodes.networks.model import load_model
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.replay.accuracy import accuracy
from perception_nodes.replay.clocks import LockstepClock, RealTimeClock
from perception_nodes.replay.compare import comparison_table
from perception_nodes.report.annotate import PictureMaker
from perception_nodes.report.recording import DETECTIONS_TOPIC, FRAME_REPORT_TOPIC, read_recording
from perception_nodes.transport.cdr_reader import read_image
from perception_nodes.transport.cdr_writer import write_detection_array

FRAMES = 6
OUTPUTS = ["detections.mcap", "overview.png", "report.html", "summary.json", "timing.csv"]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def street(root):
    """A drive with objects in it."""
    return root / "bags/sample_sqlite3"


@pytest.fixture
def small(tmp_path):
    """A short drive of noise."""
    return write_ros2(tmp_path / "drive", frames=FRAMES)


# Lockstep


def test_two_runs_write_the_same_bytes(street, tmp_path):
    summaries = [replay(street, "--out", tmp_path / name, status=0) for name in ("one", "two")]
    files = [tmp_path / name / "detections.mcap" for name in ("one", "two")]
    assert sha256(files[0]) == sha256(files[1]) == summaries[0]["detections_sha256"]
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == OUTPUTS
    assert summaries[0]["frames_in"] == summaries[0]["status"]["OK"] == 60
    assert summaries[0]["detections"] > 0


@pytest.mark.parametrize("clock", [LockstepClock, RealTimeClock])
def test_a_frame_without_an_outcome_is_no_success(street, tmp_path, monkeypatch, clock):
    played, mode = clock.outcomes, "lockstep" if clock is LockstepClock else "realtime"

    def outcomes(self, frames):
        with closing(played(self, frames)) as each:
            yield from (one for one in each if one.frame.index != 1)

    monkeypatch.setattr(clock, "outcomes", outcomes)
    options = "--frames", 4, "--no-pictures", "--mode", mode
    summary = replay(street, "--out", tmp_path / "out", *options, status=1)
    assert summary["unaccounted"] == {"frames without a report": 1}
    page = (tmp_path / "out/report.html").read_text()
    assert "Not all is accounted for (frames without a report: 1)" in page


def test_time_stands_still_and_work_is_measured_apart(small, tmp_path):
    summary = replay(small, "--out", tmp_path / "out", "--backend", "null", status=1)
    reports = read_recording(tmp_path / "out/detections.mcap").reports
    stamps_ns = [report.stamp_ns - START_NS for report in reports]
    assert stamps_ns == [index * PERIOD_NS for index in range(FRAMES)]
    for report in reports:
        assert {getattr(report, name) for name in STAMPS} == {report.stamp_ns}
        assert report.deadline_ns - report.capture_ns == 10_000_000
        assert not report.clock_suspect
    assert summary["latency_ms"]["p50"] > 0
    with (tmp_path / "out/timing.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["frame"]) for row in rows] == list(range(FRAMES))
    for row in rows:
        stages = sum(float(row[f"{stage}_ms"]) for stage in ("ingest", "preprocess", "inference"))
        assert 0 < stages <= float(row["total_ms"])


@pytest.mark.parametrize("mode", ["lockstep", "realtime"])
def test_pictures_are_as_bright_as_what_the_model_sees(tmp_path, mode):
    """1000 of 4095, where the bits that are needed would make it 1000 of 1023."""
    with Rosbag2Writer(tmp_path / "d", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/camera/image_raw", IMAGE, typestore=STORE)
        one = message(IMAGE, 0)
        one.encoding, one.step = "mono16", 64 * 2
        one.data = np.full(64 * 48, 1000, "<u2").view(np.uint8)
        writer.write(connection, START_NS, bytes(STORE.serialize_cdr(one, IMAGE)))
    options = ("--backend", "null", "--sample-bits", 12, "--mode", mode)
    for format_, topic in (
        ("jpeg", "/camera/image/compressed"),
        ("h264", "/camera/image/foxglove"),
    ):
        out = tmp_path / format_
        replay(tmp_path / "d", "--out", out, *options, "--picture-format", format_)
        with open_drive(out / "detections.mcap", topic) as drive:
            picture, _ = PictureMaker().of(drive.read(next(drive.frames()).data))
        assert picture.mean() == pytest.approx(255 * 1000 / 4095, abs=3)


def test_each_frame_has_its_tracks_and_they_are_the_same_again(street, tmp_path):
    arguments = ("--tracks", "--no-pictures", "--frames", 40)
    first, second = (replay(street, "--out", tmp_path / n, *arguments) for n in ("one", "two"))
    assert first["detections_sha256"] == second["detections_sha256"]
    assert first["objects_followed"] > 0
    with (tmp_path / "one/detections.mcap").open("rb") as stream:
        messages = [
            typestore().deserialize_cdr(one.data, TRACKS)
            for _, _, one in make_reader(stream).iter_messages(topics=["/perception/tracks"])
        ]
    assert [message.sequence for message in messages] == list(range(40))
    assert not any(message.coasted or message.frames_without for message in messages)
    seen = {track.id for message in messages for track in message.tracks if track.hits > 1}
    assert len(seen) == first["objects_followed"]


def test_a_recording_that_keeps_the_pictures_as_video_replays_again(small, tmp_path):
    arguments = ("--out", tmp_path / "out", "--backend", "null", "--picture-format", "h264")
    first = replay(small, *arguments)
    recording = tmp_path / "out/detections.mcap"
    again = replay(recording, "--out", tmp_path / "again", "--backend", "null")
    assert again["topic"] == "/camera/image/foxglove"
    assert again["frames_in"] == first["frames_in"] == FRAMES
    assert again["status"]["FAILED"] == 0
    with open_drive(small) as drive, open_drive(recording) as kept:
        for frame, other in zip(drive.frames(), kept.frames(), strict=True):
            assert (other.log_time_ns, other.camera_info) == (frame.log_time_ns, frame.camera_info)
            one, two = read_image(frame.data), read_image(other.data)
            assert (two.stamp_ns, two.frame_id) == (one.stamp_ns, one.frame_id)
            assert (two.width, two.height) == (one.width, one.height)
            pictures = [np.zeros((one.height, one.width, 3), np.uint8) for _ in range(2)]
            for picture, view in zip(pictures, (one, two), strict=True):
                Preprocessor(one.width, one.height, False).write(view, picture, FrameHeader())
            assert np.abs(np.subtract(*pictures, dtype=np.int16)).mean() < 12
    assert replay(small, *arguments)["detections_sha256"] == first["detections_sha256"]


def test_pictures_may_be_left_out_and_a_video_added(small, tmp_path):
    replay(small, "--out", tmp_path / "out", "--backend", "null", "--video")
    video = tmp_path / "out/annotated.mp4"
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    replay(small, "--out", tmp_path / "out", "--backend", "null", "--no-pictures")
    assert not video.exists(), "it would belong to the run before"
    with (tmp_path / "out/detections.mcap").open("rb") as stream:
        topics = {channel.topic for _, channel, _ in make_reader(stream).iter_messages()}
    assert topics == {DETECTIONS_TOPIC, FRAME_REPORT_TOPIC}


def test_speed_is_set_beside_that_of_bare_inference(small, tmp_path):
    speed = replay(small, "--out", tmp_path / "out", "--backend", "null", "--bare")["speed"]
    share = speed["frames_per_s"] / speed["bare_frames_per_s"]
    assert speed["share_of_bare"] == pytest.approx(share, abs=1e-3)


# Real time


def test_real_time_keeps_the_recorded_timing(small, tmp_path):
    begin_s = time.monotonic()
    out = tmp_path / "out"
    summary = replay(small, "--out", out, "--backend", "null", "--mode", "realtime")
    assert time.monotonic() - begin_s > (FRAMES - 1) * PERIOD_NS / 1e9
    assert sum(summary["status"].values()) == summary["frames_in"] == FRAMES
    # On a machine with nothing else to do it is a tenth of this.
    assert summary["timing_error_ms"]["p50"] < 20
    assert sorted(file.name for file in out.iterdir()) == OUTPUTS


def test_what_comes_too_fast_is_let_go_and_reported(small, tmp_path):
    options = ("--out", tmp_path / "out", "--mode", "realtime", "--rate", 100)
    status = replay(small, *options, "--model", "open-s-float", "--threads", 1)["status"]
    assert sum(status.values()) == FRAMES
    assert status["SUPERSEDED"] + status["SKIPPED_LATE"] + status["LATE"] > 0
    reports = read_recording(tmp_path / "out/detections.mcap").reports
    assert all(report.reason for report in reports if report.status in (2, 3))


# Inputs


INPUTS = {
    "compressed pictures": lambda at: write_ros2(at, {"/camera/image": COMPRESSED}, FRAMES),
    "ROS 1": lambda at: write_ros1(at.with_suffix(".bag"), FRAMES),
    "video": lambda at: write_video(at.with_suffix(".mp4")),
    "images": lambda at: write_images(at),
}


def write_video(path):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for index in range(FRAMES):
        writer.write(np.full((48, 64, 3), 30 * index, np.uint8))
    writer.release()
    return path


def write_images(folder):
    folder.mkdir()
    for index in range(FRAMES):
        # Natural order: 10 comes behind 9.
        name = f"frame_{index + 7}.{('jpg', 'png', 'bmp')[index % 3]}"
        cv2.imwrite(str(folder / name), np.full((48, 64, 3), 30 * index, np.uint8))
    return folder


@pytest.mark.usefixtures("no_pages")
@pytest.mark.parametrize("kind", INPUTS)
def test_input(kind, tmp_path):
    summary = replay(INPUTS[kind](tmp_path / "drive"), "--out", tmp_path / "o", "--backend", "null")
    assert summary["status"]["OK"] == FRAMES
    assert summary["lost_in_bag"] == 0


def test_several_drives_and_every_camera_of_them(tmp_path):
    one = write_ros2(tmp_path / "one", {"/front": IMAGE, "/rear": COMPRESSED}, FRAMES)
    options = ("--out", tmp_path / "out", "--topic", "all", "--backend", "null")
    drives = replay(one, write_ros2(tmp_path / "two", {"/front": IMAGE}, 3), *options)["drives"]
    assert {name: one["frames_in"] for name, one in drives.items()} == {
        "one.front": FRAMES,
        "one.rear": FRAMES,
        "two": 3,
    }
    for name in drives:
        assert {*OUTPUTS} <= {file.name for file in (tmp_path / "out" / name).iterdir()}
    assert list(json.loads((tmp_path / "out/summary.json").read_text())["drives"]) == list(drives)


def test_a_drive_that_cannot_be_read_does_not_end_the_others(small, tmp_path):
    for name in ("empty", "void"):
        (tmp_path / f"{name}.mp4").touch()
    bags = (tmp_path / "empty.mp4", small, "--out", tmp_path / "out", "--backend", "null")
    for topics in ((), ("--topic", "all")):
        whole = replay(*bags, *topics, status=2)
        assert list(whole["drives"]) == ["drive"]
        assert whole["drives"]["drive"]["frames_in"] == FRAMES
        assert list(whole["failed"]) == ["empty"]
        assert str(tmp_path / "empty.mp4") in whole["failed"]["empty"]
        assert not (tmp_path / "out/empty").exists()
    assert "empty.mp4" in unusable(bags[0], *bags[2:])
    assert not replay(bags[0], tmp_path / "void.mp4", *bags[2:], status=2)["drives"]


def test_a_drive_cut_off_is_replayed_up_to_there_and_the_loss_counted(tmp_path):
    bag = write_ros2(tmp_path / "drive", {"/camera/image_raw": IMAGE}, 20)
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    summary = replay(bag, "--out", tmp_path / "out", "--backend", "null")
    assert 5 < summary["frames_in"] < 15
    assert summary["frames_in"] + summary["lost_in_bag"] == 20
    assert any("cut off" in warning for warning in summary["warnings"])


def test_image_files_that_cannot_be_read_fail_alone(tmp_path):
    """Not there, a folder, of a size that no camera has, of other samples, and no image at all."""
    folder = write_images(tmp_path / "drive")
    png, bmp = (bytearray(next(folder.glob(f"*.{s}")).read_bytes()) for s in ("png", "bmp"))
    for name, size in (("frame_1.png", (0, 48)), ("frame_2.png", (640, 0x7FFFFFFF))):
        png[16:24] = struct.pack(">II", *size)
        (folder / name).write_bytes(png)
    bmp[18:26] = struct.pack("<2i", 60_000, 60_000)
    (folder / "frame_3.jpg").symlink_to("nowhere")
    (folder / "frame_4.jpg").mkdir()
    (folder / "frame_13.bmp").write_bytes(bmp)
    cv2.imwrite(str(folder / "frame_14.tiff"), np.full((48, 64, 3), 0.5, np.float32))
    (folder / "frame_15.jpg").write_bytes(b"not a picture")
    summary = replay(folder, "--out", tmp_path / "out", "--backend", "null")
    assert (summary["status"]["OK"], summary["status"]["FAILED"]) == (FRAMES, 6)
    warnings = "\n".join(summary["warnings"])
    for warning in (
        "image files have no times",
        "frame_3.jpg cannot be read: No such file",
        "frame_13.bmp cannot be decoded",
        "frame_14.tiff has samples of float32; convert them to 8 or 16 bits",
    ):
        assert warning in warnings


# Golden


def test_golden_is_kept_compared_and_rewritten(street, tmp_path):
    golden, out = tmp_path / "golden.json", tmp_path / "out"
    options = (street, "--out", out, "--frames", 40, "--golden", golden)
    assert "cannot be read" in unusable(*options)
    replay(*options, "--update")
    exact = ("--box-iou", 1, "--score-tolerance", 0)
    for tolerance in ((), exact):  # a golden has fewer digits than what it is compared with
        found = replay(*options, *tolerance)["golden"]
        assert (found["changes"], found["doubtful"]) == ([], 0)

    content = json.loads(golden.read_text())
    frames = content["drives"]["sample_sqlite3"]
    index = next(i for i, (_, things) in enumerate(frames) if things)
    frames[index][1].append(["bus", 0.9, 10, 10, 200, 150])
    golden.write_text(json.dumps(content))
    found = replay(*options, status=1)["golden"]
    assert found["kinds"] == {"vanished": 1}
    gone = f"frame {index} ({index * 0.04:.2f} s): bus 0.90 at 10,10 (190x140) vanished"
    assert found["lines"] == [gone]
    assert "vanished" in (out / "report.html").read_text().split("<h2>Against the golden")[1]
    # One that rounding may have taken is shown, in the terminal, too, and is no change.
    frames[index][1][-1][1] = 0.26
    golden.write_text(json.dumps(content))
    shown = CliRunner().invoke(app, ["replay", *map(str, options)])
    assert shown.exit_code == 0
    assert "1 object near the score threshold came or went" in shown.output

    replay(*options, "--update")
    assert replay(*options)["golden"]["changes"] == []
    assert [file.name for file in tmp_path.glob("golden*")] == ["golden.json"]


def test_a_golden_is_not_written_from_drives_of_which_one_failed(small, tmp_path):
    golden = tmp_path / "golden.json"
    options = ("--out", tmp_path / "out", "--backend", "null", "--golden", golden, "--update")
    (tmp_path / "empty.mp4").touch()
    blank = write_images(tmp_path / "blank")
    for file in blank.iterdir():
        file.write_bytes(b"not a picture")
    golden.write_text("the one before")
    for unusable_drive in (tmp_path / "empty.mp4", blank):
        replay(small, unusable_drive, *options, status=2)
        assert golden.read_text() == "the one before"


def test_golden_of_the_sample_drive(street, root, tmp_path):
    """What the model finds on the sample drive, in integers: the same on every machine.

    Where it is meant to change: perception replay bags/sample_sqlite3 --backend golden --every 5
    --golden test/replay/golden/sample.json --update
    """
    golden = root / "test/replay/golden/sample.json"
    arguments = ("--backend", "golden", "--every", 5, "--golden", golden)
    assert replay(street, "--out", tmp_path / "out", *arguments)["golden"]["frames"] == 12


# Labels


def test_accuracy_against_labels(street, tmp_path):
    """Labels made of what was found: all of it is right."""
    replay(street, "--out", tmp_path / "out")
    recording = read_recording(tmp_path / "out/detections.mcap")
    names = sorted({label for found in recording.detections.values() for label in found.labels})
    size = recording.reports[0].source_width, recording.reports[0].source_height
    labels = {}
    for report in recording.reports[30:50]:
        found, lines = recording.found(report), labels.setdefault(f"frame_{report.sequence:04}", [])
        for label, box in zip(found.labels, found.boxes, strict=True):
            x1, y1, x2, y2 = np.clip(box, 0, [*size, *size]) / [*size, *size]
            centre = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
            lines.append(f"{names.index(label)} " + " ".join(f"{value:.6f}" for value in centre))
    write_labels(tmp_path / "set", labels, names, size)
    found = replay(street, "--out", tmp_path / "again", "--labels", tmp_path / "set")["accuracy"]
    assert found["frames"] == 20
    assert found["map50"] == pytest.approx(1.0, abs=0.01)
    # A frame that never came to the network has found nothing, even where nobody knows its size.
    unseen = {report.sequence for report in recording.reports[30:50:2]}
    recording.reports[:] = [
        replaced(one, source_width=0, source_height=0) if one.sequence in unseen else one
        for one in recording.reports
    ]
    for one in recording.reports:
        if one.sequence in unseen:
            recording.detections.pop(one.stamp_ns, None)
    with open_drive(street) as drive:
        half = accuracy(load_model("open-n"), drive, recording, read_set(tmp_path / "set"), "")
    assert half["frames"] == 20
    assert half["objects"] == found["objects"]
    assert half["map50"] < 0.8
    assert "Accuracy on" in (tmp_path / "again/report.html").read_text()


def test_labels_recorded_in_the_bag(street, tmp_path):
    """A run's own recording has frames and detections: a drive with labels."""
    replay(street, "--out", tmp_path / "out")
    options = ("--topic", "/camera/image/compressed", "--labels-topic", DETECTIONS_TOPIC)
    drive = tmp_path / "out/detections.mcap"
    # JPEG costs a little.
    assert replay(drive, "--out", tmp_path / "again", *options)["accuracy"]["map50"] > 0.5
    options = ("--out", tmp_path / "x", "--labels-topic", "/camera/image/compressed")
    assert "is a sensor_msgs" in unusable(drive, *options)


def test_labels_of_two_cameras_are_not_mixed_up(small, tmp_path):
    car = ["0 0.5 0.5 0.2 0.2"]
    labels = write_labels(tmp_path / "set", {"front/000000": car, "rear/000000": car})
    options = ("--out", tmp_path / "out", "--backend", "null", "--labels", labels)
    problem = unusable(small, *options)
    assert "images/front/000000.png and" in problem
    assert "images/rear/000000.png belong to frame 0" in problem


def test_frames_and_labels_without_stamps(tmp_path):
    """By number labels are each frame's own; by the stamp 0 that all have, nobody's."""
    drive = tmp_path / "drive"
    car = Detections(np.array([[8, 8, 40, 40]], "f4"), np.ones(1, "f4"), np.zeros(1, "i8"))
    label = write_detection_array(0, b"camera", car, (b"car",))
    with Rosbag2Writer(drive, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        images = writer.add_connection("/camera/image_raw", IMAGE, typestore=STORE)
        labels = writer.add_connection("/labels", DETECTIONS, typestore=typestore())
        for index in range(FRAMES):
            one = message(IMAGE, index)
            one.header.stamp.sec = one.header.stamp.nanosec = 0
            log_time_ns = START_NS + index * PERIOD_NS
            writer.write(images, log_time_ns, bytes(STORE.serialize_cdr(one, IMAGE)))
            writer.write(labels, log_time_ns, label)
    options = ("--backend", "null", "--out", tmp_path / "out")
    problem = unusable(drive, *options, "--labels-topic", "/labels")
    assert "has the stamp 0, as have frames 0 and 1" in problem
    labels = write_labels(tmp_path / "set", dict.fromkeys("02", ["0 0.5 0.5 0.2 0.2"]))
    found = replay(drive, *options, "--labels", labels)["accuracy"]
    assert (found["frames"], found["objects"]) == (2, 2)
    recording = read_recording(tmp_path / "out/detections.mcap", by_number=True)
    assert len(recording.detections) == len(recording.reports) == FRAMES


# Two runs


def test_two_runs_side_by_side(street, tmp_path):
    for name, threshold in (("a", 0.25), ("b", 0.5)):
        replay(street, "--out", tmp_path / name, "--score-threshold", threshold)
    runs = (tmp_path / "a", tmp_path / "b")
    result = replay("--compare", *runs, "--out", tmp_path / "ab")
    before, after = result["figures"]["objects"]
    assert before > after
    assert not result["identical_messages"]
    assert json.loads((tmp_path / "ab/compare.json").read_text()) == result
    page = (tmp_path / "ab/compare.html").read_text()
    assert "The runs differ in score threshold: 0.25 and 0.5. Objects differ in" in page
    same = replay("--compare", runs[0], runs[0], "--out", tmp_path / "aa")
    assert same["identical_messages"]
    assert same["objects"]["changes"] == []
    summary = json.loads((runs[0] / "summary.json").read_text())
    shutil.copytree(runs[0], tmp_path / "c")
    (tmp_path / "c/summary.json").write_text(json.dumps({**summary, "bag": "[/another]"}))
    other = replay("--compare", runs[0], tmp_path / "c", "--out", tmp_path / "ac")
    Console(file=io.StringIO()).print(comparison_table(other))
    page = (tmp_path / "ac/compare.html").read_text()
    assert f"differ in bag: {street} and [/another]. Both runs wrote the same messages" in page
    # An object near the threshold, on one side only, makes other messages and no change.
    near = {**same, "identical_messages": False, "objects": {**same["objects"], "doubtful": 8}}
    Console(file=(shown := io.StringIO()), width=400).print(comparison_table(near))
    assert "same objects, apart from 8 objects near the score threshold" in shown.getvalue()
    problem = unusable("--compare", runs[0], tmp_path, "--out", tmp_path / "x")
    assert f"{tmp_path} is not the folder of one run" in problem
    (runs[1] / "summary.json").write_text(json.dumps({**summary, "path": "ROS 2 (shm)"}))
    problem = unusable("--compare", *runs, "--out", tmp_path / "x")
    assert "it is of ROS 2 (shm), where frames have other times each run" in problem


# Bad input and interruption


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a recorded drive"),
        (("{bag}", "--rate", "2"), "--rate needs --mode realtime"),
        (("{bag}", "--update"), "--update needs --golden"),
        (("{bag}", "--mode", "realtime", "--golden", "g"), "need --mode lockstep"),
        (("{bag}", "--mode", "realtime", "--second-look", "1"), "needs --mode lockstep"),
        (("{bag}", "--golden", "{bag}/metadata.yaml"), "is damaged (Invalid JSON"),
        (("{bag}", "--labels", "/nowhere"), "/nowhere does not exist"),
        (("{bag}", "--calibration", "/nowhere"), "/nowhere"),
        (("{bag}", "/nowhere", "--backend", "null"), "/nowhere does not exist"),
        (("{bag}", "--video", "--no-pictures"), "--no-pictures leaves out"),
        (("{bag}", "--out", ""), "names the current folder"),
    ],
)
def test_unusable_input_is_named_and_leaves_nothing(small, tmp_path, arguments, said):
    out = () if "--out" in arguments else ("--out", tmp_path / "out")
    assert said in unusable(*(text.format(bag=small) for text in arguments), *out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("mode", "number"),
    [("lockstep", signal.SIGINT), ("realtime", signal.SIGINT), ("lockstep", signal.SIGTERM)],
)
def test_interrupted_it_leaves_nothing(street, tmp_path, mode, number):
    arguments = ["replay", street, street, "--mode", mode, "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "perception_nodes", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    until(lambda: list(tmp_path.glob("out/*/.part-*")), 60)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert not list(tmp_path.rglob(".part-*"))
    assert not list(tmp_path.rglob("*.part"))


def test_the_drive_that_ran_to_its_end_stays_as_it_was(small, tmp_path):
    """What a failed run would have replaced is still there."""
    out = tmp_path / "out"
    replay(small, "--out", out, "--backend", "null")
    before = {file.name: sha256(file) for file in out.iterdir()}
    unusable(small, "--out", out, "--backend", "null", "--labels-topic", "/nope")
    assert {file.name: sha256(file) for file in out.iterdir()} == before


def test_two_runs_look_at_the_same_regions_and_write_the_same_bytes(root, tmp_path, no_pages):
    drive = root / "bags/sample_sqlite3", "--every", 12, "--golden", tmp_path / "golden.json"
    twice = "--second-look", 2
    first, second = (
        replay(*drive, *twice, *also, "--out", tmp_path / name, status=0)
        for name, also in (("one", ["--update"]), ("two", ["--box-iou", 1]))
    )
    assert first["detections_sha256"] == second["detections_sha256"]
    assert second["golden"]["changes"] == [] and first["parameters"]["second_look"] == 2
    assert json.loads((tmp_path / "golden.json").read_text())["made_with"]["second_look"] == 2
    recording = read_recording(tmp_path / "one" / "detections.mcap")
    assert recording.reports[0].looks == (), "where to look follows from the frame before"
    for report in recording.reports[1:]:
        (left, top, *size, cost), other = report.looks
        assert (size, cost) == ([416, 256], 0) and left <= 640 - 416 and top <= 272 - 256
        assert other[:2] != (left, top)

    whole = replay(*drive, "--out", tmp_path / "none")
    assert any("second_look 2, now None" in note for note in whole["warnings"])
    assert whole["detections_sha256"] != first["detections_sha256"]
