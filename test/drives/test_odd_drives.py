"""Drives whose log times or calibrations are not as they should be, and goldens of them."""

import json

import av
import cv2
import numpy as np
import pytest
from commands import replay, unusable
from drives import (
    CAMERA_INFO,
    IMAGE,
    PERIOD_NS,
    START_NS,
    STORE,
    message,
    serialized,
    write_messages,
)

from perception_nodes.drives.bag import BagError, open_drive
from perception_nodes.evaluation.frames import FrameSource
from perception_nodes.networks.model import InputSpec
from perception_nodes.report.recording import FRAME_REPORT_TOPIC, read_messages

FRAMES = 8
NULL = ("--backend", "null")


def write_drive(file, times_ns, infos=None, image=serialized, topic="/camera/image_raw"):
    """Frames logged at these times; before each the calibration of its number, if there is one."""

    def messages():
        for index, time_ns in enumerate(times_ns):
            if infos and index in infos:
                yield "/camera/camera_info", time_ns, infos[index]
            yield topic, time_ns, image(IMAGE, index)

    topics = {topic: IMAGE, "/camera/camera_info": CAMERA_INFO}
    return write_messages(file, topics, messages())


def times_ns(*numbers):
    return [START_NS + number * PERIOD_NS for number in numbers]


def calibration(distortion=-0.3, focal=60.0, width=64, height=48):
    info = message(CAMERA_INFO, 0, width, height)
    info.d = np.array([distortion, 0, 0, 0, 0], np.float64)
    info.k = np.array([focal, 0, width / 2, 0, focal, height / 2, 0, 0, 1], np.float64)
    return bytes(STORE.serialize_cdr(info, CAMERA_INFO))


# Log times


def test_frames_of_one_log_time_are_told_apart(root, tmp_path):
    """Two frames of the sample at each time: its golden, made and compared, differs in nothing."""
    with open_drive(root / "bags/sample_sqlite3") as drive:
        frames = [frame.data for frame in drive.frames()][::8]
    times = times_ns(*(index // 2 for index in range(len(frames))))
    drive = write_drive(tmp_path / "equal.mcap", times, image=lambda _, index: frames[index])
    options = ("--backend", "golden", "--golden", tmp_path / "golden.json")
    assert replay(drive, "--out", tmp_path / "a", *options, "--update")["detections"] > 0
    again = replay(drive, "--out", tmp_path / "b", *options)
    assert again["golden"]["changes"] == []
    assert again["golden"]["frames"] == len(frames)
    compared = replay("--compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "ab")
    assert compared["objects"]["changes"] == []
    assert compared["identical_messages"]
    # Another file in its place, whatever the summary says.
    replay(drive, "--out", tmp_path / "c", *NULL)
    (tmp_path / "c/detections.mcap").replace(tmp_path / "b/detections.mcap")
    compared = replay("--compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "ab")
    assert not compared["identical_messages"]
    assert compared["objects"]["changes"]


def test_a_frame_listed_twice_in_a_golden_is_missing_once(tmp_path):
    drive = write_drive(tmp_path / "drive.mcap", times_ns(0, 1))
    golden = tmp_path / "golden.json"
    options = (*NULL, "--golden", golden)
    replay(drive, "--out", tmp_path / "out", *options, "--update")
    content = json.loads(golden.read_text())
    content["drives"]["drive"].append(content["drives"]["drive"][0])
    golden.write_text(json.dumps(content))
    summary = replay(drive, "--out", tmp_path / "out", *options, status=1)
    assert summary["golden"]["kinds"] == {"frame is missing": 1}


@pytest.mark.parametrize("jump", [10**18, -(10**18), 6 * 10**9])
def test_a_jump_of_the_log_time_is_not_waited_for(tmp_path, jump):
    """Neither decades nor a step back into another order: a mistaken clock is named."""
    times = times_ns(0, 1, 2)
    times += [time_ns + jump for time_ns in times_ns(3, 4)]
    drive = write_drive(tmp_path / "drive.mcap", times)
    out = tmp_path / "out"
    summary = replay(drive, "--mode", "realtime", "--out", out, "--no-pictures", *NULL)
    assert summary["frames_in"] == 5
    assert any("the log time jumps by" in warning for warning in summary["warnings"])
    reports = [m for m in read_messages(out / "detections.mcap") if m.topic == FRAME_REPORT_TOPIC]
    assert sorted(m.log_time_ns for m in reports) == sorted(times)


def test_the_film_has_the_times_of_the_drive(tmp_path):
    """Gaps of 3 s, one of them the last, two frames of one time, and a jump that is left out."""
    jumped = (time_ns + 10**18 for time_ns in times_ns(63, 123))
    times = [*times_ns(0, 1, 61, 61, 62), *jumped]
    drive, file = write_drive(tmp_path / "drive.mcap", times), tmp_path / "out/annotated.mp4"
    replay(drive, "--out", file.parent, "--video", *NULL)
    with av.open(str(file)) as film:
        shown_us = [round(frame.time * 1e6) for frame in film.decode(video=0)]
        stream = film.streams.video[0]
        assert stream.duration * stream.time_base >= shown_us[-1] / 1e6
    period_us = PERIOD_NS // 1000
    shown_periods = np.array([0, 1, 61, 61, 62, 63, 123])
    # The fourth one is a microsecond behind the third.
    assert shown_us == [*(shown_periods * period_us + (np.arange(7) > 2))]
    replay(drive, "--out", file.parent, "--video", "--every", 2, "--frames", 3, *NULL)
    film, shown_us = cv2.VideoCapture(str(file)), []
    while film.read()[0]:
        shown_us.append(round(1000 * film.get(cv2.CAP_PROP_POS_MSEC)))
    assert shown_us == [0, 61 * period_us, 62 * period_us]


# Calibrations


@pytest.mark.parametrize(
    ("infos", "said"),
    [
        ({0: calibration(), 4: calibration(0.2)}, "the CameraInfo changes once, first at frame 4"),
        ({0: calibration(0, 0.0), 3: calibration()}, "not calibrated (K = 0)"),
        ({0: calibration(width=1280, height=720)}, "is of 1280x720, and frames are 64x48"),
        ({7: calibration()}, "the first CameraInfo was logged 0.3 s behind the first frame"),
        ({0: calibration(), 2: calibration()[:50]}, "the CameraInfo of frame 2 is not used, what"),
    ],
)
def test_a_calibration_that_changes_or_is_unusable_is_named(tmp_path, infos, said):
    drive = write_drive(tmp_path / "drive.mcap", times_ns(*range(FRAMES)), infos)
    summary = replay(drive, "--out", tmp_path / "out", "--no-pictures", *NULL)
    assert said in " ".join(summary["warnings"])


@pytest.mark.parametrize("topic", ["/camera/image_raw", "/camera/image_rect_color"])
def test_images_that_are_rectified_already_are_not_rectified_again(tmp_path, topic):
    file = tmp_path / "drive.mcap"
    drive = write_drive(file, times_ns(*range(FRAMES)), {0: calibration()}, topic=topic)
    with open_drive(drive) as opened:
        infos = {frame.camera_info for frame in opened.frames()}
    assert infos == ({calibration()} if topic == "/camera/image_raw" else {None})


def test_a_calibration_file_of_another_size_is_told(root, tmp_path):
    drive = write_drive(tmp_path / "drive.mcap", times_ns(*range(FRAMES)))
    file = root / "calibration/camera/example_wide_1920x1280.yaml"
    out = tmp_path / "out"
    summary = replay(drive, "--out", out, "--calibration", file, "--no-pictures", *NULL)
    assert "the calibration is of 1920x1280" in " ".join(summary["warnings"])


def test_a_calibration_that_stays_is_not_worth_a_word(tmp_path):
    infos = {index: calibration() for index in range(FRAMES)}
    drive = write_drive(tmp_path / "drive.mcap", times_ns(*range(FRAMES)), infos)
    assert replay(drive, "--out", tmp_path / "out", "--no-pictures", *NULL)["warnings"] == []


def test_frames_are_rectified_as_if_the_drive_had_been_cut_where_the_calibration_changes(tmp_path):
    """The halves on their own give the messages of the whole."""
    infos = {0: calibration(), 4: calibration(0.2, 90.0)}
    whole = write_drive(tmp_path / "whole.mcap", times_ns(*range(FRAMES)), infos)
    file, info = tmp_path / "later.mcap", {0: infos[4]}
    later = write_drive(file, times_ns(*range(4)), info, lambda kind, n: serialized(kind, n + 4))
    with open_drive(whole) as drive:
        assert drive.frame_count == FRAMES
    image = InputSpec(name="image", width=64, height=48, layout="NHWC", color="BGR", dtype="uint8")
    pixels = [p.copy() for _, p in FrameSource([whole], [], image).frames()]
    again = [p.copy() for _, p in FrameSource([later], [], image).frames()]
    assert np.array_equal(pixels[4:], again)
    assert not np.array_equal(pixels[0], pixels[4])


# What a run says of itself


def test_work_over_the_deadline_is_no_miss_under_simulated_time(tmp_path):
    drive = write_drive(tmp_path / "drive.mcap", times_ns(*range(FRAMES)))
    runs = [tmp_path / "a", tmp_path / "b"]
    for run, deadline_ms in zip(runs, (0.1, 10_000), strict=True):
        replay(drive, "--out", run, "--no-pictures", "--deadline-ms", deadline_ms, *NULL)
    summary = json.loads((runs[0] / "summary.json").read_text())
    assert summary["miss_rate"] is None
    assert summary["over_deadline"] == FRAMES
    figures = replay("--compare", *runs, "--out", tmp_path / "ab")["figures"]
    assert figures["frames with work over the deadline"] == [FRAMES, 0]


def test_a_run_whose_frames_all_failed_has_not_succeeded(tmp_path):
    broken = b"\x00\x01\x00\x00no image"
    drive = write_drive(tmp_path / "drive.mcap", times_ns(0, 1), image=lambda *_: broken)
    summary = replay(drive, "--out", tmp_path / "out", *NULL, status=2)
    assert summary["status"]["FAILED"] == summary["frames_in"] == 2


# Bad goldens and summaries


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("0.25", '"0.25"'), "score_threshold: it must be a valid n"),
        (lambda text: text.replace("0.25", "9" * 400), "score_threshold: it must be"),
        (lambda text: text.replace(str(START_NS), "9" * 400), "drives.drive.0.0: it must be"),
        (lambda _: "[" * 100_000, "Invalid JSON"),
    ],
)
def test_a_damaged_golden_is_named(tmp_path, change, said):
    drive = write_drive(tmp_path / "drive.mcap", times_ns(0, 1))
    golden = tmp_path / "golden.json"
    options = (drive, "--out", tmp_path / "out", *NULL, "--golden", golden)
    replay(*options, "--update")
    golden.write_text(change(golden.read_text()))
    assert said in unusable(*options)


def test_a_comparison_that_cannot_be_made_is_named(tmp_path):
    drive = write_drive(tmp_path / "drive.mcap", times_ns(0, 1))
    run = tmp_path / "run"
    replay(drive, "--out", run, *NULL)
    summary = json.loads((run / "summary.json").read_text()) | {"score_threshold": "y"}
    (run / "summary.json").write_text(json.dumps(summary))
    problem = unusable("--compare", run, run, "--out", tmp_path / "ab")
    assert "score_threshold 'y' is no number" in problem


# Images


def test_an_image_a_pattern_and_what_a_shell_makes_of_it_are_drives(tmp_path):
    for name in ("b10.png", "b9.png", "c.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((48, 64, 3), np.uint8))

    def files(path):
        with open_drive(path) as drive:
            return [file.name for file in drive.frame_files]

    assert files(tmp_path / "c.jpg") == ["c.jpg"]
    assert files(tmp_path / "b*.png") == ["b9.png", "b10.png"]
    assert files(f"{tmp_path}/**/c.jpg") == ["c.jpg"]
    with pytest.raises(BagError, match="does not exist"):
        open_drive(tmp_path / "*.bmp")
    out, images = tmp_path / "out", [tmp_path / "b9.png", tmp_path / "b10.png"]
    assert replay(*images, "--boxes", "csv", "--out", out, *NULL)["frames_in"] == 2
    assert (out / "boxes.csv").is_file()
