"""Against the kernel's virtual cameras: formats, gaps, unplugging, user pointers, killed processes.

Latency in an emulated machine means nothing; pixels and accounting do. `make camera-test` boots it.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import cv2
import numpy as np
import pytest
from viewer import Viewer
from virtual_camera import DAMAGED, DEVICE, DROPPED, HDMI, SECOND, control, unplugged

from perception_nodes.cameras import v4l2_kernel as kernel
from perception_nodes.cameras.camera_source import CameraError
from perception_nodes.cameras.channel import camera_reader, view_camera_frame
from perception_nodes.cameras.v4l2_devices import V4l2Settings, list_devices
from perception_nodes.cameras.v4l2_source import V4l2Source
from perception_nodes.core.frame import FrameHeader
from perception_nodes.preprocess.cpu import Preprocessor

pytestmark = [
    pytest.mark.skipif("VIVID_MACHINE" not in os.environ, reason="no cameras: make camera-test"),
    pytest.mark.timeout(300),
]
UNCOMPRESSED = [code.decode() for code, name in kernel.ENCODINGS.items() if name != "jpeg"]
SIZE = (640, 360)
TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 300.0
"""Loading the command line takes a minute in the emulated machine."""
# 75 % bars in BGR: white, yellow, cyan, green, magenta, red, blue, black.
BARS = np.array([[b, g, r] for g in (191, 0) for r in (191, 0) for b in (191, 0)], float)
TOLERANCE = 12


def settings(pixel_format="NV12", device=DEVICE, size=SIZE, **others):
    others = {"input": 0} | others
    return V4l2Settings(device, *size, pixel_format=pixel_format, **others)


@pytest.fixture
def film(join):
    """Feeds a device's frames to a reader."""
    feeds = []

    def start(wanted, camera="front", look=lambda sample: None):
        viewer = Viewer(join, V4l2Source(wanted), look, camera)
        feeds.append(viewer.feed)
        viewer.until(lambda: viewer.log)

        def take(count):
            """So many further frames."""
            before = len(viewer.found)
            viewer.until(lambda: len(viewer.found) >= before + count, TIMEOUT_S)
            return viewer.found[before:]

        return viewer, take

    yield start
    for feed in feeds:
        feed.close()


def colours(sample):
    """The middle of each colour bar after preprocessing, BGR."""
    image = np.empty((256, 416, 3), np.uint8)
    placed = FrameHeader()
    view = view_camera_frame(sample.header, sample.payload)
    Preprocessor(416, 256, undistort=False).write(view, image, placed)
    return np.array([image[128, int(416 * (bar + 0.5) / 8)] for bar in range(8)], float)


def test_both_cameras_are_listed_with_modes_and_controls():
    found = {device.path: device for device in list_devices()}
    assert list(found) == [DEVICE, SECOND]
    assert {mode.code for mode in found[DEVICE].modes} >= {b"NV12", b"YUYV", b"BGR3", b"GREY"}
    assert {mode.code for mode in found[SECOND].modes} >= {b"NV12", b"YUYV"}
    assert "brightness" in {entry.name for entry in found[DEVICE].controls}


@pytest.mark.parametrize(
    ("device", "code", "user_pointers"),
    [
        *((DEVICE, code, True) for code in UNCOMPRESSED),
        *((DEVICE, code, False) for code in ("NV12", "YU12", "BGR3", "RG10")),
        *((SECOND, code, True) for code in ("NV12", "NV21", "YUYV", "BGR3")),
        (SECOND, "NV12", False),
    ],
)
def test_each_format_has_the_colours_of_the_pattern(film, device, code, user_pointers):
    offered = {mode.code for mode in list_devices()[device == SECOND].modes}
    if code.encode() not in offered:
        pytest.skip(f"vivid has no {code}")
    viewer, take = film(settings(code, device, user_pointers=user_pointers), look=colours)
    assert ("no copy" in viewer.log[0]) == user_pointers
    found = take(1)[0].looked
    expected = BARS
    if code == "GREY" or code.startswith("Y1"):  # luma of Rec. 709, as vivid makes it
        expected = np.repeat(BARS @ [[0.0722], [0.7152], [0.2126]], 3, axis=1)
    assert np.abs(found - expected).max() <= TOLERANCE, found


SIGNAL, NO_SIGNAL, OTHER_TIMINGS = 0, 1, 4
"""Values of "DV Timings Signal Mode"."""


def test_an_input_without_a_signal_is_gone_with_the_cause_until_it_has_one(film):
    viewer, take = film(settings(size=(0, 0), input=HDMI))
    take(2)
    control("DV Timings Signal Mode", NO_SIGNAL)
    try:
        viewer.until(lambda: len(viewer.log) > 1, TIMEOUT_S)
        assert f"no signal on input {HDMI} (HDMI" in viewer.log[-1]
        assert f"no signal on input {HDMI} (HDMI" in viewer.notices[-1][1]
    finally:
        control("DV Timings Signal Mode", SIGNAL)
    take(2)
    assert "is gone" not in viewer.log[-1]


def test_a_signal_of_another_timing_is_taken_over(film):
    viewer, take = film(settings(size=(0, 0), input=HDMI))
    take(2)
    control("DV Timings", 2)  # 720x480p
    control("DV Timings Signal Mode", OTHER_TIMINGS)
    try:
        viewer.until(lambda: any("another format" in line for line in viewer.log), TIMEOUT_S)
        take(2)
    finally:
        control("DV Timings Signal Mode", SIGNAL)


def test_controls_are_set_by_name_and_read_back_also_while_it_films(film):
    control("Gain, Automatic", 1)
    viewer, take = film(settings(input=0, controls="gain=57,contrast=99"))
    take(1)
    assert [control(one) for one in ("Gain", "Gain, Automatic", "Contrast")] == [57, 0, 99]
    source = viewer.feed._source
    source.set_controls("gain_automatic=1,contrast=128")
    assert [control(one) for one in ("Gain, Automatic", "Contrast")] == [1, 128]
    with pytest.raises(CameraError, match="gain must be from 0 to 255, and not 256"):
        source.set_controls("gain=256")
    with pytest.raises(CameraError, match="no control 'gian'; it has .*brightness"):
        source.set_controls("gian=5")
    take(1)


def test_frames_are_dated_by_the_driver_and_counted_without_gaps(film):
    viewer, take = film(settings())
    numbers, lost, stamps, *_ = zip(*take(15), strict=True)
    assert (np.diff(stamps) > 0).all()
    # The emulated machine is slow, and vivid's stamps lie a little in the future.
    assert abs(time.time_ns() - stamps[-1]) < 5e9
    assert list(np.diff(numbers)) == [1 + gap for gap in lost[1:]]
    assert viewer.feed.lost == sum(lost)


def test_what_the_driver_drops_or_damages_is_counted_as_lost(film):
    viewer, take = film(settings())
    take(3)
    before = viewer.feed.lost
    control(DROPPED, 60)
    try:
        take(8)
    finally:
        control(DROPPED, 0)
    assert viewer.feed.lost > before


def test_a_damaged_frame_is_counted_though_the_next_one_comes_after_a_timeout(film):
    """At 5 Hz, where a step waits for 100 ms."""
    viewer, take = film(settings(rate_hz=5.0))
    take(2)
    before = viewer.feed.lost
    control(DAMAGED, 1)
    assert sum(seen.lost for seen in take(8)) == viewer.feed.lost - before >= 1


def test_an_unplugged_camera_is_logged_and_comes_back(film):
    viewer, take = film(settings())
    last = take(3)[-1].number
    with unplugged():
        viewer.until(lambda: len(viewer.log) > 1, TIMEOUT_S)
        assert "camera front is gone" in viewer.log[1]
    assert take(2)[0].number == last + 1
    assert len(viewer.log) == 3


def test_two_cameras_film_side_by_side(film):
    feeds = [film(settings(device=device), name) for device, name in
             ((DEVICE, "front"), (SECOND, "rear"))]  # fmt: skip
    for _, take in feeds:
        assert [seen.luma.shape[1] for seen in take(5)] == [640] * 5


def test_a_camera_that_another_process_uses_is_refused(film):
    film(settings())
    with closing(V4l2Source(settings())) as second, pytest.raises(CameraError, match="another"):
        second.open()


def test_a_larger_size_after_a_smaller_one_gets_larger_slots(join):
    for size in ((640, 360), (1280, 720)):
        viewer = Viewer(join, V4l2Source(settings(size=size)), lambda s: s.header.size_bytes)
        seen = viewer.take(1, TIMEOUT_S)[-1]
        assert seen.luma.shape == size[::-1]
        assert seen.looked == size[0] * size[1] * 3 // 2


@pytest.mark.timeout(700)
def test_after_a_kill_the_driver_writes_into_no_frame_that_somebody_holds(join, domain):
    """Buffers that the driver has are never those that were sent, also when the process is killed:
    frames that a reader holds keep their bytes, while the next process films with the same device.
    """
    control("Horizontal Movement", 6)  # so that each frame differs from the last
    reader = camera_reader(join("reader"), "front")
    command = [sys.executable, "-m", "perception_nodes", "camera", f"v4l2:{DEVICE}",
               "--size", "640x360", "--format", "NV12"]  # fmt: skip
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}

    def start():
        return subprocess.Popen(command, env=environment)

    def take(count):
        found, until_s = [], time.monotonic() + COMMAND_TIMEOUT_S
        while len(found) < count and time.monotonic() < until_s:
            reader.wait(100.0)
            if (sample := reader.receive()) is not None:
                found.append(sample)
        assert len(found) == count
        return found

    first = start()
    try:
        held = take(3)
        before = [sample.payload.copy() for sample in held]
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    second = start()
    try:
        fresh = 0
        while fresh < 10:
            (sample,) = take(1)
            # The first process's last frames may still be waiting.
            fresh += sample.source != held[0].source
            sample.release()
    finally:
        second.send_signal(signal.SIGINT)
        second.wait()
        control("Horizontal Movement", 3)
    for sample, bytes_before in zip(held, before, strict=True):
        np.testing.assert_array_equal(sample.payload, bytes_before)


def test_jpeg_is_what_it_says(film):
    if b"MJPG" not in {mode.code for mode in list_devices()[0].modes}:
        pytest.skip("vivid has no MJPG")

    def decoded(sample):
        return cv2.imdecode(sample.payload[: sample.header.size_bytes], cv2.IMREAD_COLOR)

    _, take = film(settings("MJPG"), look=decoded)
    assert take(1)[0].looked.shape == (360, 640, 3)
